# SPDX-License-Identifier: Apache-2.0
"""`enaf reproduce`: the tables and figures of the paper on any sets of images, as one page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from enaf.cli import DONE, SOME_FAILED, UsageError
from enaf.cli.eval import add_common_arguments, message_of, progress_bar

HELP = "Write a report with every table and figure of the paper, for any models on any sets of images."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line."""
    add_common_arguments(parser)
    parser.add_argument(
        "--out", type=Path, metavar="REPORT", required=True, help="folder to write; index.html opens offline"
    )
    parser.add_argument(
        "--model",
        nargs="+",
        metavar="MODEL",
        help="shipped models or .safetensors files (default: all shipped ones of the scale)",
    )
    parser.add_argument(
        "--compare",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="more models, in tables only; `enaf import` makes model files of other projects' checkpoints",
    )
    parser.add_argument("--scale", type=int, default=4, help="of the models (default: %(default)s)")
    parser.add_argument(
        "--fit-data", metavar="DIR", help="training images for the policies edge-lut and class (default: left out)"
    )
    parser.add_argument("--gamma", type=float, default=1.0, help="bonus in dB on blank patches (default: %(default)s)")
    parser.add_argument(
        "--show",
        nargs="+",
        default=[],
        metavar="NAME",
        help="images to show, by parts of their names (default: one a set)",
    )
    parser.add_argument(
        "--credits",
        type=Path,
        metavar="FILE",
        help="tab-separated authors of the images: columns file, author, license",
    )
    parser.add_argument(
        "--repeats", type=int, default=7, help="timed runs of each exit; 0 leaves time out (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes the report, or goes on with one that was interrupted.

    Returns:
        0, or 1 where an image could not be measured.

    Raises:
        UsageError: a missing package, no usable image, an unknown model or device, or a folder that cannot be written.
    """
    bar = progress_bar(arguments.quiet)
    try:
        from enaf.evaluate.report import ReportRequest, reproduce
    except ModuleNotFoundError as error:
        raise UsageError(f"the report needs {error.name}: pip install 'enaf_ext[eval]'") from error
    from enaf.checkpoint import load_model, shipped_models
    from enaf.device import usable_device

    shipped = [name for name in shipped_models() if name.endswith(f"-x{arguments.scale}")]
    try:
        device = usable_device(arguments.device)
        models, compared = (
            [(Path(name).stem, load_model(name, arguments.scale).to(device)) for name in names]
            for names in (arguments.model or shipped, arguments.compare)
        )
        request = ReportRequest(
            data=arguments.data,
            out=arguments.out,
            models=models,
            compared=compared,
            fit_data=arguments.fit_data,
            crop=None if arguments.crop is None else (arguments.crop[0], arguments.crop[1]),
            gamma=arguments.gamma,
            shown=arguments.show,
            credits=arguments.credits,
            repeats=arguments.repeats,
        )
        failures = reproduce(request, bar)
    except (ValueError, OSError) as error:
        raise UsageError(message_of(error)) from error
    for name, reason in failures:
        print(f"left out: {name}: {reason}", file=sys.stderr)
    print(arguments.out / "index.html")
    return SOME_FAILED if failures else DONE
