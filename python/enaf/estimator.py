# SPDX-License-Identifier: Apache-2.0
"""PSNR estimators: what each exit would reach on each patch, without running it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from enaf_ext import ops
from enaf_ext.grid import PatchGrid

CELL = ops.CELL
"""LR pixels per side of an estimator cell: every estimator looks at the image in steps of four pixels."""

BAND = 1 << 20
"""LR pixels whose features are in memory at once."""

_DB = 10 / math.log(10)


@dataclass(frozen=True)
class ExitTargets:
    """What the exits of a finished network reach on n patches.

    Attributes:
        psnr_db: (n, E), at most 60 dB.
        cell_error: (n, E, P/4, P/4), mean squared error over each cell of 4x4 LR pixels.
        image_error: (n,), mean squared error of the full exit over the image that the patch comes from.
        blank: (n,) float, 1 where the edge score calls the patch blank.
        cost: (E,), as a share of the full exit.
    """

    psnr_db: Tensor
    cell_error: Tensor
    image_error: Tensor
    blank: Tensor
    cost: Tensor

    def __getitem__(self, chosen: Tensor) -> ExitTargets:
        return ExitTargets(
            self.psnr_db[chosen], self.cell_error[chosen], self.image_error[chosen], self.blank[chosen], self.cost
        )

    def to(self, device: torch.device) -> ExitTargets:
        return ExitTargets(*(getattr(self, entry.name).to(device) for entry in fields(self)))


class Estimator(nn.Module, ABC):
    """Predicts (N, E) PSNR in dB from LR patches.

    An estimator turns the image into a map of features with one cell per 4x4 pixels, averages the cells of each patch
    and reads the PSNR from the average. Because the map does not depend on the patches, it is computed once for the
    whole image where patch origins fall on cells: overlapping patches then cost nothing extra.

    Attributes:
        name: registry name.
        margin: LR pixels around a patch that its estimate depends on (a multiple of 4).
        narrow: names of its sequences of layers of which all but the last may run in half precision.
        num_exits: E.
    """

    name: ClassVar[str]
    margin: ClassVar[int] = 0
    narrow: ClassVar[tuple[str, ...]] = ()

    def __init__(self, num_exits: int = 4) -> None:
        super().__init__()
        self.num_exits = num_exits

    @abstractmethod
    def features(self, lr: Tensor) -> Tensor:
        """(N, 3, H + 2*margin, W + 2*margin) in [0, 1] -> (N, F, H/4, W/4)."""

    @abstractmethod
    def readout(self, pooled: Tensor) -> Tensor:
        """Averages over patches (N, F) -> PSNR (N, E) in dB."""

    @abstractmethod
    def loss(self, lr: Tensor, targets: ExitTargets) -> Tensor:
        """What phase 3 minimises, on patches with their margin; a scalar."""

    def forward(self, lr: Tensor) -> Tensor:
        """Patches with their margin (N, 3, P + 2*margin, P + 2*margin), values in [0, 1] -> PSNR (N, E) in dB."""
        return self.readout(self.features(lr).mean(dim=(2, 3)))

    def on_grid(self, image: Tensor, grid: PatchGrid, above: int = 0, below: int = 0) -> Tensor:
        """Estimates for every patch of a grid.

        Args:
            image: (B, 3, above + H + below, W), floating, values in [0, 1].
            grid: over the H rows; any patch size and overlap. Where both are multiples of 4 the map is computed once.
            above, below: rows that the image has beyond the grid, 0 to ``margin``; where there are fewer than ``margin``,
                the outermost row is repeated.

        Returns:
            (B*N, E) in dB, image-major, then row-major. Equal to ``forward`` on the patches up to float rounding.
        """
        m, padded = self.margin, self.padded(image, grid, above, below)
        if grid.patch_size % CELL or grid.stride % CELL:
            return self._on_odd_grid(padded, grid)
        count = -(-padded.shape[2] * padded.shape[3] // BAND)
        rows = -(-grid.rows // count)  # of patches whose features are alive at once
        bands = []
        for first in range(0, grid.rows, rows):
            last = min(first + rows, grid.rows) - 1
            band = padded[:, :, first * grid.stride : last * grid.stride + grid.patch_size + 2 * m]
            bands.append(F.avg_pool2d(self.features(band), grid.patch_size // CELL, grid.stride // CELL))
        pooled = torch.cat(bands, dim=2)
        return self.readout(pooled.permute(0, 2, 3, 1).reshape(-1, pooled.shape[1]))

    def padded(self, image: Tensor, grid: PatchGrid, above: int = 0, below: int = 0) -> Tensor:
        """The image with ``margin`` pixels on every side and whole patches, channels_last; arguments as for ``on_grid``."""
        m, bottom, right = self.margin, grid.padded_height - grid.height, grid.padded_width - grid.width
        padded = F.pad(image, (m, right + m, m - above, bottom + m - below), mode="replicate")
        return padded.contiguous(memory_format=torch.channels_last)

    def _on_odd_grid(self, padded: Tensor, grid: PatchGrid) -> Tensor:
        """Patches one by one, cut to whole cells, where patches do not begin and end on cells."""
        size, side = grid.patch_size, max(CELL, grid.patch_size // CELL * CELL)
        margins = 2 * self.margin
        patches = padded.unfold(2, size + margins, grid.stride).unfold(3, size + margins, grid.stride)
        patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        if size < side:
            patches = F.pad(patches, (0, side - size, 0, side - size), mode="replicate")
        chunks = patches[:, :, : side + margins, : side + margins].split(max(1, BAND // (side + margins) ** 2))
        return torch.cat([self.forward(chunk) for chunk in chunks])


class PaperEstimator(Estimator):
    """The estimator of the paper (ClassSR's class module, 60,068 parameters, 3.80 M multiply-accumulates a patch)."""

    name = "paper"

    def __init__(self, num_exits: int = 4) -> None:
        super().__init__(num_exits)
        widths = (128, 128, 128, 128, 32)
        layers: list[nn.Module] = [nn.Conv2d(3, 128, CELL, stride=CELL)]
        for source, target in pairwise(widths):
            layers += [nn.LeakyReLU(0.1), nn.Conv2d(source, target, 1)]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(32, num_exits)

    def features(self, lr: Tensor) -> Tensor:
        return self.layers(lr)

    def readout(self, pooled: Tensor) -> Tensor:
        return self.last(pooled)

    def loss(self, lr: Tensor, targets: ExitTargets) -> Tensor:
        """Mean absolute error of the PSNR (equation 7)."""
        return (self(lr) - targets.psnr_db).abs().mean()


class CentredConvolution(nn.Conv2d):
    """A convolution of what colours are beyond their mean in photographs, times four: of the order of one."""

    MEAN, GAIN = 0.45, 4.0

    def forward(self, image: Tensor) -> Tensor:
        return super().forward((image - self.MEAN) * self.GAIN)

    @torch.no_grad()
    def as_convolution(self) -> nn.Conv2d:
        """The same as a convolution of the colours as they are."""
        assert self.bias is not None
        kernel = self.kernel_size[0]
        plain = nn.Conv2d(self.in_channels, self.out_channels, kernel, stride=self.stride[0]).to(self.weight)
        plain.weight.copy_(self.GAIN * self.weight)
        assert plain.bias is not None
        plain.bias.copy_(self.bias - self.MEAN * plain.weight.sum(dim=(1, 2, 3)))
        return plain


class GainEstimator(Estimator):
    """Predicts the error of every 4x4 cell: that of bicubic, and what each exit gains over it.

    Ours, because only the gains decide which exit a patch takes, and an average of features hardly shows them. Errors add
    up, decibels do not: cells predict the logarithm of their mean squared error from a neighbourhood of 20x20 pixels, the
    patch averages the errors and takes the logarithm last. What tells a patch of 50 dB from one of 40 dB is contrast far
    below what layers of learned weights resolve, so they are given ``ops.cell_details`` beside what they learn. At fewer
    multiply-accumulates than the paper's estimator.
    """

    name = "gain"
    margin = 12
    narrow = ("layers",)

    def __init__(self, num_exits: int = 4) -> None:
        super().__init__(num_exits)
        self.colour = nn.Sequential(CentredConvolution(3, 43, CELL, stride=CELL), nn.LeakyReLU(0.1))
        self.layers = nn.Sequential(
            nn.Conv2d(43 + ops.CELL_DETAILS, 48, 3),
            nn.LeakyReLU(0.1),
            nn.Conv2d(48, 48, 3),
            nn.LeakyReLU(0.1),
            nn.Conv2d(48, 48, 1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(48, num_exits, 1),
        )
        last = self.layers[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, -0.2)
        with torch.no_grad():
            last.bias[0] = -6.5  # bicubic on natural images: 28 dB

    def log_error(self, lr: Tensor) -> Tensor:
        """(N, 3, H+24, W+24) -> (N, E, H/4, W/4): natural logarithm of the mean squared error of every cell."""
        colour = self.colour(lr)[:, :, 1:-1, 1:-1]  # a cell too many each way takes less time than a copy without them
        details = ops.cell_details(lr[:, :, 3:-3, 3:-3])
        dtype = next(self.layers.parameters()).dtype
        gains = self.layers(torch.cat([colour.to(dtype), details.to(dtype)], dim=1))
        return gains.cumsum(dim=1).clamp(-16, 1)

    def features(self, lr: Tensor) -> Tensor:
        return self.log_error(lr).exp()

    def readout(self, pooled: Tensor) -> Tensor:
        return -_DB * pooled.clamp_min(1e-7).log()

    def loss(self, lr: Tensor, targets: ExitTargets) -> Tensor:
        """PSNR and gains of patches and cells, in dB, and the regret of the decision.

        The regret of a patch at a random eta is what its (softened) decision loses against the best one, in dB of its
        image, which is what a viewer of the image sees: 4.34 * error / error of the image + eta * cost.
        """
        log_error = self.log_error(lr)
        predicted = self.readout(log_error.exp().mean(dim=(2, 3)))
        absolute = (predicted - targets.psnr_db).abs().mean()
        gains = (_gains(predicted) - _gains(targets.psnr_db)).abs().mean()
        true_log = (targets.cell_error + 1e-6).log()
        cells = (log_error[:, :1] - true_log[:, :1]).abs().mean()
        cell_gains = (_gains(log_error) - _gains(true_log)).abs().mean()

        eta = torch.empty(len(lr), 1, device=lr.device).uniform_(math.log(0.005), math.log(1.5)).exp()
        score = predicted - eta * targets.cost
        score = torch.cat([score[:, :1] + targets.blank[:, None], score[:, 1:]], dim=1)
        error = targets.cell_error.mean(dim=(2, 3)) / targets.image_error[:, None]
        value = _DB * error.clamp(max=8) + eta * targets.cost
        regret = ((score / 0.07).softmax(dim=1) * value).sum(dim=1) - value.amin(dim=1)
        return 2 * absolute + gains + 0.3 * _DB * (cells + 3 * cell_gains) + 10 * regret.mean()


def _gains(values: Tensor) -> Tensor:
    """Differences to exit 0 along dimension 1."""
    return values[:, 1:] - values[:, :1]


def create_estimator(name: str, num_exits: int = 4) -> Estimator:
    """A freshly initialised estimator.

    Raises:
        ValueError: unknown name.
    """
    for estimator in Estimator.__subclasses__():
        if estimator.name == name:
            return estimator(num_exits)
    names = ", ".join(sorted(estimator.name for estimator in Estimator.__subclasses__()))
    raise ValueError(f"estimator: expected one of {names}, got {name!r}")
