# SPDX-License-Identifier: Apache-2.0
"""Every registered backbone, untrained: one training step, a batch of patches through each of its exits, and what a frame
would take of one exit, scores and blend included, at the price that the exit has in a mixture, beside the static network.

`python bench/backbones.py [--scale 4] [--batch 32] [--patch-size 32] [--device cpu|cuda] [--seconds 1] [--json FILE]`
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import Report, Row, Timing, attempt

from enaf.adaptive import AdaptiveNetwork
from enaf.cost import relative_cost, true_macs
from enaf.estimator import create_estimator
from enaf.models import MultiExitNetwork, backbone_names, channels_last, create_backbone
from enaf.upscaler import CALIBRATED_PATCHES, Upscaler


def step(network: MultiExitNetwork, lr: torch.Tensor, hr: torch.Tensor, _: int) -> None:
    """Forward through the full exit and backward, as in the first phase of training, without the optimiser."""
    network.zero_grad(set_to_none=True)
    (network.exit(network.num_exits - 1, lr) - hr).abs().mean().backward()


@torch.inference_mode()
def forward(network: MultiExitNetwork, depth: int, lr: torch.Tensor, _: int) -> None:
    network.exit(depth, lr)


def rows(name: str, options: argparse.Namespace, device: torch.device) -> list[Row]:
    network = channels_last(create_backbone(name, options.scale)).to(device)
    size, large = options.patch_size, options.patch_size * options.scale
    lr = torch.rand(options.batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    hr = torch.rand(options.batch, 3, large, large, device=device).to(memory_format=torch.channels_last)
    macs = true_macs(network, size) / 1e6

    def timed(what: str, call: Any) -> Row:
        return attempt(f"batch of {options.batch}", f"{name}: {what}", call, device, seconds=options.seconds)

    exits = [
        timed(f"exit {depth}, {macs[depth]:.1f} M MACs a patch", partial(forward, network, depth, lr))
        for depth in reversed(range(1, network.num_exits))
    ]
    return [*exits, timed("training step", partial(step, network, lr, hr))]


def frame_rows(name: str, options: argparse.Namespace, device: torch.device) -> list[Row]:
    """What `enaf calibrate` measures: is the time that an exit takes the share that its cost says?"""
    network = create_backbone(name, options.scale)
    upscaler = Upscaler(AdaptiveNetwork(network, create_estimator("gain", network.num_exits)), options.scale)
    measured = upscaler.calibration(device, patch_size=options.patch_size, renew=True)
    height, width = (options.patch_size + count * (options.patch_size - 4) for count in CALIBRATED_PATCHES)
    patches = math.prod(count + 1 for count in CALIBRATED_PATCHES)
    static = measured.whole_ms[-1] * height * width
    paper, macs = (relative_cost(network, convention) for convention in ("paper", "macs"))
    overlap = patches * options.patch_size**2 / (height * width)
    rows = [Row(f"{name}, a frame of {width}x{height}", "best static", Timing(static, static, static, static, 0))]
    for depth, patch_ms in enumerate(measured.patch_ms):
        ms = patch_ms * patches
        note = (
            f"{ms / static:.0%} of best static; published cost {paper[depth]:.0%}, "
            f"true MACs {macs[depth]:.0%}, with the overlap {macs[depth] * overlap:.0%}"
        )
        rows.append(Row(rows[0].case, f"exit {depth} at its price in a mixture", Timing(ms, ms, ms, ms, 0), note=note))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32, help="patches at once")
    parser.add_argument("--patch-size", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=1.0, help="of measuring, each row")
    parser.add_argument("--frames", nargs="*", default=backbone_names(), help="backbones that are timed on frames too")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    settings = {key: str(value) for key, value in vars(options).items()}
    report = Report("backbones", device, settings)
    report.header()
    for name in backbone_names():
        report.add(rows(name, options, device))
    with tempfile.TemporaryDirectory() as cache:  # untrained networks have no place in the user's
        os.environ["XDG_CACHE_HOME"] = cache
        for name in options.frames:
            report.add(frame_rows(name, options, device))
    if options.json:
        report.write(options.json)


if __name__ == "__main__":
    main()
