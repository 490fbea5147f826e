# SPDX-License-Identifier: Apache-2.0
"""Bands of patch rows: what of an image is in work at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from enaf_ext.grid import PatchGrid


@dataclass(frozen=True)
class Band:
    """Some rows of patches of a grid, and the image's rows under them.

    Attributes:
        grid: over the whole image.
        first, last: the rows of patches [first, last).
        margin: image rows above and below the patches that are needed too, as far as the image has them.
    """

    grid: PatchGrid
    first: int
    last: int
    margin: int = 0

    @property
    def top(self) -> int:
        """First image row under the patches."""
        return self.first * self.grid.stride

    @property
    def bottom(self) -> int:
        """One past the last image row under the patches."""
        return min(self.grid.height, (self.last - 1) * self.grid.stride + self.grid.patch_size)

    @property
    def above(self) -> int:
        """Rows of margin there are above the patches."""
        return min(self.margin, self.top)

    @property
    def below(self) -> int:
        """Rows of margin there are below the patches."""
        return min(self.margin, self.grid.height - self.bottom)

    @property
    def local(self) -> PatchGrid:
        """The grid over the band's own rows, without its margin."""
        return PatchGrid(self.bottom - self.top, self.grid.width, self.grid.patch_size, self.grid.overlap)

    def split(self, rows: int) -> Iterator[Band]:
        """The bands of ``rows`` rows of patches, the last one fewer, that this one is made of; without margin."""
        for first in range(self.first, self.last, rows):
            yield Band(self.grid, first, min(first + rows, self.last))

    def rows_of(self, part: Band, image: Tensor) -> Tensor:
        """Those of a part of this band, from this band's rows with their margin."""
        start = self.above + part.top - self.top
        return image[:, :, start : start + part.bottom - part.top]

    @property
    def finished(self) -> tuple[int, int]:
        """Image rows that no later band touches and no earlier one has finished."""
        return self.top, self.grid.height if self.last == self.grid.rows else self.last * self.grid.stride


def bands(grid: PatchGrid, rows: int, margin: int = 0) -> Iterator[Band]:
    """The grid from top to bottom, ``rows`` rows of patches at a time."""
    for first in range(0, grid.rows, rows):
        yield Band(grid, first, min(first + rows, grid.rows), margin)
