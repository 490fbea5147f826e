# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from cases import CASES, PIXELS, Case, assert_compiles_once, image_of
from tolerances import assert_close

from enaf_ext import ops, reference
from enaf_ext.grid import PatchGrid


@pytest.mark.parametrize("dtype", PIXELS, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_matches_reference(case: Case, dtype: torch.dtype, device: torch.device) -> None:
    image = image_of(case, dtype, device)
    patches = ops.unfold_patches(image, case.grid)
    assert torch.equal(patches, reference.unfold_patches(image, case.grid))
    assert patches.is_contiguous()


@pytest.mark.parametrize("window", ["average", "linear"])
@pytest.mark.parametrize("case", CASES)
def test_round_trip(case: Case, window: str, device: torch.device) -> None:
    image = image_of(case, torch.float32, device)
    patches = ops.unfold_patches(image, case.grid)
    assert_close(ops.fold_patches(patches, case.grid, batch=case.batch, window=window), image.contiguous())


def test_writes_nothing_else(device: torch.device) -> None:
    image = torch.rand(1, 3, 9, 9, device=device)
    before = image.clone()
    ops.unfold_patches(image, PatchGrid(9, 9, 4, 1))
    assert torch.equal(image, before)


def test_opcheck(device: torch.device) -> None:
    for dtype in (torch.uint8, torch.float32):
        image = torch.ones(2, 3, 13, 17, device=device).to(dtype).requires_grad_(dtype == torch.float32)
        torch.library.opcheck(torch.ops.enaf_ext.unfold_patches.default, (image, 8, 2))


@pytest.mark.parametrize("case", [Case(1, 2, 7, 5, 4, 1), Case(2, 1, 3, 9, 4, 2), Case(1, 1, 2, 2, 5, 0)])
def test_gradcheck(case: Case, device: torch.device) -> None:
    image = image_of(case, torch.float64, device).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ops.unfold_patches(x, case.grid), image)
    assert torch.autograd.gradgradcheck(lambda x: ops.unfold_patches(x, case.grid), image)


def test_compile_fullgraph(device: torch.device) -> None:
    def unfold(image: torch.Tensor) -> torch.Tensor:
        return ops.unfold_patches(image, PatchGrid(image.shape[2], image.shape[3], 8, 2))

    calls = [(torch.rand(2, 3, h, w, device=device),) for h, w in ((23, 30), (50, 41), (19, 64))]
    assert_compiles_once(unfold, *calls)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (torch.zeros(8, 8), ValueError, r"image: expected \(B, C, H, W\), got shape \(8, 8\)"),
        (torch.zeros(1, 0, 8, 8), ValueError, "image: expected at least 1 channel, got 0"),
        (torch.zeros(1, 1, 4, 8), ValueError, "image: expected the grid's 8x8 pixels, got 4x8"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.int64), TypeError, "image: expected one of .*, got torch.int64"),
    ],
)
def test_rejects(image: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.unfold_patches(image, PatchGrid(8, 8, 8, 0))
