# SPDX-License-Identifier: Apache-2.0
"""Every registered backbone: one training step, and a batch of patches through each of its exits.

`python bench/backbones.py [--scale 4] [--batch 32] [--patch-size 32] [--device cpu|cuda] [--seconds 1] [--json FILE]`
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import Report, Row, attempt

from enaf.cost import true_macs
from enaf.models import MultiExitNetwork, backbone_names, channels_last, create_backbone


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32, help="patches at once")
    parser.add_argument("--patch-size", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=1.0, help="of measuring, each row")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    settings = {key: str(value) for key, value in vars(options).items()}
    report = Report("backbones", device, settings)
    report.header()
    for name in backbone_names():
        report.add(rows(name, options, device))
    if options.json:
        report.write(options.json)


if __name__ == "__main__":
    main()
