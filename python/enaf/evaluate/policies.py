# SPDX-License-Identifier: Apache-2.0
"""How patches find their exit: the method, its ablations, its peers and its bounds, behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from enaf.cost import estimator_macs
from enaf.decision import choose_exits

from .fit import Fit
from .record import ImageRecord


@dataclass(frozen=True)
class Policy(ABC):
    """Chooses the exit of every patch of an image.

    Attributes:
        name: as ``create_policy`` knows it.
        follows_eta: whether eta changes the choice.
        scores_with: what has to run on the image before the choice and is charged: "estimator", "classifier" or nothing.
    """

    name: ClassVar[str]
    follows_eta: ClassVar[bool] = True
    scores_with: ClassVar[str] = ""

    @abstractmethod
    def choose(self, image: ImageRecord, cost: Tensor, eta: float) -> Tensor:
        """The exits.

        Args:
            image: the measured image; only ``Oracle`` looks at what it really reaches.
            cost: (E,), as a share of the full exit.
            eta: decibels that the full cost must gain.

        Returns:
            (N,) int64.
        """

    def macs_per_pixel(self, estimator: float) -> float:
        """True multiply-accumulates of the scores for one LR pixel, where the model's estimator takes ``estimator``."""
        return estimator if self.scores_with == "estimator" else 0.0


@dataclass(frozen=True)
class Enaf(Policy):
    """Predicted PSNR, blank vector and cost (paper, equation 9)."""

    name: ClassVar[str] = "enaf"
    scores_with: ClassVar[str] = "estimator"
    gamma: float

    def choose(self, image: ImageRecord, cost: Tensor, eta: float) -> Tensor:
        return choose_exits(image.predicted_db, image.edge_score, cost, eta, self.gamma)


@dataclass(frozen=True)
class EnafNoBlank(Policy):
    """The same without the blank vector (paper, table 2)."""

    name: ClassVar[str] = "enaf-nb"
    scores_with: ClassVar[str] = "estimator"

    def choose(self, image: ImageRecord, cost: Tensor, eta: float) -> Tensor:
        return choose_exits(image.predicted_db, image.edge_score, cost, eta, gamma=0.0)


@dataclass(frozen=True)
class EdgeLookup(Policy):
    """PSNR looked up by the edge score, as ARM does (Chen et al. 2022), over the exits of this network."""

    name: ClassVar[str] = "edge-lut"
    fit: Fit

    def choose(self, image: ImageRecord, cost: Tensor, eta: float) -> Tensor:
        return choose_exits(self.fit.looked_up_db(image.edge_score), image.edge_score, cost, eta, gamma=0.0)


@dataclass(frozen=True)
class Classes(Policy):
    """Three classes of difficulty by a classifier, as ClassSR does (Kong et al. 2021): easy, medium and hard patches take the
    three deepest exits. There is one setting only."""

    name: ClassVar[str] = "class"
    follows_eta: ClassVar[bool] = False
    scores_with: ClassVar[str] = "classifier"
    fit: Fit

    def choose(self, image: ImageRecord, cost: Tensor, eta: float) -> Tensor:
        return (self.fit.classes(image.lr, image.grid) + len(cost) - 3).clamp_(min=0)

    def macs_per_pixel(self, estimator: float) -> float:
        one, two = (estimator_macs(self.fit.classifier, 64, width) for width in (64, 128))
        return (two - one) / 64**2


@dataclass(frozen=True)
class Uniform(Policy):
    """Every patch takes the same exit."""

    name: ClassVar[str] = "uniform"
    follows_eta: ClassVar[bool] = False
    depth: int

    def choose(self, image: ImageRecord, cost: Tensor, eta: float) -> Tensor:
        return torch.full((image.num_patches,), self.depth)


@dataclass(frozen=True)
class Random(Policy):
    """The exits of another policy, dealt out to random patches of the same image: the same cost, without the choice."""

    name: ClassVar[str] = "random"
    like: Policy
    seed: int = 0

    def choose(self, image: ImageRecord, cost: Tensor, eta: float) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return self.like.choose(image, cost, eta)[torch.randperm(image.num_patches, generator=generator)]


@dataclass(frozen=True)
class Oracle(Policy):
    """The fusion rule on the true PSNR, without the blank vector: what a perfect estimator would choose."""

    name: ClassVar[str] = "oracle"

    def choose(self, image: ImageRecord, cost: Tensor, eta: float) -> Tensor:
        return choose_exits(image.psnr_db, image.edge_score, cost, eta, gamma=0.0)


def policy_names(num_exits: int = 4) -> list[str]:
    """What ``create_policy`` knows."""
    uniform = [f"uniform-{depth}" for depth in range(num_exits)]
    return ["enaf", "enaf-nb", "edge-lut", "class", *uniform, "random", "oracle"]


def create_policy(name: str, num_exits: int, gamma: float = 1.0, fit: Fit | None = None) -> Policy:
    """A policy by name.

    Args:
        name: one of ``policy_names(num_exits)``.
        num_exits: of the network.
        gamma: bonus of ``enaf`` on blank patches, dB.
        fit: what ``edge-lut`` and ``class`` learned on training images.

    Raises:
        ValueError: unknown name, or a policy that has to be fitted without ``fit``.
    """
    fitted: dict[str, Callable[[Fit], Policy]] = {"edge-lut": EdgeLookup, "class": Classes}
    if name in fitted:
        if fit is None:
            raise ValueError(f"policy: {name} has to be fitted on training images first, by `enaf fit`; name its file")
        return fitted[name](fit)
    free = {"enaf": Enaf(gamma), "enaf-nb": EnafNoBlank(), "random": Random(Enaf(gamma)), "oracle": Oracle()}
    known: dict[str, Policy] = {**free, **{f"uniform-{depth}": Uniform(depth) for depth in range(num_exits)}}
    if name not in known:
        raise ValueError(f"policy: expected one of {', '.join(policy_names(num_exits))}, got {name!r}")
    return known[name]
