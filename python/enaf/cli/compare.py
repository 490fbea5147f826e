# SPDX-License-Identifier: Apache-2.0
"""`enaf compare`: images over each other in one HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path

from enaf.cli import DONE, UsageError
from enaf.cli.eval import message_of

HELP = "Write one offline HTML page that compares two or three images: divider, zoom, exit map, PSNR and SSIM."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line."""
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="two or three images of one scene")
    parser.add_argument("-o", "--output", metavar="PAGE", type=Path, required=True, help="page to write (.html)")
    parser.add_argument(
        "--reference", metavar="HR", type=Path, help="the original: adds it to the page, and PSNR and SSIM against it"
    )
    parser.add_argument(
        "--exit-map",
        metavar="FILE",
        type=Path,
        help="picture written by `enaf upscale --exit-map`, laid over the images",
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes the page.

    Returns:
        0.

    Raises:
        UsageError: the images cannot be read or do not belong together, or the page cannot be written.
    """
    if not 2 <= len(arguments.images) <= 3:
        raise UsageError(f"expected two or three images, got {len(arguments.images)}")
    if arguments.output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"-o: expected a name that ends in .html, got {arguments.output}")

    from enaf.image_io import ImageError
    from enaf.viewer.compare import compare_page
    from enaf.whole_file import write_whole

    try:
        page = compare_page(arguments.images, arguments.reference, arguments.exit_map)
        write_whole(arguments.output, page.encode())
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "skimage":
            raise
        raise UsageError(f"--reference needs {error.name}: `pip install 'enaf_ext[compare]'`") from error
    except (ImageError, ValueError, OSError) as error:
        raise UsageError(message_of(error)) from error
    print(f"{arguments.output}  {len(page) / 1e6:.1f} MB")
    return DONE
