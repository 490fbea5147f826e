# SPDX-License-Identifier: Apache-2.0
"""`enaf bench`: time against quality on this machine and these photographs, and the eta to use."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from enaf.cli import DONE, UsageError

HELP = "Time a model on this machine on your photographs, and say what eta to use."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line."""
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="photographs; they are reduced and restored"
    )
    parser.add_argument("--model", default="fsrcnn", help="shipped model or .safetensors file (default: %(default)s)")
    parser.add_argument("--scale", type=int, default=4, help="of the model (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N (default: CUDA where there is one)")
    parser.add_argument("--size", default="480x270", metavar="WxH", help="largest reduced image (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each setting (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Times and prints.

    Returns:
        0.

    Raises:
        UsageError: unknown model or device, or an image that cannot be used.
    """
    import torch

    import enaf_ext
    from enaf.device import usable_device
    from enaf.evaluate.speed import (
        PLAIN,
        STATIC,
        TOLERANCE_DB,
        compare,
        fastest_equal,
        in_other_arithmetic,
        low_resolution,
    )
    from enaf.image_io import ImageError, read_image

    width, separator, height = arguments.size.partition("x")
    if not (separator and width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= 32):
        raise UsageError(f"--size: expected WxH with sides of at least 32, such as 480x270, got {arguments.size}")
    if arguments.repeats < 1:
        raise UsageError(f"--repeats: expected at least 1, got {arguments.repeats}")
    try:
        device = usable_device(arguments.device)
        upscaler = enaf_ext.Upscaler(arguments.model, arguments.scale)
        pairs = []
        for path in arguments.images:
            pixels = read_image(path).pixels
            if pixels.dtype != torch.uint8 or pixels.shape[0] != 3 or min(pixels.shape[1:]) < 32 * arguments.scale:
                raise UsageError(
                    f"{path}: expected 8-bit RGB of at least {32 * arguments.scale} pixels a side, got "
                    f"{tuple(pixels.shape)} {pixels.dtype}"
                )
            pairs.append(low_resolution(pixels, arguments.scale, int(width), int(height)))
    except (ImageError, ValueError, OSError) as error:
        raise UsageError(str(error).splitlines()[0]) from error
    peers = in_other_arithmetic(upscaler, torch.device(device))
    contenders = compare(upscaler, pairs, torch.device(device), peers=peers, repeats=arguments.repeats)
    found = {entry.name: entry for entry in contenders}
    full, plain = found[STATIC], found[PLAIN]
    print(f"{'':21} {'ms':>9} {'of static':>10} {'PSNR':>9} {'FLOPs':>7} {'MACs':>6}")
    for entry in contenders:
        cost = "" if entry.paper is None or entry.macs is None else f"{entry.paper:7.0%} {entry.macs:6.0%}"
        share = entry.milliseconds / full.milliseconds
        print(f"{entry.name:21} {entry.milliseconds:9.1f} {share:9.0%}  {entry.psnr_db:6.2f} dB {cost}".rstrip())
    best = fastest_equal(contenders)
    if best is not None and best.macs is not None and math.isclose(best.macs, 1):
        print(f"\nRouting does not pay on these images: {best.name} gives them to the full network as a whole.")
    elif best is None or best.milliseconds >= full.milliseconds:
        print(
            f"\nNo eta keeps within {TOLERANCE_DB} dB of the full network in less time here: use a small eta, or none."
        )
    else:
        print(
            f"\nUse {best.name}: {best.milliseconds / full.milliseconds:.0%} of the full network's time here, "
            f"{best.psnr_db - plain.psnr_db:+.2f} dB."
        )
    return DONE
