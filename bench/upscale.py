# SPDX-License-Identifier: Apache-2.0
"""A whole frame: ENAF at several settings against the static network and the one-patch-at-a-time loop, and its stages.

`python bench/upscale.py [--size 480x270 960x540] [--model fsrcnn] [--device cpu|cuda] [--image FILE] [--json FILE]`
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import Report, Row, attempt
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import enaf_ext
from enaf.checkpoint import load_model
from enaf.decision import choose_exits
from enaf.degradation import resize
from enaf.image_io import read_image
from enaf.models import MultiExitNetwork, channels_last
from enaf.models.fsrcnn import FSRCNN
from enaf.upscaler import Upscaler
from enaf_ext import ops
from enaf_ext.grid import PatchGrid

PHOTOGRAPH = Path(__file__).resolve().parent.parent / "examples" / "bridge.webp"
ETAS = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)


def photograph(path: Path, width: int, height: int) -> Tensor:
    """(3, height, width) uint8: the centre of the photograph in this aspect ratio, resampled."""
    pixels = read_image(path).pixels
    full_height, full_width = pixels.shape[-2:]
    crop_width = min(full_width, full_height * width // height)
    crop_height = min(full_height, full_width * height // width)
    top, left = (full_height - crop_height) // 2, (full_width - crop_width) // 2
    return resize(pixels[:, top : top + crop_height, left : left + crop_width].contiguous(), height, width)


def to_uint8(sr: Tensor) -> Tensor:
    return sr.clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def plain(network: MultiExitNetwork) -> Callable[[Tensor], Tensor]:
    """The network as it is published: whole image, float32, contiguous, its transposed convolution as torch has it."""
    assert isinstance(network, FSRCNN)
    upsample = network.upsample

    def run(image: Tensor) -> Tensor:
        features = image[None].float() / 255
        for depth in range(1, network.num_exits):
            features = network.stage(depth, features)
        return to_uint8(nn.ConvTranspose2d.forward(upsample, features))[0]

    return run


def best_static(network: MultiExitNetwork) -> Callable[[Tensor], Tensor]:
    """The same network at its fastest without routing: whole image, channels_last, the sub-pixel form."""
    return lambda image: to_uint8(network.exit(network.num_exits - 1, _unit(image)))[0]


def patch_loop(upscaler: Upscaler, model: Any, eta: float) -> Callable[[Tensor], Tensor]:
    """One patch at a time, in torch alone, as the paper's evaluation runs: estimate, decide, upscale, add up."""

    def run(image: Tensor) -> Tensor:
        unit = image[None].float() / 255
        grid = PatchGrid(image.shape[1], image.shape[2])
        edges = ops.edge_score(image[None], grid)
        padded = F.pad(unit, (0, grid.padded_width - grid.width, 0, grid.padded_height - grid.height), mode="replicate")
        margin = model.estimator.margin
        wide = F.pad(padded, (margin,) * 4, mode="replicate")
        total = torch.zeros(1, 3, 4 * grid.padded_height, 4 * grid.padded_width)
        count = torch.zeros_like(total)
        for index in range(grid.num_patches):
            y, x = grid.origin(index)
            patch = padded[:, :, y : y + 32, x : x + 32]
            scores = model.estimator(wide[:, :, y : y + 32 + 2 * margin, x : x + 32 + 2 * margin])
            chosen = int(choose_exits(scores, edges[index : index + 1], upscaler.cost, eta, 1.0))
            area = (..., slice(4 * y, 4 * y + 128), slice(4 * x, 4 * x + 128))
            total[area] += model.network.exit(chosen, patch)
            count[area] += 1
        return to_uint8((total / count)[0, :, : 4 * grid.height, : 4 * grid.width])

    return run


def _unit(image: Tensor) -> Tensor:
    return (image[None].float() / 255).contiguous(memory_format=torch.channels_last)


