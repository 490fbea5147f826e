# SPDX-License-Identifier: Apache-2.0
"""`enaf view`: one image in the browser, with eta under a slider."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from enaf.cli import DONE, UsageError

MAX_PIXELS = 1 << 23  # 4K has 8.3 million; the result has 16 times as many, and stays in memory
HELP = "Show an image and its result in the browser, with a slider for eta that routes the patches anew."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line."""
    parser.add_argument("image", metavar="IMAGE", type=Path, help="the small image")
    parser.add_argument("--model", default="fsrcnn", help="shipped model or .safetensors file (default: %(default)s)")
    parser.add_argument("--scale", type=int, default=4, help="of the model (default: %(default)s)")
    parser.add_argument("--eta", type=float, default=1.0, help="where the slider starts (default: %(default)s)")
    parser.add_argument(
        "--gamma", type=float, default=1.0, help="bonus in dB for bicubic on blank patches (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1 (default: a free one)")


def run(arguments: argparse.Namespace) -> int:
    """Serves the page on 127.0.0.1 until Ctrl-C.

    Returns:
        0.

    Raises:
        UsageError: the image or the model cannot be loaded, or the image is too large.
    """
    for name in ("eta", "gamma"):
        if not 0 <= getattr(arguments, name) < math.inf:
            raise UsageError(f"--{name}: expected a finite number of at least 0, got {getattr(arguments, name)}")
    if not 0 <= arguments.port < 65536:
        raise UsageError(f"--port: expected 0 to 65535, got {arguments.port}")

    import torch

    from enaf.checkpoint import load_model
    from enaf.image_io import ImageError, read_image
    from enaf.viewer.page import to_8_bit
    from enaf.viewer.routing import LiveRouter
    from enaf.viewer.server import ViewServer

    try:
        image = read_image(arguments.image)
        height, width = image.pixels.shape[-2:]
        if image.pixels.shape[0] not in (1, 3) or image.pixels.dtype not in (torch.uint8, torch.uint16):
            kind = f"{image.pixels.shape[0]} channels of {image.pixels.dtype}"
            raise UsageError(f"{arguments.image}: expected grey or RGB of 8 or 16 bits, got {kind}; convert it first")
        if height * width > MAX_PIXELS:
            limit = f"at most {MAX_PIXELS / 1e6:.1f} megapixels"
            raise UsageError(
                f"{arguments.image}: expected {limit}, got {width}x{height}; cut out the part that matters"
            )
        pixels = to_8_bit(image.pixels)
        router = LiveRouter(load_model(arguments.model, arguments.scale), pixels, arguments.gamma)
        server = ViewServer(
            arguments.image.name, pixels, router, arguments.eta, image.metadata.icc_profile, arguments.port
        )
    except (ImageError, ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    print(f"{server.url}  (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
    return DONE
