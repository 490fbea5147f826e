# SPDX-License-Identifier: Apache-2.0
"""FSRCNN (d=56, s=12, m=4) with two early exits, as the paper configures it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .initialise import pass_colours, random_convolutions
from .multi_exit import MultiExitNetwork, SubPixelTransposedConvolution
from .registry import register_backbone

# nine-tap transposed convolutions that give exactly scale * size pixels
_PADDING = {2: 4, 3: 3, 4: 3}


@register_backbone
class FSRCNN(MultiExitNetwork):
    """FSRCNN: head 5x5, shrink, four linear 3x3 mapping layers, expand, 9x9 transposed convolution.

    Exit 1 leaves after two mapping layers, exit 2 after all four and their PReLU, exit 3 is the published network.

    Args:
        scale: 2, 3 or 4.
    """

    name = "fsrcnn"
    shuffled = False
    first = ("head",)

    def __init__(self, scale: int = 4) -> None:
        super().__init__(scale)
        padding = _PADDING[scale]
        self.head = nn.Sequential(nn.Conv2d(3, 56, 5, padding=2), nn.PReLU())
        self.shrink = nn.Sequential(nn.Conv2d(56, 12, 1), nn.PReLU())
        self.mapping = nn.ModuleList(nn.Conv2d(12, 12, 3, padding=1) for _ in range(4))
        self.mapping_activation = nn.PReLU()
        self.expand = nn.Sequential(nn.Conv2d(12, 56, 1), nn.PReLU())
        self.upsample = SubPixelTransposedConvolution(56, 3, 9, scale, padding)
        self.early_exits = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(12, width, 3, padding=1),
                nn.LeakyReLU(0.1),
                SubPixelTransposedConvolution(width, 3, 9, scale, padding),
            )
            for width in (16, 36)
        )
        self._initialise()

    def _initialise(self) -> None:
        """Start as bilinear interpolation: colours pass all layers, the other channels start small at the upsampler."""
        random_convolutions(self, slope=0.25)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                pass_colours(module.weight)
            elif isinstance(module, SubPixelTransposedConvolution):
                nn.init.normal_(module.weight, std=0.001)
                _interpolate_colours(module.weight, module.scale, _PADDING[module.scale])
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def stage(self, depth: int, features: Tensor) -> Tensor:
        if depth == 1:
            features = self.shrink(self.head(features))
            return self.mapping[1](self.mapping[0](features))
        if depth == 2:
            return self.mapping_activation(self.mapping[3](self.mapping[2](features)))
        return self.expand(features)

    def tail(self, depth: int, features: Tensor, lr: Tensor) -> Tensor:
        return self.upsample(features) if depth == 3 else self.early_exits[depth - 1](features)


@torch.no_grad()
def _interpolate_colours(weight: Tensor, scale: int, padding: int) -> None:
    """Input channels 0 to 2 of a transposed convolution (in, 3, k, k) are interpolated bilinearly."""
    # tap k of input pixel 0 lands on output pixel k - padding, whose centre lies at (k - padding + 0.5) / scale
    position = (torch.arange(weight.shape[-1]) - padding + 0.5) / scale - 0.5
    triangle = (1 - position.abs()).clamp_min(0)
    weight[:3] = 0
    for colour in range(3):
        weight[colour, colour] = triangle[:, None] * triangle