def shares(upscaler: Upscaler, image: Tensor, eta: float) -> dict[str, float]:
    """Where the time goes by the profiler's own times: the networks, our operators, everything else."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if image.is_cuda else [])
    with profile(activities=activities) as recorded:
        for _ in range(5):
            upscaler(image, eta)
    groups = dict.fromkeys(("convolutions and activations", "our operators", "the rest"), 0.0)
    networks = ("convolution", "conv2d", "prelu", "leaky_relu", "cumsum", "avg_pool", "thnn", "mkldnn", "cudnn")
    for event in recorded.key_averages():
        own = event.self_device_time_total if image.is_cuda else event.self_cpu_time_total
        if "enaf_ext" in event.key:
            groups["our operators"] += own
        elif any(name in event.key for name in networks):
            groups["convolutions and activations"] += own
        else:
            groups["the rest"] += own
    total = sum(groups.values())
    return {name: value / total for name, value in groups.items()}


def stages(upscaler: Upscaler, image: Tensor, eta: float) -> dict[str, float]:
    """Milliseconds of each stage, the fastest of seven runs."""
    runs = [upscaler(image, eta, return_info=True)[1].milliseconds for _ in range(7)]
    return min(runs, key=lambda run: sum(run.values()))


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", nargs="+", default=["480x270", "960x540"], help="LR sizes, WxH")
    parser.add_argument("--model", default="fsrcnn")
    parser.add_argument("--image", type=Path, default=PHOTOGRAPH, help="photograph to resample (default: bundled)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="spent on each figure")
    arguments = parser.parse_args()

    device = torch.device(arguments.device)
    model = load_model(arguments.model)
    upscaler = enaf_ext.Upscaler(model=model)
    contiguous = load_model(arguments.model).network.to(device)
    model = channels_last(model.to(device))
    report = Report("upscale", device, {"model": arguments.model, "image": arguments.image.name})
    report.header()
    for size in arguments.size:
        width, height = map(int, size.split("x"))
        image = photograph(arguments.image, width, height).to(device)
        full = to_uint8(model.network.exit(model.network.num_exits - 1, _unit(image)))[0].float()
        rows: list[Row] = []
        for eta in ETAS:
            sr, info = upscaler(image, eta, return_info=True)
            near = float(-10 * torch.log10(((sr.float() - full) / 255).square().mean()))
            note = f"published cost {info.cost['paper']:.0%}, true {info.cost['macs']:.0%}, {near:.1f} dB to the full network"
            call = partial(_call, upscaler, image, eta)
            rows.append(attempt(size, f"ENAF eta {eta:g}", call, device, seconds=arguments.seconds, note=note))
        peers = {
            "bicubic everywhere (exit 0)": lambda image: upscaler(image, force_exit=0),
            "full network, tiled (exit 3)": lambda image: upscaler(image, force_exit=upscaler.num_exits - 1),
            "best static: whole image, channels_last, sub-pixel": best_static(model.network),
            "plain static: whole image, as published": plain(contiguous),
        }
        if device.type == "cpu":
            peers["one patch at a time, eta 0.3"] = patch_loop(upscaler, load_model(arguments.model), 0.3)
        for name, peer in peers.items():
            rows.append(
                attempt(size, name, lambda _, peer=peer, image=image: peer(image), device, seconds=arguments.seconds)
            )
        report.add(rows)
        for eta in (0.0, 0.3, 1.0):
            by_stage = ", ".join(f"{name} {value:.1f} ms" for name, value in stages(upscaler, image, eta).items())
            by_kind = ", ".join(f"{name} {value:.1%}" for name, value in shares(upscaler, image, eta).items())
            print(f"  eta {eta:g}: {by_stage}\n           {by_kind}")
            report.settings[f"{size} eta {eta:g}"] = {
                "milliseconds": stages(upscaler, image, eta),
                "shares": shares(upscaler, image, eta),
            }
        print()
    report.write(arguments.json)


def _call(upscaler: Upscaler, image: Tensor, eta: float, _: int) -> object:
    return upscaler(image, eta)


def _peer(peer: Callable[[Tensor], Tensor], image: Tensor, _: int) -> object:
    return peer(image)


if __name__ == "__main__":
    main()
