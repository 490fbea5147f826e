# SPDX-License-Identifier: Apache-2.0
"""A light residual network of dense 3x3 convolutions with two early exits: the worked example of docs/backbones.md."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .initialise import interpolate_colours, last_weight, random_convolutions
from .layers import Residual
from .multi_exit import MultiExitNetwork
from .registry import register_backbone

_WIDTH, _BLOCKS = 48, 7


def _convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


class _ResidualBlock(Residual):
    def __init__(self) -> None:
        super().__init__(
            _convolution(_WIDTH, _WIDTH),
            nn.LeakyReLU(0.1, inplace=True),
            _convolution(_WIDTH, _WIDTH),
            nn.LeakyReLU(0.1, inplace=True),
            _convolution(_WIDTH, _WIDTH),
        )


@register_backbone
class Light(MultiExitNetwork):
    """Seven residual blocks and one sub-pixel convolution, all of it at the size of the input.

    Ours, after the residual local feature network (Kong et al., 2022): blocks of three plain convolutions, as they found
    them faster than branches and concatenations at equal quality. Left out are its attention, whose pooling makes a patch
    depend on its size, and its 1x1 convolutions. Exits leave after two, four and seven blocks, at about 30, 60 and 100 %
    of the multiply-accumulates. All add ``base``, a linear interpolation of the input that is trained with the rest.

    Args:
        scale: 2, 3 or 4.
    """

    name = "light"
    shuffled = False
    first = ("head",)
    exact = ("base",)

    def __init__(self, scale: int = 4) -> None:
        super().__init__(scale)
        sub_pixels = 3 * scale**2
        self.base = nn.Conv2d(3, sub_pixels, 3, padding=1, padding_mode="replicate")
        self.head = _convolution(3, _WIDTH)
        self.blocks = nn.Sequential(*(_ResidualBlock() for _ in range(_BLOCKS)))
        self.upsample = _convolution(_WIDTH, sub_pixels)
        self.early_exits = nn.ModuleList(_convolution(_WIDTH, sub_pixels) for _ in range(2))
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Start as bilinear interpolation, with residual branches and last layers that add little to it."""
        random_convolutions(self)
        interpolate_colours(self.base.weight, self.scale)
        for module in self.modules():
            if isinstance(module, _ResidualBlock):
                last_weight(module.body).mul_(0.1)
        for tail in (self.upsample, *self.early_exits):
            nn.init.normal_(last_weight(tail), std=0.001)

    def stage(self, depth: int, features: Tensor) -> Tensor:
        if depth == 1:
            return self.blocks[:2](self.head(features))
        return self.blocks[2:4](features) if depth == 2 else self.blocks[4:](features)

    def tail(self, depth: int, features: Tensor, lr: Tensor) -> Tensor:
        last = self.upsample if depth == 3 else self.early_exits[depth - 1]
        return self.base(lr).add_(last(features))  # float32 beside convolutions in bfloat16
