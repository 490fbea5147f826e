# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from cases import CASES, FLOATS, PIXELS, Case, assert_compiles_once, image_of, random_pixels
from tolerances import assert_close, assert_same_layout

from enaf_ext import ops, reference
from enaf_ext.grid import PatchGrid


def order_of(case: Case, device: torch.device) -> torch.Tensor:
    """Some patches, in no order, some twice."""
    return (
        torch.randint(case.count, (case.count + 3,), device=device)
        if case.count
        else torch.empty(0, dtype=torch.int64, device=device)
    )


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", PIXELS, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_matches_reference(case: Case, dtype: torch.dtype, channels_last: bool, device: torch.device) -> None:
    image, order = image_of(case, dtype, device), order_of(case, device)
    for result_dtype in (None, *FLOATS):
        options = {"dtype": result_dtype, "channels_last": channels_last}
        patches = ops.gather_patches(image, case.grid, order, **options)
        expected = reference.gather_patches(image, case.grid, order, **options)
        assert torch.equal(patches, expected)
        assert_same_layout(patches, expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16], ids=str)
def test_every_level_divides_as_torch(dtype: torch.dtype, device: torch.device) -> None:
    levels = torch.iinfo(dtype).max + 1
    image = torch.arange(levels).to(dtype).view(1, 1, 16, -1).to(device)
    grid = PatchGrid(16, levels // 16, 16, 0)
    patches = ops.gather_patches(image, grid, torch.arange(grid.num_patches, device=device), dtype=torch.float32)
    folded = ops.fold_patches(patches, grid)
    largest = torch.full((), levels - 1.0, device=device)  # by a Python number torch divides inexactly on CUDA
    assert torch.equal(folded, image.to(torch.float32) / largest)
    assert torch.equal(ops.fold_patches(patches, grid, dtype=dtype), image)


def test_empty_and_strided_order(device: torch.device) -> None:
    image, grid = torch.rand(2, 3, 9, 9, device=device), PatchGrid(9, 9, 4, 1)
    order = torch.arange(grid.num_patches, device=device)
    assert ops.gather_patches(image, grid, order[:0]).shape == (0, 3, 4, 4)
    assert_close(ops.gather_patches(image, grid, order[::2]), ops.unfold_patches(image, grid)[order[::2]])


def test_opcheck(device: torch.device) -> None:
    order = torch.tensor([3, 0, 3, 5], device=device)
    for dtype in (torch.uint8, torch.float32):
        image = random_pixels((2, 3, 13, 17), dtype, device).requires_grad_(dtype == torch.float32)
        for channels_last in (False, True):
            arguments = (image, order, 8, 2, torch.float32, channels_last)
            torch.library.opcheck(torch.ops.enaf_ext.gather_patches.default, arguments)


def test_gradcheck(device: torch.device) -> None:
    case = Case(2, 2, 7, 5, 4, 1)
    image, order = image_of(case, torch.float64, device).requires_grad_(), order_of(case, device)
    for channels_last in (False, True):

        def gather(x: torch.Tensor, channels_last: bool = channels_last) -> torch.Tensor:
            return ops.gather_patches(x, case.grid, order, channels_last=channels_last)

        assert torch.autograd.gradcheck(gather, image)
        assert torch.autograd.gradgradcheck(gather, image)


def test_gradient_keeps_the_images_dtype(device: torch.device) -> None:
    image = torch.rand(1, 3, 9, 9, dtype=torch.bfloat16, device=device, requires_grad=True)
    order = torch.zeros(4, dtype=torch.int64, device=device)
    ops.gather_patches(image, PatchGrid(9, 9, 4, 1), order, dtype=torch.float32).sum().backward()
    assert image.grad is not None
    assert image.grad.dtype == torch.bfloat16
    assert image.grad.sum().item() == 4 * 3 * 16


def test_compile_fullgraph(device: torch.device) -> None:
    def gather(image: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        grid = PatchGrid(image.shape[2], image.shape[3], 8, 2)
        return ops.gather_patches(image, grid, order, dtype=torch.float32, channels_last=True)

    calls = [
        (random_pixels((2, 3, h, w), torch.uint8, device), torch.randint(8, (m,), device=device))
        for h, w, m in ((23, 30, 5), (50, 41, 7), (19, 64, 9))
    ]
    assert_compiles_once(gather, *calls)


@pytest.mark.parametrize(
    ("order", "dtype", "error", "message"),
    [
        (torch.tensor([0.0]), None, TypeError, "order: expected int64, got torch.float32"),
        (torch.tensor([[0]]), None, ValueError, r"order: expected one dimension, got shape \(1, 1\)"),
        (torch.tensor([0], device="meta"), None, ValueError, "order: expected device cpu, got meta"),
        (
            torch.tensor([0]),
            torch.uint8,
            TypeError,
            "dtype: expected a floating dtype or torch.float32, got torch.uint8",
        ),
        (torch.tensor([0, 4]), None, RuntimeError, "gather_patches: order: expected 0 <= order < 4, got 4 at 1"),
        (torch.tensor([-1]), None, RuntimeError, "gather_patches: order: expected 0 <= order < 4, got -1 at 0"),
    ],
)
def test_rejects(order: torch.Tensor, dtype: torch.dtype | None, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.gather_patches(torch.zeros(1, 1, 8, 8), PatchGrid(8, 8, 4, 0), order, dtype=dtype)
