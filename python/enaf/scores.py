# SPDX-License-Identifier: Apache-2.0
"""Edge scores and predicted PSNR: of every patch, or of some."""

from __future__ import annotations

import torch
from torch import Tensor

from enaf_ext import ops
from enaf_ext.grid import PatchGrid

from .bands import Band
from .engine import Job
from .pixels import as_rgb, pick, unit_range

SAMPLED, LEAST_SAMPLED, MOST_SAMPLED = 24, 8, 128
"""Of the patches of a larger image one in so many is looked at for the decision, but not fewer and not more than these."""


def score(job: Job, band: Band, lr: Tensor) -> None:
    """Edge scores and predicted PSNR of a band's patches, from its rows with their margin."""
    inner = lr[:, :, band.above : lr.shape[2] - band.below]
    here = job.here(band)
    shape = (len(job.images), band.last - band.first, job.grid.cols)
    job.record.edge_score[here] = ops.edge_score(inner, band.local).view(shape)
    psnr_db = job.engine.estimator.on_grid(unit_range(as_rgb(lr)), band.local, band.above, band.below)
    job.record.psnr_db[here] = psnr_db.view(*shape, -1)


def score_all(job: Job) -> None:
    """Every patch of every image, once."""
    if not job.record.scored:
        for band in job.engine.scored_bands(job.grid, len(job.images)):
            score(job, band, job.rows(band))
        job.record.scored = True


def spread(grid: PatchGrid) -> Tensor:
    """Some patches (n,): rows in turn, columns by the golden ratio, spread over the image whatever its grid."""
    count = min(max(grid.num_patches // SAMPLED, min(grid.num_patches, LEAST_SAMPLED)), MOST_SAMPLED)
    index = torch.arange(count)
    return (2 * index + 1) * grid.rows // (2 * count) * grid.cols + (index * 0.618034 % 1 * grid.cols).long()


def scores_of(job: Job, patches: Tensor) -> tuple[Tensor, Tensor]:
    """PSNR (B, n, E) and edge scores (B, n) of some patches (n,) of the grid, each from its own pixels and their margin."""
    grid, estimator, size = job.grid, job.engine.estimator, job.grid.patch_size
    margin = estimator.margin
    window = torch.arange(-margin, size + margin)
    rows = (patches[:, None] // grid.cols * grid.stride + window).clamp_(0, grid.height - 1)
    cols = (patches[:, None] % grid.cols * grid.stride + window).clamp_(0, grid.width - 1)
    places = (rows - rows[:, :1]).to(job.engine.device)[:, :, None], cols.to(job.engine.device)[:, None]
    windows = [
        pick(job.read(top, bottom + 1), slice(None), slice(None), below, right)
        for top, bottom, below, right in zip(rows[:, 0].tolist(), rows[:, -1].tolist(), *places, strict=True)
    ]
    looked_at = torch.stack(windows, dim=1).flatten(0, 1)
    inner = looked_at[..., margin : margin + size, margin : margin + size].contiguous()
    edge_score = ops.edge_score(inner, PatchGrid(size, size, size, 0))
    pixels = unit_range(as_rgb(looked_at)).contiguous(memory_format=torch.channels_last)
    shape = len(job.images), len(patches)
    return estimator(pixels).view(*shape, -1), edge_score.view(shape)
