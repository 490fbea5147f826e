# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from cases import CASES, PIXELS, Case, assert_compiles_once, image_of, random_pixels
from tolerances import assert_close, assert_same_layout
from torch.nn import functional as F

from enaf_ext import ops, reference
from enaf_ext.grid import PatchGrid


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", PIXELS, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_matches_reference(case: Case, dtype: torch.dtype, scale: int, device: torch.device) -> None:
    image = image_of(case, dtype, device)
    order = torch.randperm(case.count, device=device)[:5]
    for channels_last in (False, True):
        for shuffled in (False, True):
            options = {"channels_last": channels_last, "shuffled": shuffled}
            patches = ops.bicubic_patches(image, case.grid, order, scale, **options)
            assert_close(patches, reference.bicubic_patches(image, case.grid, order, scale, **options))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_result_dtype(dtype: torch.dtype, device: torch.device) -> None:
    image, grid = random_pixels((1, 3, 20, 20), torch.uint8, device), PatchGrid(20, 20, 8, 2)
    order = torch.arange(grid.num_patches, device=device)
    for scale in (3, 4):
        options = {"dtype": dtype, "channels_last": True, "shuffled": False}
        patches = ops.bicubic_patches(image, grid, order, scale, **options)
        expected = reference.bicubic_patches(image, grid, order, scale, **options)
        assert patches.dtype == dtype
        assert_same_layout(patches, expected)
        # Sums are in float32 whatever the result.
        torch.testing.assert_close(patches, expected, atol=max(2e-6, torch.finfo(dtype).eps), rtol=0)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_is_torchs_bicubic_of_the_patch(scale: int, device: torch.device) -> None:
    image, grid = torch.rand(1, 3, 45, 60, device=device), PatchGrid(45, 60)
    patches = ops.bicubic_patches(image, grid, torch.arange(grid.num_patches, device=device), scale)
    expected = F.interpolate(ops.unfold_patches(image, grid), scale_factor=scale, mode="bicubic", align_corners=False)
    torch.testing.assert_close(patches, expected, atol=1e-5, rtol=0)


def test_constant_patches_stay_constant(device: torch.device) -> None:
    image, grid = torch.full((1, 3, 16, 16), 0.7, device=device), PatchGrid(16, 16, 8, 2)
    patches = ops.bicubic_patches(image, grid, torch.arange(grid.num_patches, device=device), 4)
    torch.testing.assert_close(patches, torch.full_like(patches, 0.7), atol=2e-7, rtol=0)


def test_not_a_number_spreads_no_farther_than_its_taps(device: torch.device) -> None:
    image = torch.ones(1, 1, 16, 16, device=device)
    image[0, 0, 8, 8] = float("nan")
    grid, order = PatchGrid(16, 16, 16, 0), torch.zeros(1, dtype=torch.int64, device=device)
    for options in ({}, {"channels_last": True, "shuffled": False}):
        patches = ops.bicubic_patches(image, grid, order, 4, **options)
        assert torch.equal(patches.isnan(), reference.bicubic_patches(image, grid, order, 4, **options).isnan())


def test_into_given_memory(device: torch.device) -> None:
    image, order = random_pixels((2, 3, 13, 17), torch.uint8, device), torch.tensor([3, 0, 5], device=device)
    grid = PatchGrid(13, 17, 8, 2)
    for shuffled in (True, False):
        expected = ops.bicubic_patches(image, grid, order, 4, shuffled=shuffled)
        for layout in (torch.contiguous_format, torch.channels_last):
            out = torch.full_like(expected, -1, memory_format=layout)
            assert ops.bicubic_patches(image, grid, order, 4, shuffled=shuffled, out=out) is out
            assert torch.equal(out, expected)


def test_rejects_memory_that_does_not_fit() -> None:
    image, order, grid = torch.rand(1, 3, 8, 8), torch.tensor([0, 3]), PatchGrid(8, 8, 4, 0)
    with pytest.raises(ValueError, match=r"out: expected shape \(2, 3, 16, 16\), got \(1, 3, 16, 16\)"):
        ops.bicubic_patches(image, grid, order, 4, out=torch.empty(1, 3, 16, 16))
    with pytest.raises(TypeError, match=r"out: expected one of .*, got torch\.uint8"):
        ops.bicubic_patches(image, grid, order, 4, out=torch.empty(2, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(RuntimeError, match="bicubic_patches: patches: expected contiguous or channels_last"):
        ops.bicubic_patches(image, grid, order, 4, out=torch.empty(2, 3, 16, 32)[..., ::2])
    with pytest.raises(RuntimeError, match="bicubic_patches: patches: expected contiguous or channels_last"):
        ops.bicubic_patches(image, grid, order, 4, out=torch.empty(4, 3, 16, 16)[::2])


def test_opcheck(device: torch.device) -> None:
    image, order = random_pixels((2, 3, 13, 17), torch.uint8, device), torch.tensor([3, 0, 5], device=device)
    for channels_last in (False, True):
        for shuffled in (False, True):
            shape = (3, 3, 32, 32) if shuffled else (3, 48, 8, 8)
            layout = torch.channels_last if channels_last else torch.contiguous_format
            patches = torch.empty(shape, device=device, memory_format=layout)
            arguments = (patches, image, order, 8, 2, 4, shuffled)
            torch.library.opcheck(torch.ops.enaf_ext.bicubic_patches.default, arguments)


def test_compile_fullgraph(device: torch.device) -> None:
    def bicubic(image: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        grid = PatchGrid(image.shape[2], image.shape[3], 8, 2)
        return ops.bicubic_patches(image, grid, order, 4, channels_last=True, shuffled=False)

    calls = [
        (random_pixels((2, 3, h, w), torch.uint8, device), torch.randint(8, (m,), device=device))
        for h, w, m in ((23, 30, 5), (50, 41, 7), (19, 64, 9))
    ]
    assert_compiles_once(bicubic, *calls)


@pytest.mark.parametrize(
    ("order", "scale", "dtype", "error", "message"),
    [
        (torch.tensor([0]), 0, None, ValueError, "scale: expected 1 <= scale <= 16, got 0"),
        (torch.tensor([0]), 17, None, ValueError, "scale: expected 1 <= scale <= 16, got 17"),
        (torch.tensor([0]), 4, torch.uint8, TypeError, "dtype: expected a floating dtype, got torch.uint8"),
        (torch.tensor([0], dtype=torch.int32), 4, None, TypeError, "order: expected int64, got torch.int32"),
        (torch.tensor([9]), 4, None, RuntimeError, "bicubic_patches: order: expected 0 <= order < 4, got 9 at 0"),
    ],
)
def test_rejects(
    order: torch.Tensor, scale: int, dtype: torch.dtype | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ops.bicubic_patches(torch.zeros(1, 1, 8, 8), PatchGrid(8, 8, 4, 0), order, scale, dtype=dtype)
