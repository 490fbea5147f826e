# SPDX-License-Identifier: Apache-2.0
"""Patches of one band after another blended into an image, as if they were all there at once."""

from __future__ import annotations

import torch
from torch import Tensor

from enaf_ext import ops

from .bands import Band


class BandBlend:
    """Blends the bands of a grid in turn; between two bands it keeps the last row of patches, which the next one overlaps.

    Args:
        batch: images that the bands run through together.
        scale: upscaling factor.
        dtype: of the result.
    """

    def __init__(self, batch: int, scale: int, dtype: torch.dtype) -> None:
        self.batch, self.scale, self.dtype = batch, scale, dtype
        self.kept = torch.empty(0)

    def lead(self, band: Band) -> int:
        """Patches of the band before that the blend of this one needs, in front of its own."""
        return 0 if band.first == 0 else self.batch * band.grid.cols

    def __call__(self, band: Band, patches: Tensor, order: Tensor) -> Tensor:
        """The image rows that this band finishes, (B, 3, rows, s*W).

        Args:
            patches: room for ``lead(band)`` patches, which is filled here, then the band's, ordered as ``order``.
            order: (M,) int64, indices into the band's own grid.
        """
        grid, scale = band.grid, self.scale
        lead = self.lead(band)
        covered = Band(grid, band.first - (lead > 0), band.last)
        every, last = covered.local.num_patches, covered.local.num_patches - grid.cols
        image = torch.arange(self.batch, device=order.device)[:, None] * every
        col = torch.arange(grid.cols, device=order.device)
        if lead > 0:
            patches[:lead] = self.kept
            order = order + grid.cols * (1 + order // band.local.num_patches)
            order = torch.cat([(image + col).flatten(), order])
        first, end = (scale * (row - covered.top) for row in band.finished)
        sr = ops.fold_patches(patches, covered.local.scaled(scale), order, batch=self.batch, dtype=self.dtype)
        if band.last < grid.rows:
            place = torch.empty_like(order)
            place[order] = torch.arange(len(order), device=order.device)
            self.kept = patches[place[(image + last + col).flatten()]]
        return sr[:, :, first:end]
