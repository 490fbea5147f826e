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
        window: weights of the patches' pixels, see ``ops.fold_patches``.
    """

    def __init__(self, batch: int, scale: int, dtype: torch.dtype, window: str) -> None:
        self.batch, self.scale, self.dtype, self.window = batch, scale, dtype, window
        self.kept = torch.empty(0)

    def __call__(self, band: Band, patches: list[Tensor], order: Tensor, out: Tensor | None = None) -> Tensor:
        """The image rows that this band finishes, (B, 3, rows, s*W).

        Args:
            patches: the band's, in any number of parts.
            order: (M,) int64, the parts' indices in the band's own grid.
            out: where they are put, see ``ops.fold_patches``.
        """
        grid, covered = band.grid, band
        if band.first > 0:
            covered = Band(grid, band.first - 1, band.last)
            above = self._row(covered, 0, order.device)
            order = torch.cat([above, order + grid.cols * (1 + order // band.local.num_patches)])
            patches = [self.kept, *patches]
        first, end = (self.scale * (row - covered.top) for row in band.finished)
        sr = ops.fold_patches(
            patches,
            covered.local.scaled(self.scale),
            order,
            batch=self.batch,
            rows=(first, end),
            window=self.window,
            dtype=self.dtype,
            out=out,
        )
        if band.last < grid.rows:
            place = torch.empty_like(order)
            place[order] = torch.arange(len(order), device=order.device)
            last = place[self._row(covered, covered.last - covered.first - 1, order.device)]
            self.kept = _pick(patches, last)
        return sr

    def _row(self, band: Band, row: int, device: torch.device) -> Tensor:
        """Indices of one row of patches in the grid of a band, image by image."""
        image = torch.arange(self.batch, device=device)[:, None] * band.local.num_patches
        return (image + row * band.grid.cols + torch.arange(band.grid.cols, device=device)).flatten()


def _pick(parts: list[Tensor], indices: Tensor) -> Tensor:
    """``torch.cat(parts)[indices]`` in the layout of the parts; on a CPU without the whole of the former."""
    layout = torch.contiguous_format if parts[0].is_contiguous() else torch.channels_last
    if len(parts) == 1:
        return parts[0][indices].contiguous(memory_format=layout)
    if parts[0].is_cuda:
        return torch.cat(parts)[indices].contiguous(memory_format=layout)
    patches = [patch for part in parts for patch in part]
    picked = torch.empty(
        (len(indices), *parts[0].shape[1:]), dtype=parts[0].dtype, device=parts[0].device,
        memory_format=layout,
    )  # fmt: skip
    for target, index in zip(picked, indices.tolist(), strict=True):
        target.copy_(patches[index])
    return picked
