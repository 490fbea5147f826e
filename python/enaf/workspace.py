# SPDX-License-Identifier: Apache-2.0
"""Memory that a call needs for a moment, kept for the next call.

Fresh memory costs a CPU a page fault every 4096 bytes. The results of a band of patches are tens of megabytes, which the C
library gives back to the system each time: without this, FSRCNN on small images takes a third longer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Room:
    """One call's memory on a device; what it gives out is overwritten by what it gives out next."""

    def __init__(self, device: torch.device) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8, device=device)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A contiguous tensor of this shape."""
        needed = math.prod(shape) * dtype.itemsize
        if needed > self._bytes.numel():
            self._bytes = self._bytes.new_empty(needed)
        return self._bytes[:needed].view(dtype).view(shape)


class Workspace:
    """Rooms for calls that follow each other, and one for each of those that run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._idle: dict[int, list[Room]] = {}

    @contextmanager
    def room(self) -> Iterator[Room]:
        """A room for one call, given back at its end; after an error its memory is given up."""
        stream = torch.cuda.current_stream(self._device).cuda_stream if self._device.type == "cuda" else 0
        idle = self._idle.setdefault(stream, [])  # one stream may still read what another must not overwrite
        try:
            room = idle.pop()
        except IndexError:
            room = Room(self._device)
        yield room
        idle.append(room)
