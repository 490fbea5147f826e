# SPDX-License-Identifier: Apache-2.0
"""Which images go through one exit as a whole, because running their overlapping patches would cost more."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from enaf_ext import ops

from .decision import choose_exits
from .engine import Job
from .scores import score_all, scores_of, spread

LOOKED_AT = {"cpu": 1 << 18, "cuda": 1 << 24}
"""The largest image, in pixels, whose patches are all scored before it is decided whether routing pays."""
IN_MEMORY = {"cpu": 1 << 21, "cuda": 1 << 24}
"""The largest that may go through an exit shallower than the full one as a whole: all its patches are scored before any runs,
and its rows are read in any order. Of larger ones only a sample is looked at."""

FIRST_LOOK, TEXTURED = (16, 8), 16
"""On a CPU the patches above a sixteenth and an eighth of all others by their edge scores come first: where these two take exits
that are too dear, so do the rest, and are not scored. Where the edge score of the first is below ``TEXTURED`` the image has
smooth parts, on which routing mostly pays: all are scored at once."""

LARGEST_SHARE = 1.0
"""Of the full network's multiply-accumulates, up to which an image is routed."""
WORTH_IT, WORTH_MIXING = 0.9, 0.8
"""Of the price of routing, up to which an image goes as a whole through an exit that is not the full one, and through one with
some of its patches beside it, whose memory has to be written and read once more."""


class Prices(NamedTuple):
    """What an image costs, in multiply-accumulates or in milliseconds.

    Attributes:
        cost: (E,), c of the fusion rule.
        routed: how many of its patches take each exit, (E,) -> the price of it routed.
        whole: (E,) float64 on the CPU, of each exit over it as a whole; 0 for bicubic.
    """

    cost: Tensor
    routed: Callable[[Tensor], float]
    whole: Tensor


class Way(NamedTuple):
    """How an image goes.

    Attributes:
        whole: the exit that all of it goes through at once; 0 if none.
        patches: whether patches go through other, deeper exits.
    """

    whole: int
    patches: bool


ROUTED = Way(0, True)


def ways(job: Job, eta: float, prices: Prices) -> list[Way]:
    """The cheapest way of every image on which no patch takes a shallower exit than it chose. Scores as few patches as that
    takes; of images up to ``LOOKED_AT`` mostly all, which are then in the record."""
    grid, record, device = job.grid, job.record, job.engine.device.type
    pixels, full = grid.height * grid.width, Way(len(prices.cost) - 1, patches=False)
    dear: list[int] = []
    if not record.scored:
        if pixels > LOOKED_AT[device]:
            dear = _dear_by(job, eta, prices, *scores_of(job, spread(grid)))
        elif device == "cpu":
            dear = _dear_at_first_look(job, eta, prices)
        if len(dear) < len(job.images) and pixels <= IN_MEMORY[device]:
            score_all(job)
    if not record.scored:
        return [full if image in dear else ROUTED for image in job.images]
    all_told = _counts(job, eta, prices, record.psnr_db.flatten(1, 2), record.edge_score.flatten(1))
    cheapest = [_cheapest(counts, prices) for counts in all_told]
    return [full if image in dear else way for image, way in zip(job.images, cheapest, strict=True)]


def _cheapest(counts: Tensor, prices: Prices) -> Way:
    """By how many patches (E,) take each exit."""
    routed = prices.routed(counts)
    best, price = ROUTED, routed
    for depth in range(1, len(counts)) if counts[1:].any() else ():  # nothing is cheaper than bicubic
        deeper = torch.cat([counts[: depth + 1].sum()[None], counts.new_zeros(depth), counts[depth + 1 :]])
        way = Way(depth, patches=bool(deeper[1:].any()))
        asked = prices.whole[depth].item() + (prices.routed(deeper) if way.patches else 0.0)
        worth = WORTH_MIXING if way.patches else WORTH_IT if depth < len(counts) - 1 else 1.0
        if asked < min(price, worth * routed):
            best, price = way, asked
    return best


def _dear_at_first_look(job: Job, eta: float, prices: Prices) -> list[int]:
    """Images that are too dear by two patches, of those that have no smooth parts."""
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
    """Images that go through the full network as a whole, by some scores (B, n, E) and (B, n) of them: where it is cheaper than
    routing. In images up to ``IN_MEMORY`` also cheaper than the deepest exit of these patches as a whole, for which all the
    others have to be scored."""
    grid, full = job.grid, prices.whole[-1].item()
    small = grid.height * grid.width <= IN_MEMORY[job.engine.device.type]
    dear = []
    for image, counts in zip(job.images, _counts(job, eta, prices, psnr_db, edge_score), strict=True):
        deepest = int(counts.nonzero().max())
        nothing_learned = torch.zeros_like(counts)
        nothing_learned[0] = grid.num_patches
        shallower = prices.whole[deepest].item() + prices.routed(nothing_learned)
        routed = prices.routed(counts * (grid.num_patches / counts.sum()))
        if routed > full and deepest > 0 and (shallower >= full or not small):
            dear.append(image)
    return dear


def _counts(job: Job, eta: float, prices: Prices, psnr_db: Tensor, edge_score: Tensor) -> list[Tensor]:
    """How many of these patches of each image take each exit, (E,) int64 on the CPU."""
    chosen = choose_exits(psnr_db.flatten(0, 1), edge_score.flatten(), prices.cost, eta, job.request.gamma)
    return [exits.bincount(minlength=len(prices.cost)) for exits in chosen.view(edge_score.shape).cpu()]
