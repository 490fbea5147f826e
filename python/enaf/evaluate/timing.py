# SPDX-License-Identifier: Apache-2.0
"""How long the exits take on this device, from whole runs of the product."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from enaf.adaptive import AdaptiveNetwork
from enaf.models import channels_last
from enaf.upscaler import Upscaler

from .protocol import Protocol, values

HEIGHT, WIDTH = 270, 480
"""LR pixels of the image that is timed: 1920x1080 after upscaling by four."""


@dataclass(frozen=True)
class Timing:
    """Least milliseconds of some runs of ``Upscaler`` with each exit forced: what other work on the machine adds is not ours.

    Attributes:
        scores_per_pixel: edge scores, estimator and decision, for one LR pixel.
        exit_per_patch: of each exit, blending included, for one patch.
        static_per_pixel: the full network run once over the whole image, for one LR pixel.
        device: what was timed.
        repeats: runs of each.
    """

    scores_per_pixel: float
    exit_per_patch: list[float]
    static_per_pixel: float
    device: str
    repeats: int


def time_exits(model: AdaptiveNetwork, protocol: Protocol, repeats: int = 7) -> Timing:
    """Time a model; the runs of all exits and of the whole image take turns, so that a busy machine slows all alike.

    Args:
        model: on the device to be timed.
        protocol: its patches.
        repeats: runs of each, after one that warms up.
    """
    device = next(model.parameters()).device
    image = torch.randint(0, 256, (3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    image = image.to(device)
    upscaler = Upscaler(model, model.network.scale)
    network = channels_last(model.network)
    depths = range(model.network.num_exits)
    scores: list[float] = []
    rest: list[list[float]] = [[] for _ in depths]
    static: list[float] = []
    patches = 1
    with torch.inference_mode():
        for turn in range(repeats + 1):
            for depth in depths:
                _, info = upscaler(
                    image,
                    force_exit=depth,
                    patch_size=protocol.patch_size,
                    overlap=protocol.overlap,
                    return_info=True,
                )
                patches = info.grid.num_patches
                if turn:
                    spent = info.milliseconds
                    scores.append(spent["scores"] + spent["decision"])
                    rest[depth].append(spent["exits"] + spent["blend"])
            start = time.perf_counter()
            sr = network.exit(depths[-1], values(image[None]).contiguous(memory_format=torch.channels_last))
            sr.clamp_(0, 1).mul_(255).round_().to(torch.uint8)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                static.append((time.perf_counter() - start) * 1e3)
    return Timing(
        scores_per_pixel=min(scores) / (HEIGHT * WIDTH),
        exit_per_patch=[min(runs) / patches for runs in rest],
        static_per_pixel=min(static) / (HEIGHT * WIDTH),
        device=device_name(device),
        repeats=repeats,
    )


def device_name(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
