# SPDX-License-Identifier: Apache-2.0
"""FSRCNN as one operator against its layers one by one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from cases import assert_compiles_once, random_pixels
from torch import Tensor

from enaf.fused import flat_weights, fused
from enaf.models import MultiExitNetwork, create_backbone
from enaf.models.fsrcnn import FSRCNN
from enaf_ext import _C, ops
from enaf_ext.grid import PatchGrid

DTYPES = (torch.uint8, torch.uint16, torch.float16, torch.bfloat16, torch.float32)
FAR_CPUS = {"AVX-512": ("baseline", "avx2"), "AVX2": ("baseline",)}.get(_C.cpu_instructions(), ())


def fsrcnn(scale: int) -> MultiExitNetwork:
    """Random, and loud in all layers: fresh tails are too quiet to show an error."""
    network = create_backbone("fsrcnn", scale).eval().requires_grad_(False)
    for index, parameter in enumerate(network.parameters()):
        parameter.add_(0.03 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    return network


def flat(network: MultiExitNetwork) -> Tensor:
    assert isinstance(network, FSRCNN)
    return flat_weights(network)


def unit(image: Tensor) -> Tensor:
    largest = {torch.uint8: 255, torch.uint16: 65535}.get(image.dtype, 1)
    return image.float() / largest


def one_by_one(network: MultiExitNetwork, image: Tensor, grid: PatchGrid, exits: Tensor) -> Tensor:
    patches = ops.gather_patches(unit(image), grid, torch.arange(len(exits)))
    results = torch.stack([network.exit(depth, patches) for depth in (1, 2, 3)])
    return results[exits - 1, torch.arange(len(exits))]


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(
    ("shape", "patch_size", "overlap"),
    [((1, 45, 70), 32, 4), ((2, 37, 21), 16, 2), ((1, 1, 1), 8, 2), ((1, 30, 83), 40, 20), ((1, 9, 12), 1, 0)],
    ids=str,
)  # fmt: skip
def test_patches_match_the_layers(shape: tuple[int, int, int], patch_size: int, overlap: int, scale: int) -> None:
    network = fsrcnn(scale)
    image = random_pixels((shape[0], 3, *shape[1:]), torch.uint8, torch.device("cpu"))
    grid = PatchGrid(*shape[1:], patch_size, overlap)
    exits = torch.arange(shape[0] * grid.num_patches) % 3 + 1
    order, offsets = ops.route_exits(exits, 4)
    expected = one_by_one(network, image, grid, exits)[order]
    patches = ops.fsrcnn_patches(image, grid, order, offsets, flat(network), scale)
    assert patches.is_contiguous()
    assert expected.std() > 0.05
    torch.testing.assert_close(patches, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_takes_every_image(layout: str, dtype: torch.dtype) -> None:
    network, grid = fsrcnn(4), PatchGrid(27, 45, 16, 4)
    image = random_pixels((1, 4, 30, 50), dtype, torch.device("cpu"))[:, 1:, 2:-1, 1:-4]
    if layout != "sliced":
        image = image.contiguous(memory_format=getattr(torch, f"{layout}_format", torch.channels_last))
    exits = torch.arange(grid.num_patches) % 3 + 1
    order, offsets = ops.route_exits(exits, 4)
    patches = ops.fsrcnn_patches(image, grid, order, offsets, flat(network), 4)
    torch.testing.assert_close(patches, one_by_one(network, image, grid, exits)[order], rtol=0, atol=2e-5)
    whole = ops.fsrcnn_image(image, flat(network), 4)
    torch.testing.assert_close(whole, network.exit(3, unit(image)), rtol=0, atol=2e-5)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 200), (1, 97, 96), (1, 193, 103), (0, 8, 8)], ids=str)
def test_images_match_the_layers(shape: tuple[int, int, int], scale: int) -> None:
    network = fsrcnn(scale)
    image = torch.rand(shape[0], 3, *shape[1:])
    whole = ops.fsrcnn_image(image, flat(network), scale)
    torch.testing.assert_close(whole, network.exit(3, image), rtol=0, atol=2e-5)


def test_rows_and_dtypes_are_those_of_the_whole() -> None:
    weights = flat(fsrcnn(4))
    image = random_pixels((2, 3, 131, 110), torch.uint8, torch.device("cpu"))
    whole = ops.fsrcnn_image(image, weights, 4)
    for top, bottom in ((0, 131), (0, 1), (60, 100), (130, 131), (50, 50)):
        part = ops.fsrcnn_image(image, weights, 4, rows=(top, bottom))
        assert torch.equal(part, whole[:, :, 4 * top : 4 * bottom])
    for dtype, most in ((torch.uint8, 255), (torch.uint16, 65535)):
        expected = (whole.clamp(0, 1) * most).round().int()
        assert torch.equal(ops.fsrcnn_image(image, weights, 4, dtype=dtype).int(), expected)


def test_the_same_bits_on_any_number_of_threads() -> None:
    weights, grid = flat(fsrcnn(4)), PatchGrid(90, 120, 32, 4)
    image = torch.rand(1, 3, 90, 120)
    order, offsets = ops.route_exits(torch.arange(grid.num_patches) % 3 + 1, 4)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            patches = ops.fsrcnn_patches(image, grid, order, offsets, weights, 4)
            results.append((patches, ops.fsrcnn_image(image, weights, 4)))
    finally:
        torch.set_num_threads(threads)
    for patches, whole in results[1:]:
        assert torch.equal(patches, results[0][0])
        assert torch.equal(whole, results[0][1])


@pytest.mark.parametrize("cpu", FAR_CPUS)
def test_every_instruction_set_matches_the_layers(cpu: str) -> None:
    tests = ("test_patches_match_the_layers", "test_images_match_the_layers")
    command = [sys.executable, "-m", "pytest", "-q", "-x", *(f"{__file__}::{test}" for test in tests)]
    done = subprocess.run(command, env={**os.environ, "ENAF_CPU": cpu}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_values_that_are_not_finite_stay_within_reach() -> None:
    weights = flat(fsrcnn(4))
    image = torch.rand(1, 3, 40, 60)
    expected = ops.fsrcnn_image(image, weights, 4)
    image[0, 1, 20, 30] = float("nan")
    whole = ops.fsrcnn_image(image, weights, 4)
    far = torch.ones(160, 240, dtype=torch.bool)
    far[4 * 13 : 4 * 28, 4 * 23 : 4 * 38] = False
    assert torch.equal(whole[..., far], expected[..., far])
    assert whole.isnan().any()
    assert int(ops.fsrcnn_image(image, weights, 4, dtype=torch.uint8)[0, 1, 82, 122]) == 0


def test_opcheck() -> None:
    grid, weights = PatchGrid(20, 30, 16, 4), flat(fsrcnn(2))
    image = torch.rand(1, 3, 20, 30)
    order, offsets = ops.route_exits(torch.arange(grid.num_patches) % 3 + 1, 4)
    patches = torch.empty(len(order), 3, 32, 32)
    arguments = (patches, image, order, offsets, weights, 16, 4, 2)
    torch.library.opcheck(torch.ops.enaf_ext.fsrcnn_patches.default, arguments)
    torch.library.opcheck(torch.ops.enaf_ext.fsrcnn_image.default, (image, weights, 2, 3, 9, torch.uint8))


def test_compile_fullgraph() -> None:
    weights = flat(fsrcnn(2))
    images = [(torch.rand(1, 3, h, w),) for h, w in ((22, 30), (50, 42), (18, 66))]
    assert_compiles_once(lambda image: ops.fsrcnn_image(image, weights, 2) + 1, *images)


IMAGE, ORDER, OFFSETS, WEIGHTS = (
    torch.zeros(1, 3, 8, 8),
    torch.zeros(1, dtype=torch.int64),
    torch.ones(5).long(),
    torch.zeros(42833),
)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"image": IMAGE[:, :1]}, ValueError, r"image: expected \(B, 3, H, W\) .*, got shape \(1, 1, 8, 8\)"),
        ({"image": IMAGE.double()}, TypeError, "image: expected one of .*, got torch.float64"),
        ({"order": ORDER.int()}, TypeError, "order: expected int64, got torch.int32"),
        ({"order": ORDER + 4}, RuntimeError, "order: expected 0 <= order < 1, got 4 at 0"),
        ({"offsets": OFFSETS[:4]}, ValueError, "offsets: expected 5 values, got 4"),
        ({"offsets": OFFSETS.int()}, TypeError, "offsets: expected int64, got torch.int32"),
        ({"weights": WEIGHTS.double()}, TypeError, "weights: expected float32, got torch.float64"),
        ({"weights": WEIGHTS[1:]}, RuntimeError, r"weights: expected \(42833,\) float32"),
        ({"scale": 5}, ValueError, "scale: expected 2, 3 or 4, got 5"),
        ({"out": torch.empty(1, 3, 8, 8)}, ValueError, r"out: expected shape \(1, 3, 32, 32\), got \(1, 3, 8, 8\)"),
        ({"out": torch.empty(1, 3, 32, 32).half()}, TypeError, "out: expected one of torch.float32, got torch.float16"),
        (
            {"out": torch.empty(1, 3, 32, 32).contiguous(memory_format=torch.channels_last)},
            RuntimeError,
            "patches: expected contiguous float32",
        ),
    ],
)  # fmt: skip
def test_patches_reject(changes: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {
        "image": IMAGE,
        "grid": PatchGrid(8, 8, 8, 2),
        "order": ORDER,
        "offsets": OFFSETS,
        "weights": WEIGHTS,
        "scale": 4,
    }
    with pytest.raises(error, match=message):
        ops.fsrcnn_patches(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"image": IMAGE[0]}, ValueError, r"image: expected \(B, 3, H, W\), got shape \(3, 8, 8\)"),
        ({"image": IMAGE[:, :, :0]}, ValueError, r"image: expected .* no empty side, got shape \(1, 3, 0, 8\)"),
        ({"rows": (3, 9)}, ValueError, r"rows: expected 0 <= top <= bottom <= 8, got \(3, 9\)"),
        ({"dtype": torch.float16}, TypeError, "dtype: expected float32, uint8 or uint16, got torch.float16"),
        ({"weights": WEIGHTS[1:]}, RuntimeError, r"fsrcnn_image: weights: expected \(42833,\) float32"),
    ],
)  # fmt: skip
def test_image_rejects(changes: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.fsrcnn_image(**{"image": IMAGE, "weights": WEIGHTS, "scale": 4, **changes})


def test_native_entries_reject() -> None:
    with pytest.raises(RuntimeError, match=r"fsrcnn_patches: offsets: expected \(5,\) int64"):
        torch.ops.enaf_ext.fsrcnn_patches(torch.zeros(1, 3, 32, 32), IMAGE, ORDER, OFFSETS[:2], WEIGHTS, 8, 2, 4)
    with pytest.raises(RuntimeError, match="fsrcnn_image: scale: expected 2, 3 or 4, got 7"):
        torch.ops.enaf_ext.fsrcnn_image(IMAGE, WEIGHTS, 7, 0, 8, torch.uint8)
    with pytest.raises(RuntimeError, match="fsrcnn_image: rows: expected 0 <= top <= bottom <= 8, got 5 and 3"):
        torch.ops.enaf_ext.fsrcnn_image(IMAGE, WEIGHTS, 4, 5, 3, torch.uint8)


def test_a_network_with_slopes_of_its_own_for_each_channel_is_left_to_its_layers() -> None:
    network = create_backbone("fsrcnn")
    network.head[1] = torch.nn.PReLU(56)  # type: ignore[operator, index]  # FSRCNN's own
    cpu = torch.device("cpu")
    assert fused(network, cpu, torch.float32) is None
    assert fused(create_backbone("fsrcnn"), cpu, torch.bfloat16) is None
    assert fused(create_backbone("light"), cpu, torch.float32) is None
