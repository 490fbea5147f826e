# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from cases import assert_compiles_once

from enaf_ext import ops, reference


@pytest.mark.parametrize("num_exits", [1, 2, 4, 7, 33])
@pytest.mark.parametrize("count", [0, 1, 5, 170, 3000, 70001])
def test_matches_reference(count: int, num_exits: int, device: torch.device) -> None:
    exit_index = torch.randint(num_exits, (count,), device=device)
    order, offsets = ops.route_exits(exit_index, num_exits)
    expected_order, expected_offsets = reference.route_exits(exit_index, num_exits)
    assert torch.equal(order, expected_order)
    assert torch.equal(offsets, expected_offsets)
    for j in range(num_exits):
        assert (exit_index[order[offsets[j + 1] : offsets[j]]] == j).all()
        assert (exit_index[order[: offsets[j]]] >= j).all()


def test_strided_and_one_sided(device: torch.device) -> None:
    exit_index = torch.randint(4, (50,), device=device)
    order, _ = ops.route_exits(exit_index[::2], 4)
    assert torch.equal(order, reference.route_exits(exit_index[::2], 4)[0])
    order, offsets = ops.route_exits(torch.full((9,), 2, device=device), 4)
    assert order.tolist() == list(range(9))
    assert offsets.tolist() == [9, 9, 9, 0, 0]


def test_opcheck(device: torch.device) -> None:
    arguments = (torch.tensor([0, 3, 1, 3, 2], device=device), 4)
    torch.library.opcheck(torch.ops.enaf_ext.route_exits.default, arguments)


def test_compile_fullgraph(device: torch.device) -> None:
    calls = [(torch.randint(4, (n,), device=device),) for n in (10, 31, 64)]
    assert_compiles_once(lambda exit_index: ops.route_exits(exit_index, 4), *calls)


@pytest.mark.parametrize(
    ("exit_index", "num_exits", "error", "message"),
    [
        (torch.tensor([0], dtype=torch.int32), 4, TypeError, "exit_index: expected int64, got torch.int32"),
        (torch.tensor([[0]]), 4, ValueError, r"exit_index: expected one dimension, got shape \(1, 1\)"),
        (torch.tensor([0]), 0, ValueError, "num_exits: expected num_exits >= 1, got 0"),
        (torch.tensor([0, 4]), 4, RuntimeError, "route_exits: exit_index: expected 0 <= exit_index < 4, got 4 at 1"),
        (torch.tensor([-1]), 4, RuntimeError, "route_exits: exit_index: expected 0 <= exit_index < 4, got -1 at 0"),
    ],
)
def test_rejects(exit_index: torch.Tensor, num_exits: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.route_exits(exit_index, num_exits)
