# SPDX-License-Identifier: Apache-2.0
"""Images that go through an exit as a whole, with deeper patches beside it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import enaf.engine
import enaf.static
import enaf.whole_or_routed
import enaf_ext
from enaf.adaptive import AdaptiveNetwork
from enaf.estimator import CELL, PaperEstimator
from enaf.models import backbone_names, create_backbone
from enaf.pixels import Canvas
from enaf.static import run_static
from enaf.whole_or_routed import ROUTED, WORTH_IT, Prices, Way, _cheapest
from enaf_ext.grid import PatchGrid


class ByBrightness(PaperEstimator):
    """Black patches are best at exit 0, dark ones at exit 1, bright ones at the full exit."""

    def features(self, lr: Tensor) -> Tensor:
        return F.avg_pool2d(lr, CELL).mean(dim=1, keepdim=True)

    def readout(self, pooled: Tensor) -> Tensor:
        brightness = pooled[:, 0]
        return 30 + 5 * F.one_hot(3 * (brightness > 0.5) + (brightness > 0.1) * (brightness <= 0.5), 4).float()


@pytest.fixture(autouse=True)
def worth_mixing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it saves little."""
    monkeypatch.setattr(enaf.whole_or_routed, "WORTH_MIXING", 1.0)


def upscaler(name: str = "fsrcnn") -> enaf_ext.Upscaler:
    torch.manual_seed(0)
    network = create_backbone(name)
    for parameter in network.parameters():
        parameter.data.add_(0.01 * torch.randn_like(parameter))
    return enaf_ext.Upscaler(AdaptiveNetwork(network, ByBrightness()).eval())


def picture(images: int, channels: int, dtype: torch.dtype) -> Tensor:
    """Dark noise in 8 x 10 patches, two of which are bright in every image."""
    lr = torch.randint(0, 100, (images, channels, 28 * 8 + 1, 28 * 10 + 3), generator=torch.Generator().manual_seed(1))
    for image in lr:
        image[:, 28 * 2 : 28 * 2 + 32, 28 * 4 : 28 * 4 + 32] += 150
        image[:, 28 * 7 :, 28 * 9 :] += 150  # a patch that the image cuts
    return (
        lr.to(dtype) if dtype == torch.uint8 else (lr * 257).to(dtype) if dtype == torch.uint16 else lr.to(dtype) / 255
    )


def covered(exit_index: Tensor, grid: PatchGrid) -> Tensor:
    """(B, 1, 4*H, 4*W): how many of these patches cover a pixel."""
    patches = exit_index.flatten()[:, None, None, None].float().expand(-1, 1, 128, 128)
    return enaf_ext.ops.fold_patches(patches.contiguous(), grid.scaled(4), batch=len(exit_index), window="sum")


CASES = [
    *((name, 3, torch.uint8, 24) for name in backbone_names()),
    *((name, channels, torch.float32, 256) for name in ("light", "fsrcnn") for channels in (1, 3)),
    *((name, 3, torch.uint16, 24) for name in ("light", "fsrcnn")),
]


