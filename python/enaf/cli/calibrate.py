# SPDX-License-Identifier: Apache-2.0
"""`enaf calibrate`: what every exit takes on this machine in milliseconds, for time budgets and for costs in time."""

from __future__ import annotations

import argparse

from enaf.cli import DONE, UsageError

HELP = "Measure what each exit takes on this machine, for budgets in milliseconds; kept in the user's cache."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line."""
    parser.add_argument("--model", default="fsrcnn", help="shipped model or .safetensors file (default: %(default)s)")
    parser.add_argument("--scale", type=int, default=4, help="of the model (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N (default: CUDA where there is one)")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="arithmetic (default: the fastest of the model on the device)",
    )
    parser.add_argument("--patch-size", type=int, default=32, help="side of a patch in pixels (default: %(default)s)")
    parser.add_argument("--overlap", type=int, default=4, help="pixels that neighbours share (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Measures, keeps and prints.

    Returns:
        0.

    Raises:
        UsageError: unknown model or device, or a patch that cannot be.
    """
    import torch

    import enaf_ext
    from enaf.device import usable_device
    from enaf_ext.grid import PatchGrid

    dtype = None if arguments.dtype is None else getattr(torch, arguments.dtype)
    try:
        PatchGrid(1, 1, arguments.patch_size, arguments.overlap)  # raises before the work
        device = usable_device(arguments.device)
        upscaler = enaf_ext.Upscaler(arguments.model, arguments.scale)
        measured = upscaler.calibration(device, dtype, arguments.patch_size, arguments.overlap, renew=True)
    except (ValueError, OSError) as error:
        raise UsageError(str(error).splitlines()[0]) from error
    print(f"{arguments.model} on {device}, patches of {arguments.patch_size}\n")
    print("exit   ms a patch   cost in time   cost in published FLOPs")
    for depth, (taken, time, paper) in enumerate(
        zip(measured.patch_ms, measured.relative.tolist(), upscaler.cost.tolist(), strict=True)
    ):
        print(f"{depth:<6} {taken:10.3f} {100 * time:12.0f} % {100 * paper:18.0f} %")
    megapixel = measured.whole_ms[-1] * 1e6
    print(f"\nfull network without routing: {megapixel:.0f} ms for a million pixels of the input")
    return DONE
