# SPDX-License-Identifier: Apache-2.0
"""`enaf eval`: a model's quality and cost on images whose originals are known, by the protocol of the paper."""

from __future__ import annotations

import argparse
from pathlib import Path

from enaf.cli import DONE, UsageError

HELP = "Measure a model on a folder of originals: PSNR of each exit, estimator error, PSNR and cost over eta."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line."""
    parser.add_argument("--data", type=Path, metavar="DIR", required=True, help="folder of originals (HR images)")
    parser.add_argument("--model", default="fsrcnn", help="shipped model or .safetensors file (default: %(default)s)")
    parser.add_argument("--scale", type=int, default=4, help="of the model (default: %(default)s)")
    parser.add_argument(
        "--eta",
        type=float,
        nargs="+",
        default=[0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3],
        help="settings to report",
    )
    parser.add_argument("--gamma", type=float, default=1.0, help="bonus in dB on blank patches (default: %(default)s)")
    parser.add_argument(
        "--crop",
        type=int,
        nargs=2,
        metavar=("W", "H"),
        help="only the centre of each original, corner at multiples of 4",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")


def run(arguments: argparse.Namespace) -> int:
    """Prints the figures.

    Returns:
        0.

    Raises:
        UsageError: no usable image, unknown model.
    """
    from enaf.checkpoint import load_model
    from enaf.evaluate.report import evaluate_folder

    try:
        model = load_model(arguments.model, arguments.scale)
        crop = None if arguments.crop is None else (arguments.crop[0], arguments.crop[1])
        report = evaluate_folder(model, arguments.data, arguments.eta, arguments.gamma, crop)
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    print(report.text())
    if arguments.json is not None:
        report.write_json(arguments.json)
    return DONE
