# SPDX-License-Identifier: Apache-2.0
"""How long the exits take on this device, from runs of the product."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from enaf.adaptive import AdaptiveNetwork
from enaf.decision import choose_exits
from enaf.inference import prepare_estimator
from enaf.upscaler import Upscaler
from enaf_ext import ops
from enaf_ext.grid import PatchGrid

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
    image = torch.randint(0, 256, (1, 3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    image = image.to(device)
    grid = PatchGrid(HEIGHT, WIDTH, protocol.patch_size, protocol.overlap)
    upscaler = Upscaler(model, model.network.scale)
    estimator, depths = prepare_estimator(model.estimator, device), range(upscaler.num_exits)

    def scores() -> None:
        edge_score = ops.edge_score(image, grid)
        exit_index = choose_exits(estimator.on_grid(values(image), grid), edge_score, upscaler.cost, 1.0, 1.0)
        ops.route_exits(exit_index, upscaler.num_exits)[1].tolist()  # waits for the device

    def static() -> None:
        upscaler.static(image).cpu()  # waits for the device

    fastest = [math.inf] * (2 + len(depths))
    with torch.inference_mode():
        for turn in range(repeats + 1):  # the first warms up
            taken = [_milliseconds(scores), _milliseconds(static)]
            for depth in depths:
                _, info = upscaler(
                    image, force_exit=depth, patch_size=protocol.patch_size, overlap=protocol.overlap, return_info=True
                )
                stages = info.milliseconds.items()
                taken.append(sum(spent for stage, spent in stages if stage not in ("scores", "decision")))
            if turn:
                fastest = [min(pair) for pair in zip(fastest, taken, strict=True)]
    return Timing(
        scores_per_pixel=fastest[0] / (HEIGHT * WIDTH),
        exit_per_patch=[spent / grid.num_patches for spent in fastest[2:]],
        static_per_pixel=fastest[1] / (HEIGHT * WIDTH),
        device=device_name(device),
        repeats=repeats,
    )


def _milliseconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def device_name(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