@pytest.mark.parametrize(("name", "channels", "dtype", "bands"), CASES, ids=str)
def test_deeper_patches_beside_an_exit_as_a_whole(
    name: str, channels: int, dtype: torch.dtype, bands: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where none of them is, the image is that of the exit as a whole; inside them it is theirs."""
    monkeypatch.setitem(enaf.engine.BAND_PATCHES, device.type, bands)
    monkeypatch.setattr(enaf.static, "STRIP_VALUES", 4 << 20)  # several strips
    monkeypatch.setattr(enaf.static, "FUSED_BYTES", 4 << 20)
    ours, lr = upscaler(name), picture(2, channels, dtype).to(device)
    sr, info = ours(lr, eta=0.1, return_info=True, dtype=torch.float32)
    assert info.whole == [1, 1]
    assert info.static == []
    deep = info.exit_index == 3
    assert deep.flatten(1).sum(dim=1).tolist() == [2, 2]
    assert (info.exit_index[~deep] == 1).all()
    whole = Canvas(lr, 4)
    run_static(ours._engine(lr.device, torch.float32), 1, whole.size, whole.read, whole.write)
    forced = ours(lr, force_exit=3, dtype=torch.float32)
    theirs, others = covered(deep, info.grid), covered(~deep, info.grid)
    outside, inside = (theirs == 0).expand_as(sr), (others == 0).expand_as(sr)
    assert inside.any()
    sr, whole_sr, forced = (image.float() for image in (sr, whole.sr, forced))
    atol = 1e-6 if dtype == torch.float32 else int(device.type == "cuda")
    torch.testing.assert_close(sr[outside], whole_sr[outside], rtol=0, atol=atol)
    torch.testing.assert_close(sr[inside], forced[inside], rtol=0, atol=atol)
    assert not torch.equal(whole_sr[inside], forced[inside])
    macs = ours._table.relative("macs")
    assert macs[1] < info.cost["macs"] < 1.2 * macs[1] + 0.1


def test_streams_to_the_same_bytes() -> None:
    ours, (lr,) = upscaler("light"), picture(1, 3, torch.uint8)
    expected, info = ours(lr, eta=0.1, return_info=True)
    assert info.whole == [1]
    sr = torch.zeros_like(expected)

    def write(top: int, rows: Tensor) -> None:
        sr[:, top : top + rows.shape[1]] = rows

    streamed = ours.stream(lambda top, bottom: lr[:, top:bottom], tuple(lr.shape), write, device="cpu", eta=0.1)
    assert streamed.whole == [1]
    assert torch.equal(sr, expected)


def test_images_of_a_batch_go_their_own_ways() -> None:
    """Bits do not depend on the company."""
    ours, lr = upscaler(), picture(4, 3, torch.uint8)
    lr[1] = lr[1] % 100  # exit 1 alone
    lr[2] = 10
    lr[3] = 155 + lr[3] % 100  # the full exit alone
    sr, info = ours(lr, eta=0.1, return_info=True)
    assert info.whole == [1, 1, 0, 3]
    assert info.static == [3]
    for image, result, depth in zip(lr, sr, info.whole, strict=True):
        alone, its = ours(image, eta=0.1, return_info=True)
        assert its.whole == [depth]
        assert torch.equal(alone, result)


def test_large_images_are_routed_or_go_through_the_full_network(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, lr = upscaler(), picture(1, 3, torch.uint8)
    assert ours(lr, budget=1.0, return_info=True)[1].whole == [1]
    for limit in ("LOOKED_AT", "IN_MEMORY"):
        monkeypatch.setitem(getattr(enaf.whole_or_routed, limit), "cpu", 1000)
    assert ours(lr, eta=0.1, return_info=True)[1].whole == [0]
    assert ours(lr, budget=1.0, return_info=True)[1].whole == [0]  # though all its patches are scored
    assert ours(155 + lr % 100, eta=0.1, return_info=True)[1].whole == [3]


@pytest.mark.parametrize(
    ("counts", "way"),
    [
        ([100, 0, 0, 0], ROUTED),  # nothing is cheaper than bicubic
        ([50, 50, 0, 0], ROUTED),
        ([0, 100, 0, 0], Way(1, False)),
        ([10, 90, 0, 0], Way(1, False)),
        ([0, 0, 100, 0], Way(2, False)),
        ([0, 5, 0, 95], Way(3, False)),
        ([0, 95, 0, 5], Way(1, True)),
        ([0, 0, 95, 5], Way(2, True)),
        ([60, 0, 0, 40], ROUTED),
    ],
)
def test_the_cheapest_way(counts: list[int], way: Way) -> None:
    """Patches cost 1.3 times what their pixels cost as a whole. No way costs more than routing, or takes shallower exits."""
    share = torch.tensor([0, 0.3, 0.6, 1.0], dtype=torch.float64)
    prices = Prices(share, (1.3 * share).tolist(), (100 * share).tolist(), scores=0.0)
    routed = prices.routed(counts)
    spent = prices.whole[way.whole] + prices.routed([0] * (way.whole + 1) + counts[way.whole + 1 :])
    assert _cheapest(counts, prices) == (way, pytest.approx(spent))
    assert way.patches or way.whole >= max(depth for depth in range(4) if counts[depth])
    assert way == ROUTED or spent < (1.0 if way.patches or way.whole == 3 else WORTH_IT) * routed
