# SPDX-License-Identifier: Apache-2.0
"""One model on one set, by every policy: curves, matched settings, and what the decision is worth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from enaf.adaptive import AdaptiveNetwork

from .fit import Fit
from .points import TOLERANCE_DB, Costs, Point, cheapest_reaching, curve, evaluate
from .policies import Enaf, Policy, Random, Uniform, create_policy
from .sets import MeasuredSet

LETTERS = {"L": 0.0, "M": TOLERANCE_DB, "S": 0.1}
"""Settings as the paper's tables name them, by the dB that they may stay below the full network (ours: theirs are tied to what
ARM reached, so that they differ from set to set)."""


@dataclass(frozen=True)
class Candidate:
    """A model, and what its measurement needs to know.

    Attributes:
        name: how it is called.
        network: the model.
        sha256: of its tensors.
        costs: of its exits.
        fit: what the peers' policies learned for it; None leaves them out.
        gamma: bonus of blank patches, dB.
    """

    name: str
    network: AdaptiveNetwork
    sha256: str
    costs: Costs
    fit: Fit | None
    gamma: float

    def policies(self) -> dict[str, Policy]:
        """Every policy that can be tried, by name."""
        names = ["enaf", "enaf-nb", "random", "oracle"] + ([] if self.fit is None else ["edge-lut", "class"])
        exits = self.network.network.num_exits
        return {name: create_policy(name, exits, self.gamma, self.fit) for name in names}


@dataclass(frozen=True)
class Study:
    """Attributes: candidate, measured: what was studied; curves: points of every policy, by name."""

    candidate: Candidate
    measured: MeasuredSet
    curves: dict[str, list[Point]]

    @classmethod
    def of(cls, candidate: Candidate, measured: MeasuredSet) -> Study:
        """Every policy over its settings."""
        curves = {
            name: curve(policy, measured.records, candidate.costs) for name, policy in candidate.policies().items()
        }
        return cls(candidate, measured, curves)

    @cached_property
    def exits(self) -> list[Point]:
        """Every exit alone."""
        return [
            evaluate(Uniform(depth), 0.0, self.measured.records, self.candidate.costs, f"uniform-{depth}")
            for depth in range(self.candidate.network.network.num_exits)
        ]

    @property
    def full(self) -> Point:
        """The full network on every patch."""
        return self.exits[-1]

    def matched(self, policy: str, letter: str) -> Point | None:
        """The cheapest setting of a policy that stays within a letter's distance of the full network."""
        return cheapest_reaching(self.curves[policy], self.full.psnr_db - LETTERS[letter])

    def random_like(self, point: Point) -> Point:
        """The exits of a setting of ``enaf`` dealt out at random."""
        policy = Random(Enaf(self.candidate.gamma))
        return evaluate(policy, point.eta, self.measured.records, self.candidate.costs)

    def best_uniform(self, letter: str) -> Point | None:
        """The cheapest single exit that stays within a letter's distance of the full network."""
        return cheapest_reaching(self.exits, self.full.psnr_db - LETTERS[letter])

    def estimates(self) -> dict[str, list[float]]:
        """Mean absolute error of the predicted PSNR over patches, for each exit, dB: of the estimator and the lookup table."""
        records, fit = self.measured.records, self.candidate.fit
        true = torch.cat([record.psnr_db for record in records])
        predicted = {"estimator": torch.cat([record.predicted_db for record in records])}
        if fit is not None:
            predicted["edge-lut"] = torch.cat([fit.looked_up_db(record.edge_score) for record in records])
        return {name: (values - true).abs().mean(dim=0).tolist() for name, values in predicted.items()}

    def gain_correlation(self) -> list[float | None]:
        """Pearson correlation of predicted and true gain over bicubic, over patches, for each learned exit.

        None where there is none: a single patch, or gains that do not differ.
        """
        predicted = torch.cat([record.predicted_db for record in self.measured.records])
        true = torch.cat([record.psnr_db for record in self.measured.records])
        result: list[float | None] = []
        for depth in range(1, true.shape[1]):
            gains = torch.stack([(values[:, depth] - values[:, 0]).double() for values in (predicted, true)])
            centred = gains - gains.mean(dim=1, keepdim=True)
            spread = float(centred.norm(dim=1).prod())
            result.append(float((centred[0] * centred[1]).sum()) / spread if spread else None)
        return result

    def decision(self, eta: float) -> dict[str, float]:
        """What the decision loses against the oracle at the same eta.

        Returns:
            "regret": mean over patches of the oracle's ``u - eta*c`` minus that of the exit taken, u the true PSNR, in dB.
            "agreement": share of the patches that take the oracle's exit. "too_cheap", "too_dear": shares that take a
            shallower or a deeper one.
        """
        policies, cost = self.candidate.policies(), self.candidate.costs.table.paper
        regret, taken, best = [], [], []
        for record in self.measured.records:
            value = record.psnr_db - eta * cost.to(record.psnr_db)
            chosen = policies["enaf"].choose(record, cost, eta)
            regret.append(value.amax(dim=1) - value[torch.arange(len(chosen)), chosen])
            taken.append(chosen)
            best.append(policies["oracle"].choose(record, cost, eta))
        taken_exits, best_exits = torch.cat(taken), torch.cat(best)
        return {
            "regret": float(torch.cat(regret).mean()),
            "agreement": _share(taken_exits == best_exits),
            "too_cheap": _share(taken_exits < best_exits),
            "too_dear": _share(taken_exits > best_exits),
        }

    def realised(self, letter: str) -> float | None:
        """Share of the oracle's saving of published FLOPs that ``enaf`` realises at a letter's PSNR."""
        own, oracle = self.matched("enaf", letter), self.matched("oracle", letter)
        if own is None or oracle is None or oracle.paper >= 1:
            return None
        return (1 - own.paper) / (1 - oracle.paper)


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())
