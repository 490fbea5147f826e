# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can show: the CPU's bits, CUDA graphs, streams, devices, images from the host, results beyond 2^31 bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CASES, FLOATS, PIXELS, Case, image_of
from torch import Tensor

import enaf.engine
from enaf.upscaler import Upscaler
from enaf_ext import ops
from enaf_ext.grid import PatchGrid

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

CPU = torch.device("cpu")
SMALL = [case for case in CASES if case.values[0].batch > 0]


def assert_same_bits(function: Callable[..., Any], *arguments: Any) -> None:
    """`function` gives on CUDA what it gives on the CPU: neither contracts multiplications and additions."""
    moved = [a.cuda() if isinstance(a, Tensor) else a for a in arguments]
    for expected, actual in zip(_tuple(function(*arguments)), _tuple(function(*moved)), strict=True):
        assert actual.is_cuda
        assert actual.dtype == expected.dtype
        assert torch.equal(actual.cpu().double(), expected.double())


def _tuple(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("dtype", PIXELS, ids=str)
@pytest.mark.parametrize("case", SMALL)
def test_cuts_matches_cpu(case: Case, dtype: torch.dtype) -> None:
    image = image_of(case, dtype, CPU)
    order = torch.randint(0, case.count, (case.count + 3,))
    assert_same_bits(lambda x: ops.unfold_patches(x, case.grid), image)
    for out in {dtype, *FLOATS}:
        for channels_last in (False, True):
            assert_same_bits(
                lambda x, o, out=out, last=channels_last: ops.gather_patches(
                    x, case.grid, o, dtype=out, channels_last=last
                ),
                image,
                order,
            )
    if case.channels in (1, 3) and dtype != torch.float64:
        assert_same_bits(lambda x: ops.edge_score(x, case.grid), image)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", PIXELS, ids=str)
@pytest.mark.parametrize("case", SMALL)
def test_bicubic_matches_cpu(case: Case, dtype: torch.dtype, scale: int) -> None:
    image = image_of(case, dtype, CPU)
    order = torch.randint(0, case.count, (case.count + 1,))
    for out in FLOATS:
        for channels_last, shuffled in ((False, True), (True, True), (True, False), (False, False)):
            assert_same_bits(
                lambda x, o, out=out, last=channels_last, shuffled=shuffled: ops.bicubic_patches(
                    x, case.grid, o, scale, dtype=out, channels_last=last, shuffled=shuffled
                ),
                image,
                order,
            )


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("case", SMALL)
def test_fold_matches_cpu(case: Case, dtype: torch.dtype, scale: int) -> None:
    grid = case.grid.scaled(scale)
    patches = (
        torch.randn(case.count, case.channels * scale**2, case.patch_size, case.patch_size).mul(0.5).add(0.5).to(dtype)
    )
    order = torch.randperm(case.count)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = patches.contiguous(memory_format=layout)
        for window in ops.WINDOWS:
            for out in PIXELS:
                assert_same_bits(
                    lambda x, o, out=out, window=window: ops.fold_patches(
                        x, grid, o, batch=case.batch, window=window, dtype=out
                    ),
                    x,
                    order,
                )


@pytest.mark.parametrize("count", [0, 1, 31, 2047, 2049, 100_000, 3_000_001])
@pytest.mark.parametrize("num_exits", [1, 4, 16, 64])
def test_route_exits(count: int, num_exits: int) -> None:
    assert_same_bits(ops.route_exits, torch.randint(0, num_exits, (count,)), num_exits)


def test_out_of_range_is_the_nearest_and_does_not_fault() -> None:
    grid = PatchGrid(8, 8, 4, 0)
    image = torch.rand(1, 1, 8, 8, device="cuda")
    wild = torch.tensor([-5, 2**40], device="cuda")
    tame = torch.tensor([0, 3], device="cuda")
    assert torch.equal(ops.gather_patches(image, grid, wild), ops.gather_patches(image, grid, tame))
    assert torch.equal(ops.bicubic_patches(image, grid, wild, 2), ops.bicubic_patches(image, grid, tame, 2))
    order, offsets = ops.route_exits(torch.tensor([-1, 9, 1], device="cuda"), 4)
    assert order.tolist() == [1, 2, 0]
    assert offsets.tolist() == [3, 2, 1, 1, 0]
    ops.fold_patches(image.new_zeros(4, 1, 4, 4), grid, torch.tensor([0, 2**40, -1, 0], device="cuda"))
    torch.cuda.synchronize()


def frame(image: Tensor, exit_index: Tensor, grid: PatchGrid) -> Tensor:
    """Everything that a frame does but the network, without waiting for the device."""
    score = ops.edge_score(image, grid)
    order, _ = ops.route_exits(exit_index + (score > 1e9).long(), 4)
    patches = ops.gather_patches(image, grid, order, dtype=torch.float16, channels_last=True)
    sr = ops.bicubic_patches(image, grid, order, 4, dtype=torch.float16, channels_last=True, shuffled=False)
    sr = sr + 0 * patches.sum()
    return ops.fold_patches(sr, grid.scaled(4), order, dtype=torch.uint8)


def inputs(seed: int, device: str = "cuda") -> tuple[Tensor, Tensor, PatchGrid]:
    grid = PatchGrid(67, 131)
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (1, 3, 67, 131), dtype=torch.uint8, generator=generator)
    return image.to(device), torch.randint(0, 4, (grid.num_patches,), generator=generator).to(device), grid


