# SPDX-License-Identifier: Apache-2.0
"""Which images go through the full network as a whole, because routing their overlapping patches would cost more."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from enaf_ext import ops

from .decision import choose_exits
from .engine import Job
from .scores import score_all, scores_of, spread

LOOKED_AT = {"cpu": 1 << 18, "cuda": 1 << 24}
"""The largest image, in pixels, whose patches are all scored before it is decided whether routing pays."""

FIRST_LOOK, TEXTURED = (16, 8), 16
"""On a CPU the patches above a sixteenth and an eighth of all others by their edge scores come first: where these two take exits
that are too dear, so do the rest, and are not scored. Where the edge score of the first is below ``TEXTURED`` the image has
smooth parts, on which routing mostly pays: all are scored at once."""

LARGEST_SHARE = 1.0
"""Of the full network's multiply-accumulates, up to which an image is routed."""


class Prices(NamedTuple):
    """What an image costs, in multiply-accumulates or in milliseconds.

    Attributes:
        cost: (E,), c of the fusion rule.
        routed: how many of its patches take each exit, (E,) -> the price of it routed.
        whole: of the full network over it as a whole.
    """

    cost: Tensor
    routed: Callable[[Tensor], float]
    whole: float


def too_dear(job: Job, eta: float, prices: Prices) -> list[int]:
    """The images of a job on which routing does not pay. Scores as few patches as that takes; of images up to ``LOOKED_AT``
    mostly all, which are then in the record."""
    grid, record, device = job.grid, job.record, job.engine.device.type
    dear: list[int] = []
    if not record.scored:
        if grid.height * grid.width > LOOKED_AT[device]:
            return _dear_by(job, eta, prices, *scores_of(job, spread(grid)))
        if device == "cpu":
            dear = _dear_at_first_look(job, eta, prices)
        if len(dear) < len(job.images):
            score_all(job)
    if len(dear) < len(job.images):
        all_told = _dear_by(job, eta, prices, record.psnr_db.flatten(1, 2), record.edge_score.flatten(1))
        dear = [image for image in job.images if image in dear or image in all_told]
    return dear


def _dear_at_first_look(job: Job, eta: float, prices: Prices) -> list[int]:
    """The same by two patches of each image that has no smooth parts."""
    grid, dear = job.grid, []
    edge_score = ops.edge_score(job.read(0, grid.height), grid).view(len(job.images), -1)
    places = [grid.num_patches // share for share in FIRST_LOOK]
    ranked, patches = (values[:, places] for values in edge_score.sort(dim=1, stable=True))
    for image, lowest, chosen in zip(job.images, ranked[:, 0].tolist(), patches, strict=True):
        if lowest >= TEXTURED:
            part = job.of([image])
            dear += _dear_by(part, eta, prices, *scores_of(part, chosen))
    return dear


def _dear_by(job: Job, eta: float, prices: Prices, psnr_db: Tensor, edge_score: Tensor) -> list[int]:
    """The same by these scores (B, n, E) and (B, n) of the images."""
    chosen = choose_exits(psnr_db.flatten(0, 1), edge_score.flatten(), prices.cost, eta, job.request.gamma)
    dear = []
    for image, exits in zip(job.images, chosen.view(edge_score.shape).cpu(), strict=True):
        counts = exits.bincount(minlength=len(prices.cost)) * (job.grid.num_patches / len(exits))
        # nothing is cheaper than bicubic, however little of its patches an image fills
        if prices.routed(counts) > prices.whole and exits.any():
            dear.append(image)
    return dear
