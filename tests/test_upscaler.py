# SPDX-License-Identifier: Apache-2.0
"""The whole flow, on an untrained network whose exits differ visibly and whose estimates are fixed."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import enaf.engine
import enaf.upscaler
import enaf_ext
from enaf.adaptive import AdaptiveNetwork
from enaf.checkpoint import save_model
from enaf.decision import choose_exits
from enaf.estimator import create_estimator
from enaf.inference import prepare
from enaf.models import backbone_names, create_backbone
from enaf_ext import reference
from enaf_ext.grid import PatchGrid


@pytest.fixture(scope="module")
def model() -> AdaptiveNetwork:
    """Untrained, with estimates that differ from patch to patch by a few dB around 30."""
    torch.manual_seed(0)
    network, estimator = create_backbone("fsrcnn"), create_estimator("paper")
    patches = reference.unfold_patches(image(1, 3, 120, 240).float() / 255, PatchGrid(120, 240))
    with torch.no_grad():
        last = estimator.last.weight.normal_()
        spread = estimator(patches)
        estimator.last.weight.copy_(last * 2 / spread.std(dim=0)[:, None])
        estimator.last.bias.add_(30 - estimator(patches).mean(dim=0))
    return AdaptiveNetwork(network, estimator).eval()


@pytest.fixture(scope="module")
def upscaler(model: AdaptiveNetwork) -> enaf_ext.Upscaler:
    return enaf_ext.Upscaler(model=model)


def image(*shape: int, seed: int = 0) -> Tensor:
    """Flat on the left, ever noisier and brighter to the right, uint8."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(shape, generator=generator) * 2 - 1
    ramp = torch.linspace(0, 1, shape[-1])
    return (60 + ramp * (100 + 90 * noise)).to(torch.uint8)


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 37, 53), (2, 3, 32, 32), (1, 40, 33), (1, 1, 5, 90), (3, 29, 61)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32, torch.float16, torch.bfloat16])
def test_any_size_and_dtype(upscaler: enaf_ext.Upscaler, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    lr = image(*shape)
    if dtype != torch.uint8:
        lr = (lr.int() * 257).to(dtype) if dtype == torch.uint16 else (lr.float() / 255).to(dtype)
    for sr in (upscaler(lr, eta=0.5), upscaler(lr, budget=0.5), upscaler.static(lr)):
        assert sr.shape == (*shape[:-2], 4 * shape[-2], 4 * shape[-1])
        assert sr.dtype == dtype
    if dtype.is_floating_point:
        assert float(sr.min()) >= 0
        assert float(sr.max()) <= 1


def test_flow_equals_the_slow_one(
    model: AdaptiveNetwork, upscaler: enaf_ext.Upscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enaf.upscaler, "LARGEST_SHARE", float("inf"))  # routed, whatever it costs
    lr = image(2, 3, 171, 225)
    sr, info = upscaler(lr, eta=1.5, gamma=1.2, return_info=True)
    grid = PatchGrid(171, 225)
    assert info.static == []
    unit = lr.float() / 255
    patches = reference.unfold_patches(unit, grid)
    edges = reference.edge_score(lr, grid)
    with torch.inference_mode():
        psnr = model.estimator(patches)
        chosen = choose_exits(psnr, edges, upscaler.cost, 1.5, 1.2)
        outputs = torch.stack([model.network.exit(int(j), patches[n : n + 1])[0] for n, j in enumerate(chosen)])
        expected = reference.fold_patches(outputs, grid.scaled(4), batch=2, window="linear")
    assert len(chosen.unique()) >= 3
    assert torch.equal(info.exit_index.flatten(), chosen)
    assert torch.equal(info.edge_score.flatten(), edges)
    torch.testing.assert_close(info.psnr_db.flatten(0, 2), psnr, rtol=1e-4, atol=1e-3)
    assert info.exit_index.shape == (2, grid.rows, grid.cols)
    assert info.grid == grid
    difference = (sr.float() - expected.clamp(0, 1) * 255).abs()
    assert float(difference.max()) <= 0.51


def test_forced_exits(model: AdaptiveNetwork, upscaler: enaf_ext.Upscaler) -> None:
    lr = torch.rand(3, 20, 24)
    for depth in range(4):
        sr, info = upscaler(lr, force_exit=depth, return_info=True)
        assert (info.exit_index == depth).all()
        padded = functional.pad(lr[None], (0, 8, 0, 12), mode="replicate")
        with torch.inference_mode():
            expected = model.network.exit(depth, padded)[0, :, :80, :96].clamp(0, 1)
        torch.testing.assert_close(sr, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", backbone_names())
def test_every_backbone_mixes_exits(name: str) -> None:
    network = create_backbone(name).eval()
    with torch.inference_mode():
        lr, grid = torch.rand(1, 3, 14, 14), PatchGrid(14, 14, 8, 2)
        order = torch.tensor([2, 0, 3, 1])  # they take exits 3, 2, 1 and 0
        run = torch.cat(enaf.upscaler.run_exits(network, lr, grid, order, [4, 3, 2, 1, 0], 3))
        patches = reference.unfold_patches(lr, grid)[order]
        expected = torch.cat([network.exit(3 - n, patches[n : n + 1]) for n in range(4)])
        torch.testing.assert_close(network.pixels(run), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", ["planar", "channels_last"])
@pytest.mark.parametrize(("batch", "band"), [(1, 1), (3, 16), (7, 40), (64, 1000)])
def test_same_bytes_whatever_the_batch_and_the_band(
    upscaler: enaf_ext.Upscaler, batch: int, band: int, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enaf.upscaler, "LARGEST_SHARE", float("inf"))  # routed, whatever it costs
    lr = image(2, 3, 150, 200).float() / 255
    if layout == "channels_last":
        lr = lr.contiguous(memory_format=torch.channels_last)
    expected, info = upscaler(lr, eta=1.5, return_info=True)
    assert info.static == []
    monkeypatch.setattr(enaf.engine, "batch_size", lambda *_: batch)
    monkeypatch.setitem(enaf.engine.BAND_PATCHES, "cpu", band)
    monkeypatch.setattr(enaf.engine, "SCORED_PIXELS", 2 * band * 28**2)
    sr, again = enaf_ext.Upscaler(upscaler.model)(lr, eta=1.5, return_info=True)
    assert torch.equal(again.psnr_db, info.psnr_db)
    assert torch.equal(again.exit_index, info.exit_index)
    assert torch.equal(sr, expected)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("injected"), RuntimeError('torch_call_dispatcher("aten::empty", "") API call failed')],
)
def test_out_of_memory_halves_the_batch_and_gives_the_same_bytes(
    upscaler: enaf_ext.Upscaler, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    lr = image(3, 144, 200)
    expected = upscaler(lr, budget=0.6)
    run_exits, tried, largest = enaf.upscaler.run_exits, [], 3

    def run(*arguments: object) -> list[Tensor]:
        batch = arguments[5]
        assert isinstance(batch, int)
        tried.append(batch)
        if batch > largest:
            raise error
        return run_exits(*arguments)

    monkeypatch.setattr(enaf.upscaler, "run_exits", run)
    monkeypatch.setattr(enaf.engine, "batch_size", lambda *_: 12)
    monkeypatch.setitem(enaf.engine.BAND_PATCHES, "cpu", 16)
    upscaler = enaf_ext.Upscaler(upscaler.model)
    assert torch.equal(upscaler(lr, budget=0.6), expected)
    assert tried[:4] == [12, 6, 3, 3]
    largest = 0
    with pytest.raises(type(error)):
        upscaler(lr, budget=0.6)


def test_operators_name_the_allocation_that_fails() -> None:
    """By this name the runtime knows that there is no memory."""
    order = torch.zeros(1, dtype=torch.int64).expand(1 << 30)
    with pytest.raises(RuntimeError, match='"aten::empty"'):
        enaf_ext.ops.gather_patches(torch.zeros(1, 3, 64, 64), PatchGrid(64, 64), order)


def test_a_file_written_anew_is_loaded_anew(model: AdaptiveNetwork, tmp_path: Path) -> None:
    lr, path = image(3, 40, 40), tmp_path / "model.safetensors"
    save_model(model, path)
    before = enaf_ext.upscale(lr, model=path, force_exit=1)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.network.head[0].bias.add_(0.1)
    save_model(changed, path)
    after = enaf_ext.upscale(lr, model=path, force_exit=1)
    assert not torch.equal(after, before)
    assert torch.equal(after, enaf_ext.Upscaler(changed)(lr, force_exit=1))


def test_half_precision_that_overflows_is_done_again(model: AdaptiveNetwork) -> None:
    """Features beyond 65504 in the middle of the network, and none at its end."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.network.mapping[0].weight.mul_(1e6)
        model.network.mapping[1].weight.mul_(1e-6)
    upscaler, lr = enaf_ext.Upscaler(model), image(3, 60, 90).float() / 255
    for force_exit in (1, 3):
        exact = upscaler(lr, force_exit=force_exit)
        with torch.inference_mode():
            half = prepare(model.network, lr.device, torch.float16).exit(force_exit, lr[None].half())
        assert not half.isfinite().all()
        sr = upscaler(lr, force_exit=force_exit, dtype=torch.float16)
        torch.testing.assert_close(sr, exact, rtol=0, atol=2e-3)
    torch.testing.assert_close(upscaler.static(lr, dtype=torch.float16), upscaler.static(lr), rtol=0, atol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close(upscaler: enaf_ext.Upscaler, dtype: torch.dtype) -> None:
    lr = image(3, 60, 90).float() / 255
    exact, near = upscaler(lr, budget=0.7), upscaler(lr, budget=0.7, dtype=dtype)
    assert not torch.equal(exact, near)
    torch.testing.assert_close(near, exact, rtol=0, atol=2e-3 if dtype == torch.float16 else 3e-2)
    with pytest.raises(TypeError, match=r"dtype: expected float16, bfloat16 or float32, got torch\.float64"):
        upscaler(lr, dtype=torch.float64)


def test_images_of_a_batch_are_independent(upscaler: enaf_ext.Upscaler) -> None:
    noise = torch.randint(0, 256, (3, 144, 200), dtype=torch.uint8)
    batch = torch.stack([noise, *(image(3, 144, 200, seed=seed) for seed in range(3))])
    for eta in (0.0, 0.8, 2.0):
        together = upscaler(batch, eta=eta)
        for one, sr in zip(batch, together, strict=True):
            assert torch.equal(upscaler(one, eta=eta), sr)


def test_budget(upscaler: enaf_ext.Upscaler) -> None:
    lr = image(3, 200, 240)
    for budget in (0.0, 0.3, 0.7, 1.0):
        _, info = upscaler(lr, budget=budget, return_info=True)
        assert info.cost["paper"] <= budget + 1e-9
    assert info.eta == 0


def test_cost_by_hand(upscaler: enaf_ext.Upscaler) -> None:
    _, info = upscaler(image(3, 60, 60), force_exit=3, return_info=True)
    assert info.cost["paper"] == 1
    # four patches of 32x32 and an estimator of 3.80 M multiply-accumulates a patch over 60x60, against 60x60 pixels
    full = 24_920_064 / 1024
    assert info.cost["macs"] == pytest.approx((4 * 1024 * full + 3_801_216 / 1024 * 3600) / (3600 * full), rel=1e-3)
    assert set(info.milliseconds) == {"scores", "decision", "exits", "blend"}
    assert info.cost["ms"] == pytest.approx(sum(info.milliseconds.values()))


def test_results_may_be_changed_and_differentiated(upscaler: enaf_ext.Upscaler) -> None:
    weight = torch.ones(1, requires_grad=True)
    sr, info = upscaler(image(3, 40, 50).float() / 255, return_info=True)
    (sr * weight).sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, sr.sum()[None])
    for result in (sr, upscaler.static(image(3, 40, 50)), info.psnr_db, info.exit_index, info.edge_score):
        result.add_(1)


def test_copies_and_pickles_do_the_same(model: AdaptiveNetwork) -> None:
    upscaler, lr = enaf_ext.Upscaler(model, cost="macs"), image(3, 60, 90)
    expected = upscaler(lr)
    for other in (copy.deepcopy(upscaler), pickle.loads(pickle.dumps(upscaler))):
        assert other.column == "macs"
        assert torch.equal(other(lr), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (8, 8), (20, 33)])
@pytest.mark.parametrize("name", ["fsrcnn", "light"])
def test_flat_images_stay_flat(name: str, size: tuple[int, int]) -> None:
    colour = torch.tensor([200, 100, 30], dtype=torch.uint8)[:, None, None]
    sr, info = enaf_ext.upscale(colour.expand(3, *size), model=name, return_info=True)
    assert not info.static
    assert torch.equal(sr, colour.expand_as(sr))


def test_layout_is_kept(upscaler: enaf_ext.Upscaler) -> None:
    lr = image(2, 3, 33, 40)
    expected = upscaler(lr)
    last = upscaler(lr.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, expected)
    interleaved = upscaler(lr[0].permute(1, 2, 0).contiguous().permute(2, 0, 1))
    assert interleaved.stride() == (1, 3 * 160, 3)
    assert torch.equal(interleaved, expected[0])
    view = torch.zeros(2, 3, 40, 66, dtype=torch.uint8)[:, :, ::1, ::2].transpose(2, 3)
    view.copy_(lr)
    assert torch.equal(upscaler(view), expected)


def test_shared_door_with_a_module(model: AdaptiveNetwork, upscaler: enaf_ext.Upscaler) -> None:
    lr = image(3, 30, 30)
    assert torch.equal(enaf_ext.upscale(lr, 0.7, 1.0, model=model), upscaler(lr, 0.7, 1.0))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"image": [1]}, TypeError, "image: expected a tensor, got list"),
        ({"image": torch.zeros(3, 8, 8, dtype=torch.int64)}, TypeError, r"image: expected uint8, .*, got torch\.int64"),
        ({"image": torch.zeros(8, 8)}, ValueError, r"image: expected \(C, H, W\).*got \(8, 8\)"),
        ({"image": torch.zeros(4, 8, 8)}, ValueError, r"1 or 3 channels.*got \(4, 8, 8\)"),
        ({"image": torch.zeros(3, 0, 8)}, ValueError, r"no empty side, got \(3, 0, 8\)"),
        (
            {"image": torch.full((3, 8, 8), 200.0)},
            ValueError,
            r"image: expected floating values in \[0, 1\], got \[200",
        ),
        ({"image": torch.full((3, 8, 8), float("nan"))}, ValueError, r"image: expected floating values in \[0, 1\]"),
        ({"eta": -1.0}, ValueError, r"eta: expected a finite number of at least 0, got -1\.0"),
        ({"gamma": float("nan")}, ValueError, "gamma: expected a finite number of at least 0, got nan"),
        ({"budget": 2.0}, ValueError, r"budget: expected a share between 0 and 1, got 2\.0"),
        ({"force_exit": 4}, ValueError, "force_exit: expected 0 to 3, got 4"),
        ({"force_exit": 1, "budget": 0.5}, ValueError, "budget: expected None where force_exit is given"),
        ({"overlap": 17}, ValueError, "overlap: expected"),
        ({"patch_size": 0}, ValueError, "patch_size: expected"),
        ({"eta": "1"}, TypeError, "eta: expected a number, got '1'"),
        ({"eta": None}, TypeError, "eta: expected a number, got None"),
        ({"budget_ms": "5"}, TypeError, "budget_ms: expected a number, got '5'"),
        ({"patch_size": 32.0}, TypeError, r"patch_size: expected an integer, got 32\.0"),
        ({"overlap": None}, TypeError, "overlap: expected an integer, got None"),
        ({"force_exit": 1.5}, TypeError, r"force_exit: expected an integer, got 1\.5"),
    ],
)
def test_rejects(upscaler: enaf_ext.Upscaler, arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        upscaler(**{"image": torch.zeros(3, 8, 8), **arguments})


def test_rejects_models() -> None:
    with pytest.raises(ValueError, match=r"model: expected a \.safetensors path or one of the shipped models"):
        enaf_ext.Upscaler(model="esrgan")
    with pytest.raises(FileNotFoundError, match=r"model: no such file: missing\.safetensors"):
        enaf_ext.Upscaler(model="missing.safetensors")
    with pytest.raises(TypeError, match="model: expected an AdaptiveNetwork, got Conv2d"):
        enaf_ext.Upscaler(model=torch.nn.Conv2d(3, 3, 1))


@pytest.mark.parametrize("keywords", [{"eta": 0.0}, {"eta": 2.0}, {"force_exit": 2}, {"budget": 0.4}])
def test_what_happened_is_told_without_scoring_anything_more(keywords: dict) -> None:
    upscaler = enaf_ext.Upscaler()
    image = torch.randint(0, 256, (2, 3, 60, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected, scored = upscaler(image, **keywords, return_info=True)
    sr, info = upscaler(image, **keywords, return_info=True, scores=False)
    assert torch.equal(sr, expected)
    assert torch.equal(info.exit_index, scored.exit_index)
    assert info.static == scored.static
    for fact in ("paper", "macs"):
        assert info.cost[fact] == scored.cost[fact]
    assert not scored.psnr_db.isnan().any()
    untold = info.psnr_db.isnan()
    assert untold.all() or not untold.any()
    assert not untold.any() or info.static == [0, 1] or "force_exit" in keywords, "the others cannot be decided without"
    assert untold.any() or "force_exit" not in keywords