def test_cuda_graph() -> None:
    image, exits, grid = inputs(0)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        frame(image, exits, grid)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = frame(image, exits, grid)
    for seed in (1, 2):
        other_image, other_exits, _ = inputs(seed)
        image.copy_(other_image)
        exits.copy_(other_exits)
        graph.replay()
        assert torch.equal(captured, frame(image, exits, grid))


def test_two_streams_and_repeats_give_the_same_bits() -> None:
    expected = [frame(*inputs(seed)) for seed in (0, 1)]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    prepared = [inputs(seed) for seed in (0, 1)]
    torch.cuda.synchronize()
    results: list[list[Tensor]] = [[], []]
    for _ in range(20):
        for k, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                results[k].append(frame(*prepared[k]))
    torch.cuda.synchronize()
    for k in (0, 1):
        assert all(torch.equal(result, expected[k]) for result in results[k])


def test_other_device() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device only")
    assert torch.equal(frame(*inputs(0, "cuda:1")).cpu(), frame(*inputs(0, "cuda:0")).cpu())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16], ids=str)
def test_stream_of_bands_equals_the_call(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(enaf.engine.BAND_PATCHES, "cuda", 8)
    upscaler, largest = Upscaler(), torch.iinfo(dtype).max
    image = (torch.linspace(0, 1, 170) * torch.rand(3, 150, 170) * largest).int().to(dtype)  # smooth at the left
    parts: list[Tensor] = []
    info = upscaler.stream(
        lambda top, bottom: image[:, top:bottom],
        (3, 150, 170),
        lambda top, rows: parts.append(rows.clone()),
        device="cuda",
        budget=0.5,
    )
    expected, whole = upscaler(image.cuda(), budget=0.5, return_info=True)
    assert len(parts) > 1
    assert len(whole.exit_index.unique()) > 1, "some exits, not one for all"
    assert torch.equal(info.exit_index, whole.exit_index)
    assert torch.equal(torch.cat(parts, dim=1).int(), expected.cpu().int())


@pytest.mark.slow
def test_beyond_2_31_bytes() -> None:
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("less than 24 GiB of GPU memory free")
    grid = PatchGrid(27000, 30000)
    image = torch.randint(0, 256, (1, 3, grid.height, grid.width), dtype=torch.uint8, device="cuda")
    patches = ops.unfold_patches(image, grid)
    assert patches.numel() > 1 << 31
    last = torch.tensor([grid.num_patches - 1], device="cuda")
    corner = ops.gather_patches(image, grid, last)
    assert torch.equal(patches[-1:], corner)
    del patches
    halves = ops.gather_patches(
        image, grid, torch.arange(grid.num_patches, device="cuda"), dtype=torch.float16, channels_last=True
    )
    assert torch.equal(ops.fold_patches(halves, grid, dtype=torch.uint8), image)
