# SPDX-License-Identifier: Apache-2.0
"""The fusion rule, equation 9, written out."""

from __future__ import annotations

import pytest
import torch

from enaf.decision import blank_vector, choose_exits, count_exits, eta_for_budget

COST = torch.tensor([0.0, 0.31, 0.67, 1.0], dtype=torch.float64)


def test_blank_vector_marks_bicubic_up_to_the_threshold() -> None:
    assert blank_vector(torch.tensor([10.0, 10.001]), 3).tolist() == [[1, 0, 0], [0, 0, 0]]


def test_rule_by_hand() -> None:
    psnr = torch.tensor([[30.0, 30.4, 30.8, 31.0]])
    texture, blank = torch.tensor([50.0]), torch.tensor([3.0])
    assert choose_exits(psnr, texture, COST, eta=0.0, gamma=1.0).tolist() == [3]
    assert choose_exits(psnr, texture, COST, eta=0.7, gamma=1.0).tolist() == [2]  # 30.331 against 30.3 and 30.183
    assert choose_exits(psnr, texture, COST, eta=1.2, gamma=1.0).tolist() == [1]  # 30.028 against 30 and 29.996
    assert choose_exits(psnr, texture, COST, eta=2.0, gamma=1.0).tolist() == [0]
    assert choose_exits(psnr, blank, COST, eta=0.0, gamma=1.0).tolist() == [0]  # 31 against 31: the cheaper one
    assert choose_exits(psnr, blank, COST, eta=0.0, gamma=0.9).tolist() == [3]


@pytest.mark.parametrize("budget", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_budget_is_kept_and_used(budget: float) -> None:
    generator = torch.Generator().manual_seed(0)
    gains = torch.rand(2000, 3, generator=generator).cumsum(dim=1)
    psnr = torch.cat([torch.zeros(2000, 1), gains], dim=1) + 30
    edges = torch.rand(2000, generator=generator) * 60
    eta = eta_for_budget(psnr, edges, COST, budget, gamma=1.0)

    def spent(value: float) -> float:
        return float(COST[choose_exits(psnr, edges, COST, value, 1.0)].mean())

    assert spent(eta) <= budget
    assert eta == 0 or spent(eta * (1 - 1e-5)) >= budget - 0.002


def test_exits_are_counted_image_by_image() -> None:
    assert count_exits(torch.tensor([[0, 3, 3, 1], [2, 2, 2, 2]]), 4) == [[1, 1, 0, 2], [0, 0, 4, 0]]


def test_rejects() -> None:
    with pytest.raises(ValueError, match=r"budget: expected a share between 0 and 1, got 1\.5"):
        eta_for_budget(torch.zeros(1, 4), torch.zeros(1), COST, 1.5, 1.0)
