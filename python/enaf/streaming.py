# SPDX-License-Identifier: Apache-2.0
"""Rows of an image on their way from the host to the device and back, beside the device's work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

ReadRows = Callable[[int, int], Tensor]
"""(top, bottom) -> (C, bottom - top, W) on the host: those rows of the LR image."""
WriteRows = Callable[[int, Tensor], object]
"""(top, rows): the SR image's rows from ``top`` on, (C, rows, s*W) on the host."""


class HostRows:
    """Reads rows from the host into the device's memory.

    Args:
        read: the caller's.
        shape: (channels, height, width) of the LR image.
        device: where the rows go.
        check: complains about the first batch of rows that is no image; given (1, C, rows, W).

    Attributes:
        seconds: that ``read`` took.
    """

    def __init__(
        self, read: ReadRows, shape: tuple[int, int, int], device: torch.device, check: Callable[[Tensor], None]
    ):
        self.read, self.shape, self.device, self.check = read, shape, device, check
        self.dtype: torch.dtype | None = None
        self.seconds = 0.0

    def __call__(self, top: int, bottom: int) -> Tensor:
        """(1, C, bottom - top, W) on the device, in the stream that is current.

        Raises:
            TypeError, ValueError: ``read`` returned something else.
        """
        began = time.perf_counter()
        rows = self.read(top, bottom)
        self.seconds += time.perf_counter() - began
        expected = (self.shape[0], bottom - top, self.shape[2])
        if not isinstance(rows, Tensor) or tuple(rows.shape) != expected or rows.device.type != "cpu":
            raise ValueError(f"read: expected a CPU tensor of {expected}, got {_describe(rows)}")
        if self.dtype not in (None, rows.dtype):
            raise TypeError(f"read: expected {self.dtype} as before, got {rows.dtype}")
        self.dtype = rows.dtype
        self.check(rows[None])
        if self.device.type == "cuda":
            # the copy goes on while the caller may fill pinned memory of its own with the next rows
            rows = rows.clone() if rows.is_pinned() else rows.contiguous().pin_memory()
        return rows[None].to(self.device, non_blocking=True)


def _describe(rows: object) -> str:
    return f"{tuple(rows.shape)} on {rows.device}" if isinstance(rows, Tensor) else type(rows).__name__


class _Pending(NamedTuple):
    top: int
    rows: Tensor
    copied: torch.cuda.Event


class HostSink:
    """Writes rows to the host; from a GPU they are copied while the device works on, and written one call later.

    Attributes:
        seconds: that ``write`` took, where nothing goes on beside it.
    """

    def __init__(self, write: WriteRows, device: torch.device) -> None:
        self.write = write
        self.seconds = 0.0
        self.pending: _Pending | None = None
        self.side = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, top: int, rows: Tensor, images: object = None) -> None:
        """Takes (1, C, rows, s*W) from the current stream."""
        if self.side is None:
            began = time.perf_counter()
            self.write(top, rows[0])
            self.seconds += time.perf_counter() - began
            return
        host = torch.empty_like(rows, device="cpu", pin_memory=True)
        self.side.wait_stream(torch.cuda.current_stream(rows.device))
        with torch.cuda.stream(self.side):
            host.copy_(rows, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        rows.record_stream(self.side)
        self.flush()
        self.pending = _Pending(top, host, copied)

    def flush(self) -> None:
        """Writes what is still on its way."""
        if self.pending is not None:
            pending, self.pending = self.pending, None
            pending.copied.synchronize()
            self.write(pending.top, pending.rows[0])


Item = TypeVar("Item", bound=tuple[object, ...])


def beside(items: Iterable[Item], device: torch.device) -> Iterator[Item]:
    """The items, each made in a stream of its own on a GPU: what follows is prepared while the current stream still works
    on what came before. Tensors among an item's fields may be used in the current stream."""
    if device.type != "cuda":
        yield from items
        return
    current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    side.wait_stream(current)
    iterator = iter(items)
    while True:
        with torch.cuda.stream(side):
            item = next(iterator, None)
        if item is None:
            return
        current.wait_stream(side)
        for value in item:
            if isinstance(value, Tensor):
                value.record_stream(current)
        yield item
