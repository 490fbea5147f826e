# SPDX-License-Identifier: Apache-2.0
"""Initial weights with which a network begins as interpolation.

Ours: networks without a long skip connection spend thousands of steps on finding the image. Instead, channels 0 to 2 of
every layer carry the colours, which are positive and so pass through activations; everything else starts random.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def random_convolutions(network: nn.Module, slope: float = 0.0) -> None:
    """Convolutions that keep the variance through rectifiers with this negative slope; no biases."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=slope, nonlinearity="leaky_relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def last_weight(layers: nn.Module) -> Tensor:
    """The weight of the last convolution."""
    *_, last = (module for module in layers.modules() if isinstance(module, nn.Conv2d))
    return last.weight


@torch.no_grad()
def pass_colours(weight: Tensor) -> None:
    """Output channels 0 to 2 of a convolution (out, in, k, k) become its input channels 0 to 2."""
    centre = weight.shape[-1] // 2
    weight[:3] = 0
    for colour in range(3):
        weight[colour, colour, centre, centre] = 1


@torch.no_grad()
def interpolate_colours(weight: Tensor, factor: int) -> None:
    """A convolution (out, in, 3, 3) before ``pixel_shuffle(factor)`` interpolates input channels 0 to 2 bilinearly."""
    # phase r of an output pixel lies at (r + 0.5) / factor - 0.5 from the centre of its input pixel
    position = (torch.arange(factor) + 0.5) / factor - 0.5
    triangle = (1 - (position[:, None] - torch.arange(-1, 2)).abs()).clamp_min(0)
    phases = torch.einsum("yi,xj->yxij", triangle, triangle).reshape(-1, 3, 3)
    weight[: 3 * factor**2] = 0
    for colour in range(3):
        weight[colour * factor**2 : (colour + 1) * factor**2, colour] = phases
