# SPDX-License-Identifier: Apache-2.0
"""`enaf fit`: what the routing policies of the peers have to learn on training images."""

from __future__ import annotations

import argparse
from pathlib import Path

from enaf.cli import DONE, UsageError
from enaf.cli.eval import add_common_arguments, check_place, progress_bar

HELP = "Fit the policies `edge-lut` and `class` to a model, on training images; for `enaf eval --policies`."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line."""
    add_common_arguments(parser)
    parser.add_argument("--model", default="fsrcnn", help="shipped model or .safetensors file (default: %(default)s)")
    parser.add_argument("--scale", type=int, default=4, help="of the model (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", required=True, help="file to write (.safetensors)")
    parser.add_argument("--images", type=int, default=300, help="use so many, evenly spread (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Fits and writes.

    Returns:
        0.

    Raises:
        UsageError: a missing package, no usable image, an unknown model or device, a file that cannot be where it is wanted.
    """
    check_place("--out", arguments.out)
    bar = progress_bar(arguments.quiet)
    from enaf.checkpoint import load_model
    from enaf.device import usable_device
    from enaf.evaluate.fit import fit_to_folder

    crop = None if arguments.crop is None else (arguments.crop[0], arguments.crop[1])
    try:
        device = usable_device(arguments.device)
        model = load_model(arguments.model, arguments.scale).to(device)
        fit = fit_to_folder(model, arguments.data, arguments.images, crop, bar)
        fit.save(arguments.out)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    print(
        f"{arguments.out}: fitted on {fit.patches} patches, data {fit.data_sha256[:12]}, weights {fit.weights_sha256[:12]}"
    )
    return DONE
