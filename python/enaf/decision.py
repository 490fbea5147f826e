# SPDX-License-Identifier: Apache-2.0
"""Which exit each patch takes: pure functions of estimates, edge scores and costs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

BLANK_THRESHOLD = 10.0
"""epsilon of the paper: patches with an edge score up to this are blank."""


def blank_vector(edge_score: Tensor, num_exits: int, epsilon: float = BLANK_THRESHOLD) -> Tensor:
    """b of the paper (equation 8): one at exit 0 of blank patches, zero elsewhere.

    Args:
        edge_score: (N,), mean absolute Laplacian, 0 to 255.
        num_exits: E.
        epsilon: largest edge score of a blank patch.

    Returns:
        (N, E) float32.
    """
    blank = torch.zeros(edge_score.shape[0], num_exits, device=edge_score.device)
    blank[:, 0] = edge_score <= epsilon
    return blank


def choose_exits(
    psnr_db: Tensor, edge_score: Tensor, cost: Tensor, eta: float, gamma: float, epsilon: float = BLANK_THRESHOLD
) -> Tensor:
    """Computation-aware fusion (equation 9): ``argmax_j u_j + gamma*b_j - eta*c_j``.

    Args:
        psnr_db: (N, E), predicted PSNR u of every exit, dB.
        edge_score: (N,).
        cost: (E,), cost c of every exit as a share of the full one (c_0 = 0, c_{E-1} = 1).
        eta: decibels that the full cost must gain, at least 0.
        gamma: decibels granted to bicubic on blank patches.
        epsilon: largest edge score of a blank patch.

    Returns:
        (N,) int64; of equal scores the cheaper exit. Deterministic.
    """
    return (granted(psnr_db, edge_score, gamma, epsilon) - eta * cost.to(psnr_db)).argmax(dim=1)


def granted(psnr_db: Tensor, edge_score: Tensor, gamma: float, epsilon: float = BLANK_THRESHOLD) -> Tensor:
    """u + gamma*b, what does not depend on eta: (N, E), dB. Arguments as for ``choose_exits``."""
    return psnr_db + gamma * blank_vector(edge_score, psnr_db.shape[1], epsilon)


def count_exits(exit_index: Tensor, num_exits: int) -> list[list[int]]:
    """How many patches of every image (B, N) take each exit: B lists of E."""
    first = num_exits * torch.arange(len(exit_index))[:, None]  # every image counts for itself
    counts = (exit_index.cpu() + first).flatten().bincount(minlength=num_exits * len(exit_index))
    return counts.view(-1, num_exits).tolist()


def eta_for_budget(
    psnr_db: Tensor, edge_score: Tensor, cost: Tensor, budget: float, gamma: float, epsilon: float = BLANK_THRESHOLD
) -> float:
    """The smallest eta whose mean cost stays within a budget.

    Ours: the paper tunes eta by hand.

    Args:
        budget: largest mean of c over the patches, 0 to 1 (c as in ``choose_exits``, like all other arguments).

    Returns:
        eta >= 0, met from the affordable side, to a relative 1e-6.

    Raises:
        ValueError: the budget lies outside [0, 1].
    """
    if not 0 <= budget <= 1:
        raise ValueError(f"budget: expected a share between 0 and 1, got {budget}")
    cost = cost.to(psnr_db)
    base = granted(psnr_db, edge_score, gamma, epsilon)

    def spent(eta: float) -> float:
        return float(cost[(base - eta * cost).argmax(dim=1)].double().mean())

    return smallest_eta(spent, budget, 1e-6) if len(base) else 0.0


def smallest_eta(spent: Callable[[float], float], budget: float, precision: float) -> float:
    """The smallest eta at which ``spent(eta)`` stays within a budget, to a relative ``precision``, from the affordable side.

    Raising eta can only move a patch to a cheaper exit, so what is spent falls and bisection finds the step.

    Raises:
        ValueError: no finite eta is large enough.
    """
    if spent(0.0) <= budget:
        return 0.0
    low, high = 0.0, 1.0
    while spent(high) > budget:
        low, high = high, high * 2
        if not math.isfinite(high):
            raise ValueError("psnr_db: expected finite estimates")
    while high - low > precision * high:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if spent(middle) <= budget else (middle, high)
    return high
