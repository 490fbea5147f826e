# SPDX-License-Identifier: Apache-2.0
"""FSRCNN as one operator against its layers one by one."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from cases import assert_compiles_once, random_pixels
from tolerances import HALF_FEATURES
from torch import Tensor

from enaf.exits import redo_overflows, run_exits
from enaf.fused import FusedNetwork, flat_weights, fused
from enaf.models import MultiExitNetwork, create_backbone
from enaf.models.fsrcnn import FSRCNN
from enaf.upscaler import Upscaler
from enaf_ext import _C, ops
from enaf_ext.grid import PatchGrid

DTYPES = (torch.uint8, torch.uint16, torch.float16, torch.bfloat16, torch.float32)
FAR_CPUS = {"AVX-512": ("baseline", "avx2"), "AVX2": ("baseline",)}.get(_C.cpu_instructions(), ())

SHAPES = [((1, 45, 70), 32, 4), ((2, 37, 21), 16, 2), ((1, 1, 1), 8, 2), ((1, 30, 83), 40, 20), ((1, 9, 12), 1, 0)]
NO_TENSOR_CORES = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0),
    reason="no CUDA device of 8.0 or newer",
)


@pytest.fixture(params=[pytest.param("cuda", marks=[pytest.mark.cuda, NO_TENSOR_CORES])])
def gpu(request: pytest.FixtureRequest) -> torch.device:
    """A GPU that the operator runs on."""
    return torch.device(request.param)


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
@pytest.mark.parametrize(("shape", "patch_size", "overlap"), SHAPES, ids=str)
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
    halves = ops.fsrcnn_patches(image, grid, order, offsets, flat(network), scale, dtype=torch.float16)
    assert torch.equal(halves, patches.half())


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
    for depth in (1, 2, 3):
        whole = ops.fsrcnn_image(image, flat(network), scale, exit=depth)
        torch.testing.assert_close(whole, network.exit(depth, image), rtol=0, atol=2e-5)


def test_rows_and_dtypes_are_those_of_the_whole() -> None:
    weights = flat(fsrcnn(4))
    image = random_pixels((2, 3, 131, 110), torch.uint8, torch.device("cpu"))
    whole = ops.fsrcnn_image(image, weights, 4)
    for top, bottom in ((0, 131), (0, 1), (60, 100), (130, 131), (50, 50)):
        part = ops.fsrcnn_image(image, weights, 4, rows=(top, bottom))
        assert torch.equal(part, whole[:, :, 4 * top : 4 * bottom])
        larger = torch.full_like(whole, 7)
        out = larger[:, :, 4 * top : 4 * bottom]
        assert ops.fsrcnn_image(image, weights, 4, rows=(top, bottom), out=out) is out
        assert torch.equal(out, part)
        assert bool((torch.cat([larger[:, :, : 4 * top], larger[:, :, 4 * bottom :]], dim=2) == 7).all())
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


def test_fused_patches_that_are_not_finite_are_made_anew() -> None:
    network = fsrcnn(4)
    grid, image = PatchGrid(40, 60, 16, 4), torch.rand(1, 3, 40, 60)
    order, offsets = ops.route_exits(torch.arange(grid.num_patches) % 4, 4)
    running = offsets.tolist()
    run = partial(ops.fsrcnn_patches, weights=flat(network), scale=4)
    for dtype in (torch.float16, torch.float32):
        in_dtype = copy.deepcopy(network).to(dtype)
        (patches,) = run_exits(in_dtype, image, grid, order, running, 8, FusedNetwork(run, None))
        assert patches.dtype == dtype
        expected = patches.clone()
        for bad in (2, running[1]):  # a learned and an interpolated one
            expected[bad].clamp_(0, 1)
            patches[bad, 1, 5, 7] = float("inf")
        redo_overflows(network, image, grid, order, running, 8, [patches])
        torch.testing.assert_close(patches, expected, rtol=0, atol=2e-5 if dtype == torch.float32 else 1e-3)


def test_opcheck() -> None:
    grid, weights = PatchGrid(20, 30, 16, 4), flat(fsrcnn(2))
    image = torch.rand(1, 3, 20, 30)
    order, offsets = ops.route_exits(torch.arange(grid.num_patches) % 3 + 1, 4)
    for dtype in (torch.float32, torch.float16):
        patches = torch.empty(len(order), 3, 32, 32, dtype=dtype)
        arguments = (patches, image, order, offsets, weights, 16, 4, 2)
        torch.library.opcheck(torch.ops.enaf_ext.fsrcnn_patches.default, arguments)
    images = torch.empty(len(image), 3, 12, 2 * image.shape[3], dtype=torch.uint8)
    torch.library.opcheck(torch.ops.enaf_ext.fsrcnn_image.default, (images, image, weights, 2, 1, 3))


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
        ({"out": torch.empty(1, 3, 32, 32).double()}, TypeError, "out: expected one of .*, got torch.float64"),
        (
            {"out": torch.empty(1, 3, 32, 32).contiguous(memory_format=torch.channels_last)},
            RuntimeError,
            "patches: expected contiguous",
        ),
        ({"dtype": torch.bfloat16}, TypeError, "dtype: expected float32 or float16, got torch.bfloat16"),
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
        ({"exit": 0}, ValueError, "exit: expected 1, 2 or 3, got 0"),
        ({"rows": (3, 9)}, ValueError, r"rows: expected 0 <= top <= bottom <= 8, got \(3, 9\)"),
        ({"dtype": torch.float16}, TypeError, "dtype: expected float32, uint8 or uint16, got torch.float16"),
        ({"weights": WEIGHTS[1:]}, RuntimeError, r"fsrcnn_image: weights: expected \(42833,\) float32"),
        ({"out": torch.zeros(1, 3, 32, 31)}, ValueError, r"out: expected shape \(1, 3, 32, 32\), got \(1, 3, 32, 31\)"),
        ({"out": torch.zeros(1, 3, 32, 32).mT}, ValueError, "out: expected rows side by side, got strides"),
    ],
)  # fmt: skip
def test_image_rejects(changes: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.fsrcnn_image(**{"image": IMAGE, "weights": WEIGHTS, "scale": 4, **changes})


def test_native_entries_reject() -> None:
    with pytest.raises(RuntimeError, match=r"fsrcnn_patches: offsets: expected \(5,\) int64"):
        torch.ops.enaf_ext.fsrcnn_patches(torch.zeros(1, 3, 32, 32), IMAGE, ORDER, OFFSETS[:2], WEIGHTS, 8, 2, 4)
    with pytest.raises(RuntimeError, match="fsrcnn_patches: patches: dtype not supported: Double"):
        torch.ops.enaf_ext.fsrcnn_patches(torch.zeros(1, 3, 32, 32).double(), IMAGE, ORDER, OFFSETS, WEIGHTS, 8, 2, 4)
    with pytest.raises(RuntimeError, match="fsrcnn_image: scale: expected 2, 3 or 4, got 7"):
        torch.ops.enaf_ext.fsrcnn_image(torch.zeros(1, 3, 56, 56), IMAGE, WEIGHTS, 7, 3, 0)
    with pytest.raises(RuntimeError, match="fsrcnn_image: exit: expected 1 to 3, got 4"):
        torch.ops.enaf_ext.fsrcnn_image(torch.zeros(1, 3, 32, 32), IMAGE, WEIGHTS, 4, 4, 0)
    with pytest.raises(RuntimeError, match="fsrcnn_image: rows: expected 0 <= top <= bottom <= 8, got 5 and 9"):
        torch.ops.enaf_ext.fsrcnn_image(torch.zeros(1, 3, 16, 32), IMAGE, WEIGHTS, 4, 3, 5)
    with pytest.raises(RuntimeError, match=r"fsrcnn_image: images: expected \(1, 3, 4 \* rows, 32\)"):
        torch.ops.enaf_ext.fsrcnn_image(torch.zeros(1, 3, 16, 31), IMAGE, WEIGHTS, 4, 3, 5)
    with pytest.raises(RuntimeError, match="fsrcnn_image: images: expected rows side by side"):
        torch.ops.enaf_ext.fsrcnn_image(torch.zeros(1, 3, 16, 64)[..., ::2], IMAGE, WEIGHTS, 4, 3, 0)


def test_a_network_with_slopes_of_its_own_for_each_channel_is_left_to_its_layers() -> None:
    network = create_backbone("fsrcnn")
    network.head[1] = torch.nn.PReLU(56)  # type: ignore[operator, index]  # FSRCNN's own
    cpu = torch.device("cpu")
    assert fused(network, cpu, torch.float32) is None
    assert fused(create_backbone("fsrcnn"), cpu, torch.bfloat16) is None
    assert fused(create_backbone("light"), cpu, torch.float32) is None


def assert_near(actual: Tensor, expected: Tensor) -> None:
    """What tensor cores make of it: features are rounded to float16."""
    torch.testing.assert_close(actual.cpu().float(), expected, rtol=0, atol=HALF_FEATURES)
    assert (actual.cpu() - expected).abs().mean() < HALF_FEATURES / 5


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("shape", "patch_size", "overlap"), [*SHAPES[:3], ((1, 30, 83), 36, 18), SHAPES[4]], ids=str)
def test_cuda_matches_cpu(
    shape: tuple[int, int, int], patch_size: int, overlap: int, scale: int, gpu: torch.device
) -> None:
    weights, grid = flat(fsrcnn(scale)), PatchGrid(*shape[1:], patch_size, overlap)
    order, offsets = ops.route_exits(torch.arange(shape[0] * grid.num_patches) % 3 + 1, 4)
    for image_dtype in DTYPES:
        image = random_pixels((shape[0], 3, *shape[1:]), image_dtype, torch.device("cpu"))
        expected = ops.fsrcnn_patches(image, grid, order, offsets, weights, scale)
        arguments = (image.to(gpu), grid, order.to(gpu), offsets.to(gpu), weights.to(gpu), scale)
        patches = ops.fsrcnn_patches(*arguments)
        assert patches.is_contiguous()
        assert_near(patches, expected)
        assert torch.equal(ops.fsrcnn_patches(*arguments), patches)
        assert torch.equal(ops.fsrcnn_patches(*arguments[:3], offsets, *arguments[4:]), patches)
        assert torch.equal(ops.fsrcnn_patches(*arguments, dtype=torch.float16), patches.half())
        interleaved = arguments[0].contiguous(memory_format=torch.channels_last)
        assert torch.equal(ops.fsrcnn_patches(interleaved, *arguments[1:]), patches)


def test_cuda_graph(gpu: torch.device) -> None:
    weights, grid = flat(fsrcnn(4)).to(gpu), PatchGrid(67, 131)
    exits = torch.zeros(grid.num_patches, dtype=torch.int64, device=gpu)
    image = torch.zeros(1, 3, 67, 131, dtype=torch.uint8, device=gpu)

    def run() -> Tensor:
        order, offsets = ops.route_exits(exits, 4)
        return ops.fsrcnn_patches(image, grid, order, offsets, weights, 4, dtype=torch.float16)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for _ in range(2):
        exits.copy_(torch.randint(1, 4, exits.shape))
        image.copy_(torch.randint(0, 256, image.shape))
        graph.replay()
        assert torch.equal(captured, run())


def test_cuda_shows_overflows(gpu: torch.device) -> None:
    weights, grid = flat(fsrcnn(4)), PatchGrid(32, 32)
    weights[75 * 56] = 1e6  # the head's first bias
    order, offsets = ops.route_exits(torch.tensor([3]), 4)
    image = torch.rand(1, 3, 32, 32, device=gpu)
    patches = ops.fsrcnn_patches(image, grid, order.to(gpu), offsets, weights.to(gpu), 4, dtype=torch.float16)
    assert not patches.sum().isfinite()


def test_cuda_rejects_what_does_not_fit(gpu: torch.device) -> None:
    image, order = torch.zeros(1, 3, 200, 200, device=gpu), torch.zeros(1, dtype=torch.int64, device=gpu)
    with pytest.raises(RuntimeError, match=r"patch_size: expected at most \d+, for which .* shared memory, got 100"):
        ops.fsrcnn_patches(image, PatchGrid(200, 200, 100, 0), order, OFFSETS, WEIGHTS.to(gpu), 4)


def test_cuda_runs_fused_where_asked(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    network = create_backbone("fsrcnn")
    assert fused(network, gpu, torch.float16) is None
    image = torch.randint(0, 256, (3, 100, 150), dtype=torch.uint8, device=gpu)
    upscaler = Upscaler()
    layers = [upscaler(image, force_exit=depth).int() for depth in (1, 2, 3)]
    monkeypatch.setenv("ENAF_FUSED_CUDA", "1")
    assert fused(network, gpu, torch.float32) is None
    assert fused(network, gpu, torch.float16) is not None
    upscaler = Upscaler()
    for depth, expected in enumerate(layers, start=1):
        # of 255; on a CPU noise in float16 layers is within two of float32
        assert (upscaler(image, force_exit=depth).int() - expected).abs().max() <= 4
