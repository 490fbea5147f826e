# SPDX-License-Identifier: Apache-2.0
"""A model made ready for one device in one arithmetic, and the images on their way through it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from enaf_ext.grid import PatchGrid

from .bands import Band, bands
from .estimator import Estimator
from .fused import FusedNetwork
from .inference import batch_size, pack
from .models import MultiExitNetwork
from .pixels import Place, Read, Write, nowhere, pick
from .record import Record, Request, Stopwatch
from .static import StaticNetwork
from .workspace import Workspace

BAND_PATCHES = {"cpu": 256, "cuda": 4096}
"""Patches in work at once: enough that what is done once a band costs little, on a GPU that they fill it; fits any memory."""
SCORED_PIXELS = 1 << 20
"""LR pixels that are scored at once: several bands, whose margins would else be looked at twice."""


@dataclass(frozen=True)
class Engine:
    """A model on one device in one arithmetic; `exact` is its network where float16 overflows: in float32, `cost` c."""

    network: MultiExitNetwork
    exact: MultiExitNetwork
    estimator: Estimator
    device: torch.device
    dtype: torch.dtype
    cost: Tensor
    fused: FusedNetwork | None = None
    batches: dict[int, int] = field(default_factory=dict)
    wholes: dict[tuple[int, bool], StaticNetwork] = field(default_factory=dict)

    @cached_property
    def workspace(self) -> Workspace:
        """Memory for the results of a band of patches."""
        return Workspace(self.device)

    def whole(self, depth: int, exact: bool = False) -> StaticNetwork:
        """An exit without patches, of the network or of the exact one."""
        if (depth, exact) not in self.wholes:
            self.wholes[depth, exact] = StaticNetwork(self.exact if exact else self.network, depth)
        return self.wholes[depth, exact]

    def overlap(self, depth: int, height: int, width: int) -> float:
        """What ``run_static`` multiplies for an image over what the exit would if no part of it were computed twice."""
        in_parts = self.fused is None or self.fused.image is None
        return self.whole(depth).overlap(height, width) if in_parts else 1.0

    def batch(self, patch_size: int) -> int:
        """Patches that a convolution sees at once."""
        if patch_size not in self.batches:
            self.batches[patch_size] = batch_size(self.network, patch_size, self.device)
            pack(self.network, patch_size, self.batches[patch_size])
        return self.batches[patch_size]

    def band_rows(self, grid: PatchGrid, batch: int) -> int:
        """Rows of patches of a grid over ``batch`` images that go through their exits at once."""
        return max(1, BAND_PATCHES[self.device.type] // (batch * grid.cols))

    def scored_bands(self, grid: PatchGrid, batch: int) -> list[Band]:
        """What is scored at once: some bands of ``band_rows``."""
        rows = self.band_rows(grid, batch)
        together = max(1, SCORED_PIXELS // (batch * rows * grid.stride * grid.width))
        return list(bands(grid, rows * together, self.estimator.margin))


class Job(NamedTuple):
    """Images on their way from `read` to `write`, by way of `place`."""

    engine: Engine
    request: Request
    grid: PatchGrid
    images: list[int]
    read: Read
    write: Write
    record: Record
    watch: Stopwatch
    place: Place = nowhere

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, H, W) of the images."""
        return len(self.images), self.grid.height, self.grid.width

    def here(self, band: Band) -> tuple[slice | list[int], slice]:
        """Where the record keeps a band of these images."""
        every = len(self.images) == len(self.record.exit_index)
        return slice(None) if every else self.images, slice(band.first, band.last)

    def rows(self, band: Band) -> Tensor:
        """The images' rows of a band with its margin."""
        return self.read(band.top - band.above, band.bottom + band.below)

    def of(self, images: list[int]) -> Job:
        """The same for some of the images."""
        if images == self.images:
            return self
        return self._replace(
            images=images,
            read=lambda top, bottom: pick(self.read(top, bottom), images),
            write=lambda top, rows: self.write(top, rows, images),
            place=nowhere,
        )
