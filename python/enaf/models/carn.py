# SPDX-License-Identifier: Apache-2.0
"""CARN-M (64 features, four groups, shared residual units) with two early exits, as the paper configures it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .initialise import interpolate_colours, last_weight, pass_colours, random_convolutions
from .layers import Concatenation, Residual
from .multi_exit import SHUFFLES, MultiExitNetwork
from .registry import register_backbone

_WIDTH, _GROUPS = 64, 4
_MEAN = (0.4488, 0.4371, 0.4040)  # of the colours in DIV2K


def _grouped(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, groups=_GROUPS)


def _fusions() -> nn.ModuleList:
    """One for every length of a cascade's growing collection."""
    return nn.ModuleList(Concatenation([_WIDTH] * parts, _WIDTH) for parts in (2, 3, 4))


def _cascade(x: Tensor, units: Iterable[nn.Module], fusions: Iterable[nn.Module]) -> Tensor:
    """y_0 = x, y_i = fusion_i(x, unit_1(y_0), ..., unit_i(y_{i-1})); the last y."""
    collected, features = [x], x
    for unit, fusion in zip(units, fusions, strict=True):
        collected.append(unit(features))
        features = fusion(*collected)
    return features


class _ResidualUnit(Residual):
    """Two grouped convolutions and one that mixes the groups."""

    def __init__(self) -> None:
        super().__init__(
            _grouped(_WIDTH, _WIDTH),
            nn.ReLU(inplace=True),
            _grouped(_WIDTH, _WIDTH),
            nn.ReLU(inplace=True),
            nn.Conv2d(_WIDTH, _WIDTH, 1),
            activation=nn.ReLU(inplace=True),
        )


class _Block(nn.Module):
    """A cascade over one residual unit, used three times with the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = _ResidualUnit()
        self.fusions = _fusions()

    def forward(self, x: Tensor) -> Tensor:
        return _cascade(x, [self.unit] * 3, self.fusions)


def _early_exit(scale: int, width: int) -> nn.Sequential:
    """Sub-pixel convolutions that leave ``width`` channels at the size of the result."""
    layers: list[nn.Module] = []
    channels = _WIDTH
    for factor in SHUFFLES[scale]:
        layers += [_grouped(channels, width * factor**2), nn.LeakyReLU(0.1, inplace=True), nn.PixelShuffle(factor)]
        channels = width
    return nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1))


@register_backbone
class CARN(MultiExitNetwork):
    """CARN-M: three cascading blocks in a cascade, grouped sub-pixel convolutions.

    All exits leave after the whole trunk and differ in their tails: exit 1 has 16 channels at the size of the result,
    exit 2 has 32, exit 3 is the published network with 64.

    The mean that the published network adds to its result lies in the biases of the last convolutions.

    Args:
        scale: 2, 3 or 4.
    """

    name = "carn"
    shuffled = True
    first = ("centre", "entry")

    def __init__(self, scale: int = 4) -> None:
        super().__init__(scale)
        self.centre = nn.Conv2d(3, 3, 1)
        self.entry = nn.Conv2d(3, _WIDTH, 3, padding=1)
        self.blocks = nn.ModuleList(_Block() for _ in range(3))
        self.fusions = _fusions()
        layers: list[nn.Module] = []
        for factor in SHUFFLES[scale]:
            layers += [_grouped(_WIDTH, _WIDTH * factor**2), nn.ReLU(inplace=True), nn.PixelShuffle(factor)]
        self.upsample = nn.Sequential(*layers, nn.Conv2d(_WIDTH, 3, 3, padding=1))
        self.early_exits = nn.ModuleList(_early_exit(scale, width) for width in (16, 32))
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Start as bilinear interpolation, with residual branches and last layers that add little to it."""
        random_convolutions(self)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                pass_colours(module.weight)
        mean = torch.tensor(_MEAN)
        self.centre.bias = nn.Parameter(-mean)
        self.entry.bias = nn.Parameter(torch.cat([mean, torch.zeros(_WIDTH - 3)]))
        for module in self.modules():
            if isinstance(module, _ResidualUnit):
                last_weight(module.body).mul_(0.1)[:3] = 0
        for tail in (self.upsample, *self.early_exits):
            *steps, last = (module.weight for module in tail.modules() if isinstance(module, nn.Conv2d))
            for weight, factor in zip(steps, SHUFFLES[self.scale], strict=True):
                interpolate_colours(weight, factor)
            last.add_(torch.randn_like(last), alpha=0.001)

    def stage(self, depth: int, features: Tensor) -> Tensor:
        if depth == 1:
            return _cascade(self.entry(self.centre(features)), self.blocks, self.fusions)
        return features

    def tail(self, depth: int, features: Tensor, lr: Tensor) -> Tensor:
        return self.upsample(features) if depth == 3 else self.early_exits[depth - 1](features)
