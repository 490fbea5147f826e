# SPDX-License-Identifier: Apache-2.0
"""What was asked of an image, and what happened to it."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from enaf_ext.grid import PatchGrid

MAX_PATCH_SIZE = 1024
"""Patches are whole, also of a smaller image: larger ones take gigabytes for a pixel."""

_KINDS = (
    *((name, "__float__", "a number") for name in ("eta", "gamma", "budget", "budget_ms")),
    *((name, "__index__", "an integer") for name in ("force_exit", "patch_size", "overlap")),
)
_OPTIONAL = ("budget", "budget_ms", "force_exit")


@dataclass(frozen=True)
class Request:
    """How much work is to be done; see ``enaf_ext.upscale``."""

    eta: float
    gamma: float
    budget: float | None
    budget_ms: float | None
    force_exit: int | None
    patch_size: int
    overlap: int

    def checked(self, num_exits: int) -> Request:
        """Itself.

        Raises:
            TypeError: an argument is no number, or not an integer where one is needed.
            ValueError: an argument is out of range, or two contradict each other.
        """
        for name, method, kind in _KINDS:
            value = getattr(self, name)
            if not hasattr(value, method) and not (value is None and name in _OPTIONAL):
                raise TypeError(f"{name}: expected {kind}, got {value!r}")
        for name in ("eta", "gamma"):
            value = getattr(self, name)
            if not (value >= 0 and value != float("inf")):
                raise ValueError(f"{name}: expected a finite number of at least 0, got {value}")
        if self.budget is not None and not 0 <= self.budget <= 1:
            raise ValueError(f"budget: expected a share between 0 and 1, got {self.budget}")
        if self.budget_ms is not None and not 0 < self.budget_ms < float("inf"):
            raise ValueError(f"budget_ms: expected a finite number above 0, got {self.budget_ms}")
        if self.patch_size > MAX_PATCH_SIZE:
            raise ValueError(f"patch_size: expected at most {MAX_PATCH_SIZE}, got {self.patch_size}")
        if self.force_exit is not None and not 0 <= self.force_exit < num_exits:
            raise ValueError(f"force_exit: expected 0 to {num_exits - 1}, got {self.force_exit}")
        given = [name for name in ("budget", "budget_ms", "force_exit") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{given[0]}: expected None where {given[1]} is given, got both")
        return self


@dataclass(frozen=True)
class UpscaleInfo:
    """What happened to an image.

    Attributes:
        exit_index: (B, rows, cols) int64, exit taken by each patch.
        edge_score: (B, rows, cols) float32, mean absolute Laplacian, 0 to 255.
        psnr_db: (B, rows, cols, E) float32, predicted PSNR of every exit in dB. In both, ``stream`` and
            ``scores=False`` leave nan where nothing had to be decided: in what went through the full network as a whole, and
            with a forced exit.
        grid: the patches over the LR image.
        eta: the eta that was used (solved for, where a budget was given).
        static: images that went through the full network as a whole because routing would have cost more.
        whole: of every image the exit that it went through as a whole for that reason, 0 if none; patches with a deeper one in
            ``exit_index`` were run beside it.
        cost: "paper": published FLOPs as a share of the full exit; "macs": true multiply-accumulates, estimator and
            overlap included, as a share of the full network without tiling; "ms": measured milliseconds in all.
        milliseconds: the same by stage: "scores", "decision", "exits", "blend"; "static" where an image was.
    """

    exit_index: Tensor
    edge_score: Tensor
    psnr_db: Tensor
    grid: PatchGrid
    eta: float
    static: list[int]
    whole: list[int]
    cost: dict[str, float]
    milliseconds: dict[str, float]


@dataclass
class Tally:
    """What several images took together.

    Attributes:
        images: how many.
        exits: patches an exit, shallowest first.
        sums: of the costs of the images, by the names of ``UpscaleInfo.cost``.
        etas: those that were used, each once, ascending.
    """

    images: int = 0
    exits: list[int] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    etas: list[float] = field(default_factory=list)

    def add(self, info: UpscaleInfo, num_exits: int) -> None:
        """One more batch."""
        images = len(info.exit_index)
        exits = info.exit_index.flatten().bincount(minlength=num_exits).tolist()
        sums = {name: value if name == "ms" else value * images for name, value in info.cost.items()}
        self.join(Tally(images, exits, sums, [info.eta]))

    def join(self, other: Tally) -> None:
        """All of another one."""
        self.images += other.images
        both = itertools.zip_longest(self.exits, other.exits, fillvalue=0)
        self.exits = [mine + theirs for mine, theirs in both]
        self.sums = {name: self.sums.get(name, 0.0) + other.sums.get(name, 0.0) for name in self.sums | other.sums}
        self.etas = sorted({*self.etas, *other.etas})

    @property
    def cost(self) -> dict[str, float]:
        """As ``UpscaleInfo.cost``: shares are the images' mean, milliseconds their sum."""
        return {name: value if name == "ms" else value / self.images for name, value in self.sums.items()}

    @property
    def eta(self) -> float | None:
        """The one of all images; None where a budget gave them different ones."""
        return self.etas[0] if len(self.etas) == 1 else None


class Record:
    """What is known of every patch, filled while bands pass; ``scored`` once all scores are there."""

    def __init__(self, batch: int, grid: PatchGrid, num_exits: int, device: torch.device) -> None:
        shape = (batch, grid.rows, grid.cols)
        self.exit_index = torch.full(shape, num_exits - 1, device=device)
        self.edge_score = torch.full(shape, float("nan"), device=device)
        self.psnr_db = torch.full((*shape, num_exits), float("nan"), device=device)
        self.scored = False


@dataclass
class Stopwatch:
    """Wall time between marks, in milliseconds, added up by stage; waits for the device only if asked to."""

    device: torch.device
    synchronize: bool
    milliseconds: dict[str, float] = field(default_factory=dict)
    last: float = 0.0

    def __post_init__(self) -> None:
        self.began = self.last = self._now()

    def _now(self) -> float:
        if self.synchronize and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() * 1e3

    @property
    def waits(self) -> bool:
        """Whether it tells what the work takes, not only what starting it does."""
        return self.synchronize or self.device.type == "cpu"

    def total(self) -> float:
        """Milliseconds since it was started."""
        return self._now() - self.began

    def mark(self, stage: str) -> None:
        """The time since the last mark was spent on ``stage``."""
        now = self._now()
        self.milliseconds[stage] = self.milliseconds.get(stage, 0.0) + now - self.last
        self.last = now
