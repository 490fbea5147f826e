# SPDX-License-Identifier: Apache-2.0
"""Antialiased resizing of an image that comes in bands, in memory for one band."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from enaf.degradation import taps

Sink = Callable[[Tensor], None]

CHUNK = 1 << 24
"""Bytes in float32 of the rows that are resized at once, some of them at least one row."""


class RowResizer:
    """Takes rows from top to bottom and hands on those of the resized image, as `degradation.resize` makes them.

    Separable convolution with Keys' cubic kernel (a = -0.5), stretched where the image shrinks, symmetric at the borders;
    rounded once. The result does not depend on the bands.

    Args:
        size: (height, width) of the image that comes.
        new_size: (height, width) of the one that goes.
        sink: gets (C, n, new width), same dtype.
    """

    def __init__(self, size: tuple[int, int], new_size: tuple[int, int], sink: Sink) -> None:
        (height, width), (new_height, new_width) = size, new_size
        self._rows, self._row_weights = taps(height, new_height)
        self._columns, self._column_weights = taps(width, new_width)
        self._last = self._rows.amax(dim=1).cummax(dim=0).values  # row that must have come before each new one can go
        self._needed = self._rows.amin(dim=1).flip(0).cummin(dim=0).values.flip(0)  # first that it or a later one uses
        self._sink = sink
        self._kept: Tensor | None = None  # (C, n, new width) float32, from row `_first` on
        self._first = self._next = 0
        self._widest = max(width, new_width)

    def __call__(self, rows: Tensor) -> None:
        """Takes (C, n, W): uint8, uint16, or floating point in [0, 1]."""
        at_once = max(1, CHUNK // (4 * rows.shape[0] * self._widest))
        for part in rows.split(at_once, dim=1):
            self._take(part, at_once)

    def _take(self, rows: Tensor, at_once: int) -> None:
        wide = rows.float()
        narrow = torch.zeros((*wide.shape[:2], len(self._columns)))
        for tap in range(self._columns.shape[1]):
            narrow += wide[:, :, self._columns[:, tap]] * self._column_weights[:, tap].float()
        kept = narrow if self._kept is None else torch.cat([self._kept, narrow], dim=1)
        ready = int(torch.searchsorted(self._last, self._first + kept.shape[1]))
        while self._next < ready:
            chunk = slice(self._next, min(self._next + at_once, ready))
            indices, weights = self._rows[chunk] - self._first, self._row_weights[chunk].float()
            result = torch.zeros((kept.shape[0], len(indices), kept.shape[2]))
            for tap in range(indices.shape[1]):
                result += kept[:, indices[:, tap]] * weights[:, tap, None]
            self._sink(_like(result, rows.dtype))
            self._next = chunk.stop
        if self._next < len(self._rows):
            needed = int(self._needed[self._next])
            kept = kept[:, needed - self._first :].clone()
            self._first = needed
        self._kept = kept


def _like(result: Tensor, dtype: torch.dtype) -> Tensor:
    """Clamped, for the kernel overshoots, and rounded to integers where the image has them."""
    if dtype.is_floating_point:
        return result.clamp_(0, 1).to(dtype)
    limit = torch.iinfo(dtype).max
    return (result + 0.5).floor_().clamp_(0, limit).to(torch.int32).to(dtype)
