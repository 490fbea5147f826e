# SPDX-License-Identifier: Apache-2.0
"""How features meet again in several backbones; a runtime may know these modules and run them better."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """``x + body(x)``, and an activation behind the sum where there is one."""

    def __init__(self, *body: nn.Module, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)
        self.activation = nn.Identity() if activation is None else activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.body(x) + x)


class Concatenation(nn.Sequential):
    """A 1x1 convolution of the channels of several tensors together, and a ReLU.

    Args:
        widths: channels of the tensors.
        out_channels: of the result.
    """

    def __init__(self, widths: list[int], out_channels: int) -> None:
        super().__init__(nn.Conv2d(sum(widths), out_channels, 1), nn.ReLU(inplace=True))
        self.widths = widths

    def forward(self, *parts: Tensor) -> Tensor:
        return super().forward(torch.cat(parts, dim=1))
