# SPDX-License-Identifier: Apache-2.0
"""Which images go through one exit as a whole, because running their overlapping patches would cost more."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from enaf_ext import ops

from .decision import choose_exits, count_exits, granted, smallest_eta
from .engine import Job
from .scores import score_all, scores_of, spread

LOOKED_AT = {"cpu": 1 << 18, "cuda": 1 << 24}
"""The largest image, in pixels, of which no sample of the patches is looked at."""
IN_MEMORY = {"cpu": 1 << 21, "cuda": 1 << 24}
"""The largest that may go through an exit shallower than the full one as a whole: all its patches are scored before any runs,
and its rows are read in any order. Of larger ones only a sample is looked at."""

FIRST_LOOK, TEXTURED = (16, 8), 16
"""On a CPU the patches above a sixteenth and an eighth of all others by their edge scores come first, in larger images a sample:
where these take exits that are too dear, so do the rest, and are not scored. Where the edge score of the patch above a sixteenth
is below ``TEXTURED`` the image has smooth parts, on which routing mostly pays: all are scored at once."""

LARGEST_SHARE = 1.0
"""Of the full network's multiply-accumulates, up to which an image is routed."""
WORTH_IT, WORTH_MIXING = 0.9, 0.8
"""Of the price of routing, up to which an image goes as a whole through an exit that is not the full one, and through one with
some of its patches beside it, whose memory has to be written and read once more."""


class Prices(NamedTuple):
    """What an image costs, in multiply-accumulates or in milliseconds.

    Attributes:
        cost: (E,), c of the fusion rule.
        patch: of a patch by each exit, E numbers; its scores are not included.
        whole: of each exit over the image as a whole, E numbers; 0 for bicubic.
        scores: of all its patches.
    """

    cost: Tensor
    patch: Sequence[float]
    whole: Sequence[float]
    scores: float

    def routed(self, counts: Sequence[float]) -> float:
        """Of an image so many of whose patches take each exit, but for the scores."""
        return sum(map(operator.mul, counts, self.patch))


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
    takes; of images up to ``IN_MEMORY`` mostly all, which are then in the record."""
    grid, record, device = job.grid, job.record, job.engine.device.type
    pixels, full = grid.height * grid.width, Way(len(prices.cost) - 1, patches=False)
    dear: list[int] = []
    if not record.scored:
        if device == "cpu" and pixels <= IN_MEMORY[device]:
            dear = _dear_at_first_look(job, eta, prices)
        elif pixels > LOOKED_AT[device]:
            dear = _dear_by(job, eta, prices, *scores_of(job, spread(grid)))
        if len(dear) < len(job.images) and pixels <= IN_MEMORY[device]:
            score_all(job)
    if not record.scored:
        return [full if image in dear else ROUTED for image in job.images]
    all_told = _counts(job, eta, prices, record.psnr_db.flatten(1, 2), record.edge_score.flatten(1))
    cheapest = [_cheapest(counts, prices, _shallowest(job))[0] for counts in all_told]
    return [full if image in dear else way for image, way in zip(job.images, cheapest, strict=True)]


def eta_within(job: Job, prices: Prices, budget: float) -> tuple[float, float]:
    """The smallest eta at which the images' cheapest ways, their scores included, stay within a budget, or the one that makes
    all of them bicubic; and what they cost then. Scores all patches."""
    score_all(job)
    grid, cost, exits = job.grid, prices.cost.cpu(), len(prices.patch)
    psnr_db, edge_score = job.record.psnr_db.flatten(0, 2).cpu(), job.record.edge_score.flatten().cpu()
    base = granted(psnr_db, edge_score, job.request.gamma)

    def spent(eta: float) -> float:
        chosen = (base - eta * cost).argmax(dim=1).view(-1, grid.num_patches)
        cheapest = (_cheapest(counts, prices, _shallowest(job)) for counts in count_exits(chosen, exits))
        return sum(prices.scores + price for _, price in cheapest)

    least = len(job.images) * (prices.scores + prices.routed([grid.num_patches, *[0] * (exits - 1)]))
    eta = smallest_eta(spent, max(budget, (1 + 1e-6) * least), 1e-3)
    return eta, spent(eta)


def _shallowest(job: Job) -> int:
    """The first exit that may go over these images as a whole."""
    small = job.grid.height * job.grid.width <= IN_MEMORY[job.engine.device.type]
    return 1 if small else len(job.engine.cost) - 1


def _cheapest(counts: Sequence[int], prices: Prices, shallowest: int = 1) -> tuple[Way, float]:
    """By how many patches take each exit; and what it costs but for their scores."""
    routed = prices.routed(counts)
    best, price = ROUTED, routed
    for depth in range(shallowest, len(counts)) if any(counts[1:]) else ():  # nothing is cheaper than bicubic
        deeper = [sum(counts[: depth + 1]), *[0] * depth, *counts[depth + 1 :]]
        way = Way(depth, patches=any(deeper[1:]))
        asked = prices.whole[depth] + (prices.routed(deeper) if way.patches else 0.0)
        worth = WORTH_MIXING if way.patches else WORTH_IT if depth < len(counts) - 1 else 1.0
        if asked < min(price, worth * routed):
            best, price = way, asked
    return best, price


def _dear_at_first_look(job: Job, eta: float, prices: Prices) -> list[int]:
    """Images that are too dear by two patches or a sample, of those that have no smooth parts."""
    grid, dear = job.grid, []
    sampled = grid.height * grid.width > LOOKED_AT["cpu"]
    edge_score = ops.edge_score(job.read(0, grid.height), grid).view(len(job.images), -1)
    places = [grid.num_patches // share for share in FIRST_LOOK]
    ranked, patches = (values[:, places] for values in edge_score.sort(dim=1, stable=True))
    for image, lowest, chosen in zip(job.images, ranked[:, 0].tolist(), patches, strict=True):
        if lowest >= TEXTURED:
            part = job.of([image])
            dear += _dear_by(part, eta, prices, *scores_of(part, spread(grid) if sampled else chosen))
    return dear


def _dear_by(job: Job, eta: float, prices: Prices, psnr_db: Tensor, edge_score: Tensor) -> list[int]:
    """Images that go through the full network as a whole, by some scores (B, n, E) and (B, n) of them: where it is cheaper than
    routing. In images up to ``IN_MEMORY`` also cheaper than the deepest exit of these patches as a whole, for which all the
    others have to be scored."""
    full = prices.whole[-1]
    dear = []
    for image, counts in zip(job.images, _counts(job, eta, prices, psnr_db, edge_score), strict=True):
        deepest = max(depth for depth, count in enumerate(counts) if count)
        routed = prices.scores + prices.routed(counts) * job.grid.num_patches / sum(counts)
        shallower = prices.scores + prices.whole[max(deepest, _shallowest(job))]
        if routed > full and deepest > 0 and shallower >= full:
            dear.append(image)
    return dear


def _counts(job: Job, eta: float, prices: Prices, psnr_db: Tensor, edge_score: Tensor) -> list[list[int]]:
    """How many of these patches of each image take each exit."""
    chosen = choose_exits(psnr_db.flatten(0, 1), edge_score.flatten(), prices.cost, eta, job.request.gamma)
    return count_exits(chosen.view(edge_score.shape), len(prices.cost))
