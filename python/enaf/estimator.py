# SPDX-License-Identifier: Apache-2.0
"""PSNR estimators: what each exit would reach on each patch, without running it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from enaf_ext.grid import PatchGrid

CELL = 4
"""LR pixels per side of an estimator cell: every estimator looks at the image in steps of four pixels."""


class Estimator(nn.Module, ABC):
    """Predicts (N, E) PSNR in dB from LR patches.

    An estimator turns the image into a map of features with one cell per 4x4 pixels, averages the cells of each patch
    and reads the PSNR from the average. Because the map does not depend on the patches, it is computed once for the
    whole image where patch origins fall on cells: overlapping patches then cost nothing extra.

    Attributes:
        name: registry name.
        margin: LR pixels around a patch that its estimate depends on (a multiple of 4).
        num_exits: E.
    """

    name: ClassVar[str]
    margin: ClassVar[int] = 0

    def __init__(self, num_exits: int = 4) -> None:
        super().__init__()
        self.num_exits = num_exits

    @abstractmethod
    def features(self, lr: Tensor) -> Tensor:
        """(N, 3, H + 2*margin, W + 2*margin) in [0, 1] -> (N, F, H/4, W/4)."""

    @abstractmethod
    def readout(self, pooled: Tensor) -> Tensor:
        """Averages over patches (N, F) -> PSNR (N, E) in dB."""

    def forward(self, lr: Tensor) -> Tensor:
        """Patches with their margin (N, 3, P + 2*margin, P + 2*margin), values in [0, 1] -> PSNR (N, E) in dB."""
        return self.readout(self.features(lr).mean(dim=(2, 3)))

    def on_grid(self, image: Tensor, grid: PatchGrid) -> Tensor:
        """Estimates for every patch of a grid.

        Args:
            image: (B, 3, H, W), floating, values in [0, 1].
            grid: over ``image``; any patch size and overlap. Where both are multiples of 4 the map is computed once.

        Returns:
            (B*N, E) in dB, image-major, then row-major. Equal to ``forward`` on the patches up to float rounding.
        """
        bottom, right = grid.padded_height - grid.height, grid.padded_width - grid.width
        m = self.margin
        padded = F.pad(image, (m, right + m, m, bottom + m), mode="replicate")
        padded = padded.contiguous(memory_format=torch.channels_last)
        if grid.patch_size % CELL or grid.stride % CELL:
            size = grid.patch_size + 2 * m
            usable = max(CELL, grid.patch_size // CELL * CELL) + 2 * m
            patches = padded.unfold(2, size, grid.stride).unfold(3, size, grid.stride)
            patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, size, size)
            if size < usable:
                patches = F.pad(patches, (0, usable - size, 0, usable - size), mode="replicate")
            return self.forward(patches[:, :, :usable, :usable])
        features = self.features(padded)
        pooled = F.avg_pool2d(features, grid.patch_size // CELL, grid.stride // CELL)
        return self.readout(pooled.permute(0, 2, 3, 1).reshape(-1, pooled.shape[1]))


class PaperEstimator(Estimator):
    """The estimator of the paper (ClassSR's class module, 60,068 parameters, 3.80 M multiply-accumulates a patch)."""

    name = "paper"

    def __init__(self, num_exits: int = 4) -> None:
        super().__init__(num_exits)
        widths = (128, 128, 128, 128, 32)
        layers: list[nn.Module] = [nn.Conv2d(3, 128, CELL, stride=CELL)]
        for source, target in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.LeakyReLU(0.1), nn.Conv2d(source, target, 1)]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(32, num_exits)

    def features(self, lr: Tensor) -> Tensor:
        return self.layers(lr)

    def readout(self, pooled: Tensor) -> Tensor:
        return self.last(pooled)


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
