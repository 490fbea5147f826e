# SPDX-License-Identifier: Apache-2.0
"""The network as a whole: whatever is cut for memory's sake, no pixel knows of it; and when routing gives way to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import enaf.static
import enaf_ext
from enaf import inference
from enaf.adaptive import AdaptiveNetwork
from enaf.checkpoint import load_model
from enaf.estimator import PaperEstimator, create_estimator
from enaf.inference import batch_size, image_dtype, pack, prepare, prepare_estimator
from enaf.metrics import psnr
from enaf.models import backbone_names, create_backbone
from enaf.pixels import pixel_shuffle
from enaf.static import LEAST_SIDE, Cut, Rectangle
from enaf_ext.grid import PatchGrid

CPU = torch.device("cpu")
PHOTOGRAPH = Path(__file__).resolve().parent.parent / "examples" / "bridge.webp"


@pytest.mark.parametrize("name", backbone_names())
@pytest.mark.parametrize("strips", [1 << 30, 1 << 20])
def test_equals_the_network_on_the_whole_image(name: str, strips: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network = create_backbone(name).eval()
    for parameter in network.parameters():  # untrained tails are too quiet to show a seam
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    upscaler = enaf_ext.Upscaler(AdaptiveNetwork(network, create_estimator("gain")))
    monkeypatch.setitem(enaf.static.FEATURE_BYTES, "cpu", strips)
    monkeypatch.setitem(enaf.static.TAIL_BYTES, "cpu", strips)
    lr = torch.rand(1, 3, 150, 40)
    with torch.inference_mode():
        expected = network.exit(network.num_exits - 1, lr)
    assert expected.std() > 0.01
    sr = upscaler.static(lr, dtype=torch.float32)
    torch.testing.assert_close(sr, expected.clamp(0, 1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("most", [1, 1 << 12, 1 << 16, 1 << 18])
@pytest.mark.parametrize("reach", [2, 33])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (270, 480), (1000, 37), (50, 1920)])
def test_rectangles_cover_an_image_once(height: int, width: int, reach: int, most: int) -> None:
    cut = Cut.of(height, width, reach, most)
    seen = torch.zeros(height, width)
    areas = []
    for rectangle in cut.rectangles(Rectangle(0, height, 0, width)):
        seen[rectangle.slices] += 1
        top, bottom, left, right = rectangle.grown(reach, height, width)
        areas.append((bottom - top) * (right - left))
    assert (seen == 1).all()
    assert cut.overlap == pytest.approx(sum(areas) / (height * width))
    assert max(areas) <= max(most, (LEAST_SIDE + 2 * reach) ** 2 * 2)
    assert cut.images * height * width <= most or cut.images == 1
    assert cut.rows * cut.columns == 1 or height * width > most
    assert Cut.of(height, width, reach, most, least_rows=3).rows >= 3


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["light", "srresnet"])
def test_images_of_a_batch_are_as_alone_whatever_is_cut(
    name: str, channels: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    upscaler = enaf_ext.Upscaler(name)
    images = (torch.rand(3, channels, 45, 70) * (1 if dtype.is_floating_point else 255)).to(dtype)
    whole = upscaler.static(images)
    for most in (300 << 10, 2 << 20):
        monkeypatch.setitem(enaf.static.FEATURE_BYTES, "cpu", most)
        monkeypatch.setitem(enaf.static.TAIL_BYTES, "cpu", most)
        assert torch.equal(upscaler.static(images.contiguous(memory_format=torch.channels_last)), whole)
        assert torch.equal(torch.stack([upscaler.static(image) for image in images]), whole)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", backbone_names())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prepared_networks_do_the_same(name: str, dtype: torch.dtype, scale: int) -> None:
    network = create_backbone(name, scale).eval()
    for parameter in network.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    ready = prepare(network, CPU, dtype)
    lr = torch.rand(2, 3, 20, 24).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        for depth in range(1, network.num_exits):
            expected = network.exit(depth, lr)
            result = ready.exit(depth, lr.to(image_dtype(dtype))).float()
            atol = (1e-5 if dtype == torch.float32 else 0.05) * max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(result, expected, rtol=0, atol=atol)


def test_a_convolution_before_two_shuffles_is_prepared_for_each() -> None:
    convolution = nn.Conv2d(8, 32, 3, padding=1)
    first = nn.Sequential(convolution, nn.LeakyReLU(0.1), nn.PixelShuffle(2))
    module = nn.Sequential(
        first, nn.Sequential(convolution, nn.PReLU(32), nn.PixelShuffle(2)), nn.Sequential(convolution, first[2])
    )
    lr = torch.rand(2, 8, 6, 5).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        torch.testing.assert_close(prepare(module, CPU, torch.float32)(lr), module(lr))


@pytest.mark.parametrize("name", backbone_names())
def test_prepared_estimators_say_the_same(name: str) -> None:
    """To less than a tenth of a decibel, a hundredth in the gains, where the CPU runs them in bfloat16."""
    estimator = load_model(name).estimator
    pixels = np.asarray(Image.open(PHOTOGRAPH).convert("RGB"))[:256, :256]
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        exact, ready = (e.on_grid(image, PatchGrid(256, 256)) for e in (estimator, prepare_estimator(estimator, CPU)))
    assert exact.std() > 1
    torch.testing.assert_close(ready, exact, rtol=0, atol=0.3)
    assert (ready - exact).abs().mean() < 0.12
    gains = (scores[:, 1:] - scores[:, :1] for scores in (ready, exact))
    assert torch.sub(*gains).abs().mean() < 0.02


def test_batches_are_smaller_where_features_are_larger() -> None:
    sizes = [batch_size(create_backbone("fsrcnn"), patch, CPU) for patch in (8, 16, 32, 256)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[2] > sizes[3]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_pixel_shuffle(dtype: torch.dtype, scale: int) -> None:
    image = (torch.rand(2, 3 * scale * scale, 5, 7) * 200).to(dtype)
    expected = torch.nn.functional.pixel_shuffle(image.double(), scale).to(dtype)  # torch's own knows no uint16
    for layout in (torch.contiguous_format, torch.channels_last):
        assert torch.equal(pixel_shuffle(image.contiguous(memory_format=layout), scale), expected)


@pytest.mark.parametrize(
    ("contrast", "exit_of_smoother", "looks", "static"), [(40, 3, [2], [0]), (40, 0, [2], []), (1, 3, [], [])]
)
def test_where_two_smoother_patches_cost_too_much_no_other_is_looked_at(
    contrast: int, exit_of_smoother: int, looks: list[int], static: list[int]
) -> None:
    looked = []

    class OfTwoKinds(PaperEstimator):
        def forward(self, lr: Tensor) -> Tensor:
            looked.append(len(lr))
            smoother = lr.std(dim=(1, 2, 3)) < 0.1
            return 30 + 5 * torch.nn.functional.one_hot(torch.where(smoother, exit_of_smoother, 3), 4).float()

        def readout(self, pooled: Tensor) -> Tensor:
            return 30 + 5 * torch.nn.functional.one_hot(torch.zeros(len(pooled), dtype=torch.long), 4).float()

    lr = torch.randint(0, 256, (3, 300, 300), dtype=torch.uint8)
    lr[:, :150] = 100 + torch.randint(0, contrast, (3, 150, 300), dtype=torch.uint8)
    upscaler = enaf_ext.Upscaler(AdaptiveNetwork(create_backbone("fsrcnn"), OfTwoKinds()).eval())
    looked.clear()  # those that counted its cost
    _, info = upscaler(lr, eta=0.5, return_info=True, scores=False)
    assert looked == looks
    assert info.psnr_db.isnan().all() == bool(static)
    assert info.static == static


def test_routing_gives_way_where_it_costs_more() -> None:
    """An estimator that wants the same exit everywhere."""
    model = AdaptiveNetwork(create_backbone("fsrcnn"), create_estimator("paper")).eval()
    lr = torch.randint(0, 256, (3, 200, 200), dtype=torch.uint8)
    for depth, static in ((3, True), (0, False)):
        with torch.no_grad():
            model.estimator.last.weight.zero_()
            model.estimator.last.bias.copy_(30 + 5 * torch.nn.functional.one_hot(torch.tensor(depth), 4))
        upscaler = enaf_ext.Upscaler(model)
        sr, info = upscaler(lr, eta=0.5, return_info=True)
        assert info.static == ([0] if static else [])
        assert (info.exit_index == depth).all()
        if static:
            assert torch.equal(sr, upscaler.static(lr))
            assert info.cost["paper"] == 1
            assert info.cost["macs"] == 1
        for keywords in ({"force_exit": 3}, {"budget": 0.9}):
            assert upscaler(lr, **keywords, return_info=True)[1].static == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", backbone_names())
def test_weights_laid_out_for_a_patch_size_change_no_bit(name: str, dtype: torch.dtype) -> None:
    network = create_backbone(name).eval()
    ready, packed = (prepare(network, CPU, dtype) for _ in range(2))
    pack(packed, 32, 16)
    layers = [layer for layer in packed.modules() if isinstance(layer, inference._FusedConvolution)]
    assert layers
    assert all(layer.packed for layer in layers)
    for count, side in ((1, 32), (7, 32), (2, 20), (3, 64)):  # of other sizes too
        lr = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))
        lr = lr.contiguous(memory_format=torch.channels_last)
        for depth in range(1, network.num_exits):
            assert torch.equal(packed.exit(depth, lr), ready.exit(depth, lr))


@pytest.mark.parametrize("name", backbone_names())
def test_layers_that_see_the_image_stay_float32(name: str) -> None:
    """What colours lose in eight bits, no later layer brings back."""
    network = create_backbone(name).eval()
    ready = prepare(network, CPU, torch.bfloat16)
    lr = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    features = ready.stage(1, lr)
    assert ready.dtype == features.dtype == torch.bfloat16
    for layer in (*ready.first, *ready.exact):
        assert {weight.dtype for weight in getattr(ready, layer).parameters()} == {torch.float32}
    exact = prepare(network, CPU, torch.float32)
    x = y = lr
    for layer in ready.first:
        x, y = getattr(exact, layer)(x), getattr(ready, layer)(y)
    assert torch.equal(y, x.bfloat16())


@pytest.mark.parametrize("name", ["carn", "light", "srresnet"])
def test_bfloat16_is_hardly_seen(name: str) -> None:
    """Ten times less than a network of 36 dB is wrong by; where the interpolated input is added, rounding is not seen at all."""
    with Image.open(Path(__file__).parent.parent / "examples/bridge.webp") as photograph:
        lr = torch.from_numpy(np.asarray(photograph.reduce(4))[:60, :80].copy()).movedim(2, 0).float() / 255
    upscaler = enaf_ext.Upscaler(name)
    exact = upscaler.static(lr, dtype=torch.float32)
    assert psnr(upscaler.static(lr, dtype=torch.bfloat16)[None], exact[None], 4) > (52 if name == "carn" else 70)
    routed = [upscaler(lr, budget=0.5, dtype=dtype)[None] for dtype in (torch.bfloat16, torch.float32)]
    assert not torch.equal(*routed)
    assert psnr(*routed, 4) > (52 if name == "carn" else 70)
