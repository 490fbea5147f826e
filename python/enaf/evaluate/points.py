# SPDX-License-Identifier: Apache-2.0
"""Settings of a policy over a set of images: what they reach and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from enaf.adaptive import AdaptiveNetwork
from enaf.cost import CostTable, paper_flops

from .policies import Policy
from .record import ImageRecord
from .timing import Timing

ETAS = (
    *(step / 50 for step in range(51)),
    *(step / 10 for step in range(11, 31)),
    *(4.0, 5.0, 7.0, 10.0, 20.0, 50.0, 1e3),
)
"""Where settings are looked for: every 0.02 dB up to 1, every 0.1 up to 3, then up to bicubic everywhere."""

TOLERANCE_DB = 0.02
"""How far below the full exit a routed set may stay and still count as equal."""


@dataclass(frozen=True)
class Costs:
    """What a model costs, in the three columns.

    Attributes:
        table: published FLOPs and true multiply-accumulates.
        full_flops: published FLOPs of the full exit for one patch of 32x32.
        timing: milliseconds on one device, or None where nothing was timed.
    """

    table: CostTable
    full_flops: float
    timing: Timing | None = None

    @classmethod
    def of(cls, model: AdaptiveNetwork, timing: Timing | None = None) -> Costs:
        """Count a model."""
        return cls(CostTable.of(model), float(paper_flops(model.network)[-1]), timing)


@dataclass(frozen=True)
class Point:
    """One policy at one eta over one set.

    Attributes:
        policy, eta: the setting.
        psnr_db, psnr_y_db: means over images.
        paper: published FLOPs, mean over patches, as a share of the full exit.
        macs: true multiply-accumulates, estimator and overlap included, as a share of the full network without tiling.
        ms: milliseconds, from the times of scores and exits, an image; 0 where nothing was timed.
        ms_share: the same as a share of the full network without tiling.
        counts: patches that took each exit.
    """

    policy: str
    eta: float
    psnr_db: float
    psnr_y_db: float
    paper: float
    macs: float
    ms: float
    ms_share: float
    counts: list[int]


def evaluate(policy: Policy, eta: float, records: Sequence[ImageRecord], costs: Costs, name: str = "") -> Point:
    """One policy at one eta over a set."""
    chosen = [policy.choose(record, costs.table.paper, eta) for record in records]
    psnr_db = torch.tensor([record.psnr(exits) for record, exits in zip(records, chosen, strict=True)])
    counts = [record.counts(exits).double() for record, exits in zip(records, chosen, strict=True)]
    total = torch.stack(counts).sum(dim=0)
    macs = [_macs(policy, record, count, costs.table) for record, count in zip(records, counts, strict=True)]
    ms, static_ms = 0.0, 0.0
    if costs.timing is not None:
        estimator = costs.table.estimator_macs_per_pixel
        # the time of the scores is the estimator's; another scorer is charged by its share of multiply-accumulates
        scores = costs.timing.scores_per_pixel * policy.macs_per_pixel(estimator) / estimator
        exits_ms = torch.tensor(costs.timing.exit_per_patch, dtype=torch.float64)
        pixels = sum(record.lr[0].numel() for record in records)
        ms = float((total * exits_ms).sum()) + scores * pixels
        static_ms = costs.timing.static_per_pixel * pixels
    rgb, y = psnr_db.mean(dim=0).tolist()
    return Point(
        policy=name or policy.name,
        eta=eta,
        psnr_db=rgb,
        psnr_y_db=y,
        paper=float((total * costs.table.paper).sum() / total.sum()),
        macs=sum(spent for spent, _ in macs) / sum(static for _, static in macs),
        ms=ms / len(records),
        ms_share=ms / static_ms if static_ms else 0.0,
        counts=[int(count) for count in total],
    )


def _macs(policy: Policy, record: ImageRecord, counts: Tensor, table: CostTable) -> tuple[float, float]:
    """(spent, full network without tiling), true multiply-accumulates of one image."""
    grid = record.grid
    exits = float((counts * table.macs_per_pixel).sum()) * grid.patch_size**2
    scores = policy.macs_per_pixel(table.estimator_macs_per_pixel) * grid.padded_height * grid.padded_width
    return exits + scores, grid.height * grid.width * float(table.macs_per_pixel[-1])


def curve(policy: Policy, records: Sequence[ImageRecord], costs: Costs, etas: Iterable[float] = ETAS) -> list[Point]:
    """A policy at many etas; one point where eta changes nothing."""
    return [evaluate(policy, eta, records, costs) for eta in (etas if policy.follows_eta else [0.0])]


def cheapest_reaching(points: Sequence[Point], target_db: float) -> Point | None:
    """The point of least published cost whose mean PSNR is at least a target; None where none reaches it."""
    good = [point for point in points if point.psnr_db >= target_db]
    return min(good, key=lambda point: (point.paper, -point.psnr_db)) if good else None


def best_within(points: Sequence[Point], budget: float) -> Point | None:
    """The point of highest PSNR whose published cost is within a share of the full exit; None where none is."""
    good = [point for point in points if point.paper <= budget]
    return max(good, key=lambda point: point.psnr_db) if good else None
