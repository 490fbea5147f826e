# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from cases import CASES, FLOATS, Case, assert_compiles_once, random_pixels
from tolerances import assert_close

from enaf_ext import ops, reference
from enaf_ext.grid import PatchGrid

RESULTS = (None, torch.uint8, torch.uint16, torch.float32)


def patches_of(case: Case, scale: int, dtype: torch.dtype, device: torch.device, layout: str) -> torch.Tensor:
    """Patches before a pixel shuffle by `scale`, some values out of [0, 1]."""
    shape = (case.count, case.channels * scale * scale, case.patch_size, case.patch_size)
    if layout == "sliced":
        return (torch.rand(2 * shape[0], shape[1], shape[2] + 1, shape[3], device=device) * 1.2 - 0.1).to(dtype)[
            ::2, :, 1:
        ]
    patches = (torch.rand(shape, device=device) * 1.2 - 0.1).to(dtype)
    return patches.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else patches


@pytest.mark.parametrize("window", ops.WINDOWS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_matches_reference(case: Case, dtype: torch.dtype, window: str, device: torch.device) -> None:
    for scale, layout in ((1, "contiguous"), (1, "channels_last"), (4, "channels_last"), (3, "sliced")):
        patches = patches_of(case, scale, dtype, device, layout)
        order = torch.randperm(case.count, device=device)
        for result in RESULTS:
            options = {"batch": case.batch, "window": window, "dtype": result}
            images = ops.fold_patches(patches, case.grid.scaled(scale), order, **options)
            assert_close(images, reference.fold_patches(patches, case.grid.scaled(scale), order, **options))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize("scale", [1, 2, 3, 4, 5, 8])
def test_scales_and_layouts(scale: int, layout: str, device: torch.device) -> None:
    case = Case(2, 3, 13, 17, 6, 2)
    patches = patches_of(case, scale, torch.float32, device, layout)
    for result in (None, torch.uint8):
        images = ops.fold_patches(patches, case.grid.scaled(scale), batch=2, dtype=result)
        assert_close(images, reference.fold_patches(patches, case.grid.scaled(scale), batch=2, dtype=result))


def test_grid_that_is_no_multiple_of_the_shuffle(device: torch.device) -> None:
    # Origins, overlap and size fall between the patches' own pixels.
    grid = PatchGrid(29, 41, 12, 5)
    patches = torch.rand(grid.num_patches, 3 * 16, 3, 3, device=device).contiguous(memory_format=torch.channels_last)
    for window in ops.WINDOWS:
        assert_close(
            ops.fold_patches(patches, grid, window=window), reference.fold_patches(patches, grid, window=window)
        )


def test_rounding(device: torch.device) -> None:
    grid = PatchGrid(1, 8, 8, 0)
    values = torch.tensor([0.5 / 255, 1.5 / 255, 2.5 / 255, -1.0, 2.0, float("nan"), float("inf"), float("-inf")])
    patch = torch.zeros(1, 1, 8, 8)
    patch[0, 0, 0] = values
    images = ops.fold_patches(patch.to(device), grid, dtype=torch.uint8)
    ties = (values[:3] * 255).round().tolist()  # to even, where the product is a tie at all
    assert images.flatten().tolist() == [*ties, 0, 255, 0, 255, 0]


def test_one_nan_stays_in_its_pixel(device: torch.device) -> None:
    grid = PatchGrid(20, 20, 8, 2)
    patches = torch.ones(grid.num_patches, 3, 8, 8, device=device)
    patches[4, 1, 3, 3] = float("nan")
    images = ops.fold_patches(patches, grid)
    assert images.isnan().sum() == 1
    assert images[0, 1, 9, 9].isnan()


@pytest.mark.parametrize("window", ops.WINDOWS)
def test_batch_changes_no_bit(window: str, device: torch.device) -> None:
    grid = PatchGrid(50, 45, 16, 5)
    patches = torch.rand(3 * grid.num_patches, 3, 16, 16, device=device)
    together = ops.fold_patches(patches, grid, batch=3, window=window)
    for b, part in enumerate(patches.chunk(3)):
        assert torch.equal(together[b : b + 1], ops.fold_patches(part, grid, window=window))


@pytest.mark.parametrize("window", ops.WINDOWS)
@pytest.mark.parametrize("case", CASES)
def test_parts_and_rows(case: Case, window: str, device: torch.device) -> None:
    for scale, layout in ((4, "channels_last"), (3, "channels_last"), (1, "contiguous")):
        patches = patches_of(case, scale, torch.float32, device, layout)
        grid, order = case.grid.scaled(scale), torch.randperm(case.count, device=device)
        for dtype in RESULTS:
            options = {"batch": case.batch, "window": window, "dtype": dtype}
            whole = ops.fold_patches(patches, grid, order, **options)
            for parts in ([patches], [part.clone() for part in patches.split(3)]):
                assert torch.equal(ops.fold_patches(parts, grid, order, **options), whole)
            for rows in ((0, grid.height // 2), (grid.height // 3, grid.height), (grid.height // 2, grid.height // 2)):
                some = ops.fold_patches(patches, grid, order, rows=rows, **options)
                assert torch.equal(some, whole[:, :, slice(*rows)])


@pytest.mark.parametrize("case", CASES)
def test_out_is_rows_of_a_larger_image(case: Case, device: torch.device) -> None:
    for scale, layout in ((4, "channels_last"), (3, "channels_last"), (1, "contiguous")):
        patches = patches_of(case, scale, torch.float32, device, layout)
        grid, order = case.grid.scaled(scale), torch.randperm(case.count, device=device)
        for dtype in (torch.uint8, torch.uint16, torch.float32):
            for top, bottom in (
                (0, grid.height),
                (grid.height // 3, grid.height),
                (grid.height // 2, grid.height // 2),
            ):
                rows = {"rows": (top, bottom), "batch": case.batch}
                expected = ops.fold_patches(patches, grid, order, dtype=dtype, **rows)
                larger = torch.full((case.batch, case.channels, grid.height + 5, grid.width), 7, device=device).to(
                    dtype
                )
                out = larger[:, :, top + 2 : bottom + 2]
                assert ops.fold_patches(patches, grid, order, out=out, **rows) is out
                assert torch.equal(out, expected)
                around = torch.cat([larger[:, :, : top + 2], larger[:, :, bottom + 2 :]], dim=2)
                assert bool((around.to(torch.int32) == 7).all())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("height", "width", "patch", "overlap"), [(60, 70, 16, 4), (16, 16, 16, 8), (45, 33, 8, 4), (7, 9, 8, 0)]
)
def test_what_one_patch_covers_is_the_patch(
    height: int, width: int, patch: int, overlap: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Where there is nothing to blend, nothing is done to the values but the conversion."""
    for scale in (2, 4):
        grid = PatchGrid(height, width, patch, overlap).scaled(scale)
        shape = (grid.num_patches, 3 * scale * scale, patch, patch)
        patches = (torch.rand(shape, device=device) * 1.4 - 0.2).contiguous(memory_format=torch.channels_last)
        patches[0, 0, 0, 0] = float("nan")
        expected = reference.fold_patches(patches, grid, dtype=dtype)
        assert_close(ops.fold_patches(patches, grid, dtype=dtype).nan_to_num(), expected.nan_to_num())


def test_parts_of_other_layouts(device: torch.device) -> None:
    grid = PatchGrid(20, 20, 8, 2)
    patches = torch.rand(grid.num_patches, 3, 8, 8, device=device)
    parts = [patches[:5], patches[5:].contiguous(memory_format=torch.channels_last)]
    assert torch.equal(ops.fold_patches(parts, grid), ops.fold_patches(patches, grid))


def test_threads_and_instruction_sets_change_no_bit() -> None:
    program = """
import os, sys, hashlib, torch
torch.manual_seed(0)
torch.set_num_threads(int(sys.argv[1]))
from enaf_ext import ops
from enaf_ext.grid import PatchGrid
grid = PatchGrid(61, 75, 16, 4)
image = torch.randint(0, 256, (1, 3, 61, 75)).to(torch.uint8)
order = torch.randperm(grid.num_patches)
large = ops.bicubic_patches(image, grid, order, 4, channels_last=True, shuffled=False)
results = [large, ops.edge_score(image, grid), ops.gather_patches(image, grid, order, dtype=torch.float16)]
for window in ops.WINDOWS:
    results.append(ops.fold_patches(large, grid.scaled(4), order, window=window))
    results.append(ops.fold_patches(large, grid.scaled(4), order, window=window, dtype=torch.uint8))
print(hashlib.sha256(b"".join(x.contiguous().view(torch.uint8).numpy().tobytes() for x in results)).hexdigest())
"""
    digests = set()
    for threads, cpu in (("1", ""), ("3", ""), ("1", "baseline")):
        command = [sys.executable, "-c", program, threads]
        environment = {**os.environ, "ENAF_CPU": cpu}
        digests.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(digests) == 1


def test_opcheck(device: torch.device) -> None:
    grid = PatchGrid(13, 17, 8, 2).scaled(2)
    count = 2 * grid.num_patches
    order = torch.randperm(count, device=device)
    for dtype, named, result in ((torch.float32, order, torch.float32), (torch.bfloat16, None, torch.uint8)):
        patches = torch.rand(count, 12, 8, 8, device=device).to(dtype).requires_grad_(result == dtype)
        parts = list(patches.split(5))
        size = (grid.height, grid.width, grid.patch_size, grid.overlap, 4, grid.height - 2)
        arguments = (parts, named, 2, *size, 1, result)
        torch.library.opcheck(torch.ops.enaf_ext.fold_patches.default, arguments)
        out = torch.empty(2, 3, grid.height, grid.width, dtype=result, device=device)[:, :, 4:-2]
        parts = [part.detach() for part in parts]
        arguments = (out, parts, named, grid.height, grid.patch_size, grid.overlap, 4, 1)
        torch.library.opcheck(torch.ops.enaf_ext.fold_patches_into.default, arguments)


@pytest.mark.parametrize("window", ops.WINDOWS)
@pytest.mark.parametrize("case", [Case(1, 2, 7, 5, 4, 1), Case(2, 1, 3, 9, 4, 2), Case(1, 1, 2, 2, 5, 0)])
def test_gradcheck(case: Case, window: str, device: torch.device) -> None:
    order = torch.randperm(case.count, device=device)
    for scale, named in ((1, None), (2, order)):
        patches = random_pixels(
            (case.count, case.channels * scale * scale, case.patch_size, case.patch_size), torch.float64, device
        ).requires_grad_()

        def fold(x: torch.Tensor, scale: int = scale, named: torch.Tensor | None = named) -> torch.Tensor:
            return ops.fold_patches(x, case.grid.scaled(scale), named, batch=case.batch, window=window)

        assert torch.autograd.gradcheck(fold, patches)

        def fold_some(x: torch.Tensor, scale: int = scale, named: torch.Tensor | None = named) -> torch.Tensor:
            rows = (1, case.grid.height * scale)
            return ops.fold_patches(
                x.split(2), case.grid.scaled(scale), named, batch=case.batch, window=window, rows=rows
            )

        assert torch.autograd.gradcheck(fold_some, patches)
    assert torch.autograd.gradgradcheck(fold, patches)


def test_is_the_adjoint_of_unfold(device: torch.device) -> None:
    grid = PatchGrid(20, 26, 8, 2)
    assert (grid.padded_height, grid.padded_width) == (20, 26)
    image = torch.rand(1, 3, 20, 26, dtype=torch.float64, device=device)
    patches = torch.rand(grid.num_patches, 3, 8, 8, dtype=torch.float64, device=device)
    left = (ops.unfold_patches(image, grid) * patches).sum()
    right = (image * ops.fold_patches(patches, grid, window="sum")).sum()
    torch.testing.assert_close(left, right)


def test_compile_fullgraph(device: torch.device) -> None:
    def fold(patches: torch.Tensor, order: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        grid = PatchGrid(image.shape[2], image.shape[3], 8, 2).scaled(2)
        return ops.fold_patches(patches, grid, order, batch=image.shape[0], dtype=torch.uint8)

    calls = []
    for h, w in ((23, 30), (50, 41), (19, 64)):
        count = 2 * PatchGrid(h, w, 8, 2).num_patches
        calls.append(
            (
                torch.rand(count, 12, 8, 8, device=device),
                torch.randperm(count, device=device),
                torch.empty(2, 3, h, w, device=device),
            )
        )
    assert_compiles_once(fold, *calls)


def test_compiled_gradient(device: torch.device) -> None:
    grid = PatchGrid(20, 21, 8, 2)
    patches = torch.rand(grid.num_patches, 3, 8, 8, device=device, requires_grad=True)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return ops.fold_patches(x, grid, window="linear").square().sum()

    (expected,) = torch.autograd.grad(loss(patches), patches)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (actual,) = torch.autograd.grad(compiled(patches), patches)
    assert_close(actual, expected)


GRID = PatchGrid(8, 8, 4, 0)
PATCHES = torch.zeros(4, 3, 4, 4)


@pytest.mark.parametrize(
    ("patches", "order", "options", "error", "message"),
    [
        (PATCHES[0], None, {}, ValueError, r"patches: expected \(B \* N, C, P, P\), got shape \(3, 4, 4\)"),
        (PATCHES.to(torch.uint8), None, {}, TypeError, "patches: expected a floating dtype, got torch.uint8"),
        (PATCHES[:3], None, {}, ValueError, r"patches: expected 1 \* 4 patches for the grid and batch, got 3"),
        (PATCHES, None, {"batch": 2}, ValueError, r"patches: expected 2 \* 4 patches for the grid and batch, got 4"),
        (PATCHES, None, {"batch": -1}, ValueError, "batch: expected batch >= 0, got -1"),
        (PATCHES[..., :3], None, {}, ValueError, "patches: expected sides of 4 or of a divisor of it, got 4x3"),
        (PATCHES[..., :2, :2], None, {}, ValueError, "patches: expected channels in a multiple of 4, got 3"),
        (PATCHES, torch.arange(3), {}, ValueError, "order: expected 4 indices, got 3"),
        (PATCHES, torch.arange(4.0), {}, TypeError, "order: expected int64, got torch.float32"),
        (
            PATCHES,
            torch.tensor([0, 1, 2, 4]),
            {},
            RuntimeError,
            "fold_patches: order: expected 0 <= order < 4, got 4 at 3",
        ),
        (
            PATCHES,
            torch.tensor([0, 1, 2, 1]),
            {},
            RuntimeError,
            "fold_patches: order: expected a permutation, got 1 twice",
        ),
        ([], None, {}, ValueError, "patches: expected at least one tensor, got none"),
        (
            [PATCHES[:2], PATCHES[2:].double()],
            None,
            {},
            ValueError,
            r"patches: expected parts of one dtype, device and shape, got torch.float32 \(2, 3, 4, 4\) on cpu and torch.float64",
        ),
        (PATCHES, None, {"rows": (3, 9)}, ValueError, r"rows: expected 0 <= top <= bottom <= 8, got \(3, 9\)"),
        (PATCHES, None, {"rows": (3, 2)}, ValueError, r"rows: expected 0 <= top <= bottom <= 8, got \(3, 2\)"),
        (PATCHES, None, {"window": "hann"}, ValueError, "window: expected one of average, linear, sum, got 'hann'"),
        (
            PATCHES,
            None,
            {"dtype": torch.int32},
            TypeError,
            "dtype: expected a floating dtype, uint8 or uint16, got torch.int32",
        ),
        (
            PATCHES,
            None,
            {"out": torch.zeros(1, 3, 8, 7)},
            ValueError,
            r"out: expected shape \(1, 3, 8, 8\), got \(1, 3, 8, 7\)",
        ),
        (PATCHES, None, {"out": torch.zeros(1, 3, 8, 8, dtype=torch.int32)}, TypeError, "out: expected one of"),
        (
            PATCHES,
            None,
            {"out": torch.zeros(1, 3, 8, 9)[..., :8]},
            ValueError,
            r"out: expected rows side by side, got strides \(216, 72, 9, 1\)",
        ),
    ],
)
def test_rejects(
    patches: torch.Tensor, order: torch.Tensor | None, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ops.fold_patches(patches, GRID, order, **options)


def test_the_native_entry_rejects_what_it_cannot_fill() -> None:
    def fill(images: torch.Tensor, top: int = 0) -> None:
        torch.ops.enaf_ext.fold_patches_into(images, [PATCHES], None, 8, 4, 0, top, 0)

    with pytest.raises(RuntimeError, match="fold_patches_into: images: expected 3 channels, got 2"):
        fill(torch.zeros(1, 2, 8, 8))
    with pytest.raises(RuntimeError, match="fold_patches_into: images: expected rows side by side"):
        fill(torch.zeros(1, 3, 8, 8).mT)
    with pytest.raises(RuntimeError, match="fold_patches: rows: expected 0 <= top <= bottom <= 8, got 1 and 9"):
        fill(torch.zeros(1, 3, 8, 8), top=1)
