# SPDX-License-Identifier: Apache-2.0
"""Upscales a photograph whose original is known, and shows what was spent where. `make demo` runs this.

Writes demo/result.png, demo/exit_map.png and demo/side_by_side.png; prints patches per exit, cost, PSNR and seconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

import enaf_ext
from enaf.degradation import downsample
from enaf.exit_map import draw_exit_map, exit_names
from enaf.image_io import read_image, write_image
from enaf.metrics import psnr

PHOTOGRAPH = Path(__file__).with_name("bridge.webp")
SCALE = 4
CROPS = ((876, 534), (1010, 716))  # left and top of details worth a look, in pixels of the bundled photograph
CROP_WIDTH, CROP_HEIGHT, ZOOM = 176, 132, 3
RUNS = 5

Result = TypeVar("Result")


def main() -> None:
    parser = argparse.ArgumentParser(description="Upscale a photograph whose original is known.")
    parser.add_argument("photograph", nargs="?", type=Path, default=PHOTOGRAPH, help="the original (default: bundled)")
    parser.add_argument(
        "--eta", type=float, default=1.0, help="weight of the cost; more is faster (default: %(default)s)"
    )
    parser.add_argument("--model", default="fsrcnn", help="shipped model or .safetensors file (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the pictures (default: %(default)s)")
    arguments = parser.parse_args()

    original = read_image(arguments.photograph)
    height, width = (side - side % SCALE for side in original.pixels.shape[-2:])
    hr = original.pixels[:, :height, :width]
    lr = downsample(hr, SCALE)
    upscaler = enaf_ext.Upscaler(model=arguments.model)
    full_exit = upscaler.num_exits - 1

    bicubic, bicubic_seconds = timed(lambda: whole_bicubic(lr))
    sr, seconds = timed(lambda: upscaler(lr, eta=arguments.eta))
    full, full_seconds = timed(lambda: upscaler(lr, force_exit=full_exit))
    _, info = upscaler(lr, eta=arguments.eta, return_info=True)
    _, full_info = upscaler(lr, force_exit=full_exit, return_info=True)

    arguments.out.mkdir(parents=True, exist_ok=True)
    pictures = {
        "result.png": sr,
        "exit_map.png": draw_exit_map(sr, info.exit_index[0], info.grid, upscaler.num_exits),
        "side_by_side.png": side_by_side({"bicubic": bicubic, "ENAF": sr, "original": hr}),
    }
    for name, picture in pictures.items():
        write_image(arguments.out / name, picture)

    print(f"{arguments.photograph.name}, {width // SCALE}x{height // SCALE} -> {width}x{height},", end=" ")
    print(f"model {arguments.model}, eta {arguments.eta:g}, CPU with {torch.get_num_threads()} threads")
    print(f"\n{'':<14}{'patches':>9}{'share':>9}")
    counts = info.exit_index.flatten().bincount(minlength=upscaler.num_exits).tolist()
    for name, count in zip(exit_names(upscaler.num_exits), counts, strict=True):
        print(f"{name:<14}{count:>9}{count / sum(counts):>9.0%}")
    print(f"\n{'':<14}{'PSNR':>9}{'seconds':>9}{'published FLOPs':>18}{'true MACs':>12}")
    nothing = {"paper": 0.0, "macs": 0.0}
    for name, image, spent, cost in (
        ("bicubic", bicubic, bicubic_seconds, nothing),
        ("ENAF", sr, seconds, info.cost),
        ("full network", full, full_seconds, full_info.cost),
    ):
        quality = psnr(image / 255, hr / 255, border=SCALE).item()
        print(f"{name:<14}{quality:>6.2f} dB{spent:>9.3f}{cost['paper']:>18.0%}{cost['macs']:>12.0%}")
    saved = {key: 1 - info.cost[key] / full_info.cost[key] for key in nothing}
    shares = f"{saved['paper']:.0%} of the published FLOPs, {saved['macs']:.0%} of the true multiply-accumulates"
    print(f"\nAgainst the full network ENAF saved {shares}, {1 - seconds / full_seconds:.0%} of the seconds.")
    print(f"Look at {', '.join(str(arguments.out / name) for name in pictures)}.")


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """What comes out, and the median seconds of a few runs after a warm-up."""
    result = work()
    seconds = []
    for _ in range(RUNS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return result, statistics.median(seconds)


def whole_bicubic(lr: Tensor) -> Tensor:
    """torch's bicubic of the whole image, (C, H, W) uint8 in and out."""
    sr = functional.interpolate(lr[None].float(), scale_factor=SCALE, mode="bicubic")[0]
    return sr.round().clamp(0, 255).to(torch.uint8)


def side_by_side(images: dict[str, Tensor]) -> Tensor:
    """(3, H, W) uint8: the same details of every image beside each other, magnified without smoothing, labelled."""
    width, height, gap, title = CROP_WIDTH * ZOOM, CROP_HEIGHT * ZOOM, 8, 44
    sheet = Image.new("RGB", (len(images) * (width + gap) - gap, title + len(CROPS) * (height + gap) - gap), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (name, pixels) in enumerate(images.items()):
        picture = Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
        left = column * (width + gap)
        draw.text(
            (left + width // 2, title // 2), name, fill=(40, 40, 40), font=ImageFont.load_default(28), anchor="mm"
        )
        for row, (x, y) in enumerate(CROPS):
            x, y = min(x, max(0, picture.width - CROP_WIDTH)), min(y, max(0, picture.height - CROP_HEIGHT))
            detail = picture.crop((x, y, x + CROP_WIDTH, y + CROP_HEIGHT)).resize(
                (width, height), Image.Resampling.NEAREST
            )
            sheet.paste(detail, (left, title + row * (height + gap)))
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)


if __name__ == "__main__":
    main()
