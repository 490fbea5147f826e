# SPDX-License-Identifier: Apache-2.0
"""SRResNet without batch normalisation (64 features, 16 blocks) with two early exits, as the paper configures it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .initialise import last_weight, random_convolutions
from .layers import Residual
from .multi_exit import SHUFFLES, MultiExitNetwork
from .registry import register_backbone

_WIDTH, _BLOCKS = 64, 16


class _ResidualBlock(Residual):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1),
        )


def _tail(scale: int, width: int, last_kernel: int) -> nn.Sequential:
    """Sub-pixel convolutions that leave ``width`` channels at the size of the result, and two convolutions there."""
    layers: list[nn.Module] = []
    *first, last = SHUFFLES[scale]
    for channels, factor in [*((_WIDTH, factor) for factor in first), (width, last)]:
        layers += [
            nn.Conv2d(_WIDTH, channels * factor**2, 3, padding=1),
            nn.PixelShuffle(factor),
            nn.LeakyReLU(0.1, inplace=True),
        ]
    return nn.Sequential(
        *layers,
        nn.Conv2d(width, width, 3, padding=1),
        nn.LeakyReLU(0.1, inplace=True),
        nn.Conv2d(width, 3, last_kernel, padding=last_kernel // 2),
    )


@register_backbone
class SRResNet(MultiExitNetwork):
    """SRResNet: 16 residual blocks, sub-pixel convolutions; every exit adds the bilinearly interpolated input.

    Exit 1 leaves after nine blocks, exit 2 after all of them with a narrower tail, exit 3 is the published network.

    Args:
        scale: 2, 3 or 4.
    """

    name = "srresnet"
    shuffled = True
    first = ("head",)

    def __init__(self, scale: int = 4) -> None:
        super().__init__(scale)
        self.head = nn.Sequential(nn.Conv2d(3, _WIDTH, 3, padding=1), nn.LeakyReLU(0.1, inplace=True))
        self.blocks = nn.Sequential(*(_ResidualBlock() for _ in range(_BLOCKS)))
        self.upsample = _tail(scale, _WIDTH, 3)
        self.early_exits = nn.ModuleList([_tail(scale, 16, 1), _tail(scale, 32, 3)])
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Start as the interpolated input, with residual branches and last layers that add little."""
        random_convolutions(self)
        for module in self.modules():
            if isinstance(module, _ResidualBlock):
                last_weight(module.body).mul_(0.1)
        for tail in (self.upsample, *self.early_exits):
            nn.init.normal_(last_weight(tail), std=0.001)

    def stage(self, depth: int, features: Tensor) -> Tensor:
        if depth == 1:
            return self.blocks[:9](self.head(features))
        if depth == 2:
            return self.blocks[9:](features)
        return features

    def tail(self, depth: int, features: Tensor, lr: Tensor) -> Tensor:
        base = F.interpolate(lr, scale_factor=float(self.scale), mode="bilinear", align_corners=False)
        sr = self.upsample(features) if depth == 3 else self.early_exits[depth - 1](features)
        return base.add_(sr)  # float32 beside convolutions in bfloat16
