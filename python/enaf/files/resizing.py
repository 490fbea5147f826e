# SPDX-License-Identifier: Apache-2.0
"""Antialiased resizing of an image that comes in bands, in memory for one band."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from enaf.degradation import taps

Sink = Callable[[Tensor], None]


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
        self._sink = sink
        self._kept: Tensor | None = None  # (C, n, new width) float32, from row `_first` on
        self._first = self._next = 0

    def __call__(self, rows: Tensor) -> None:
        """Takes (C, n, W): uint8, uint16, or floating point in [0, 1]."""
        wide = rows.float()
        narrow = torch.zeros((*wide.shape[:2], len(self._columns)))
        for tap in range(self._columns.shape[1]):
            narrow += wide[:, :, self._columns[:, tap]] * self._column_weights[:, tap].float()
        kept = narrow if self._kept is None else torch.cat([self._kept, narrow], dim=1)
        end = self._first + kept.shape[1]
        ready = int((self._rows[self._next :].amax(dim=1) < end).long().cumprod(dim=0).sum())
        if ready:
            indices = self._rows[self._next : self._next + ready] - self._first
            weights = self._row_weights[self._next : self._next + ready].float()
            result = torch.zeros((kept.shape[0], ready, kept.shape[2]))
            for tap in range(indices.shape[1]):
                result += kept[:, indices[:, tap]] * weights[:, tap, None]
            self._sink(_like(result, rows.dtype))
            self._next += ready
        if self._next < len(self._rows):
            needed = int(self._rows[self._next :].min())
            kept = kept[:, needed - self._first :].clone()
            self._first = needed
        self._kept = kept


def _like(result: Tensor, dtype: torch.dtype) -> Tensor:
    """Clamped, for the kernel overshoots, and rounded to integers where the image has them."""
    if dtype.is_floating_point:
        return result.clamp_(0, 1).to(dtype)
    limit = torch.iinfo(dtype).max
    return (result + 0.5).floor_().clamp_(0, limit).to(torch.int32).to(dtype)
