# SPDX-License-Identifier: Apache-2.0
"""Backbones, their costs and their exits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from enaf.cost import estimator_macs, paper_flops, relative_cost, true_macs
from enaf.estimator import create_estimator
from enaf.models import backbone_names, create_backbone
from enaf.models.multi_exit import SubPixelTransposedConvolution

PUBLISHED_MFLOPS = {
    "fsrcnn": (0, 146.42, 315.45, 468.2),
    "carn": (0, 778.55, 868.86, 1162.72),
    "srresnet": (0, 2046.98, 3662.64, 5194.0),
}
PUBLISHED_PARAMETERS = {
    "fsrcnn": 102_893,
    "carn": 395_093 - 12,  # the layer that adds the mean is part of the exits' last convolutions
    "srresnet": 1_996_333,
}


@pytest.mark.parametrize(("scale", "padding"), [(2, 4), (3, 3), (4, 3)])
def test_sub_pixel_form_equals_the_transposed_convolution(scale: int, padding: int) -> None:
    torch.manual_seed(0)
    layer = SubPixelTransposedConvolution(5, 3, 9, scale, padding).double()
    x = torch.randn(2, 5, 6, 7, dtype=torch.float64)
    expected = nn.ConvTranspose2d.forward(layer, x)
    result = functional.pixel_shuffle(layer(x), scale)
    assert result.shape == (2, 3, 6 * scale, 7 * scale)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


def test_sub_pixel_form_follows_its_weight() -> None:
    layer = SubPixelTransposedConvolution(2, 3, 9, 4, 3)
    x = torch.rand(1, 2, 4, 4)
    with torch.inference_mode():
        before = layer(x)
        assert torch.equal(layer(x), before)
    with torch.no_grad():
        layer.weight.mul_(2)
        layer.bias.zero_()
        expected = nn.ConvTranspose2d.forward(layer, x)
    with torch.inference_mode():
        torch.testing.assert_close(functional.pixel_shuffle(layer(x), 4), expected)


@pytest.mark.parametrize("name", backbone_names())
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_every_exit_has_the_size_of_the_result(name: str, scale: int) -> None:
    network = create_backbone(name, scale)
    lr = torch.rand(2, 3, 9, 11)
    for sr in [network.exit(0, lr), *network(lr)]:
        assert sr.shape == (2, 3, 9 * scale, 11 * scale)


@pytest.mark.parametrize("name", backbone_names())
def test_stages_and_exit_agree(name: str) -> None:
    network = create_backbone(name).eval()
    lr = torch.rand(2, 3, 8, 8)
    for depth, sr in enumerate(network(lr), start=1):
        torch.testing.assert_close(network.exit(depth, lr), sr)


@pytest.mark.parametrize("name", PUBLISHED_MFLOPS)
def test_published_costs(name: str) -> None:
    flops = paper_flops(create_backbone(name)) / 1e6
    assert flops.tolist() == pytest.approx(PUBLISHED_MFLOPS[name], rel=5e-3)
    cost = relative_cost(create_backbone(name))
    assert cost[0] == 0
    assert cost[-1] == 1


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_parameter_counts(name: str) -> None:
    network, estimator = create_backbone(name), create_estimator("paper")
    everything = sum(p.numel() for p in [*network.parameters(), *estimator.parameters()])
    assert everything == PUBLISHED_PARAMETERS[name]


@pytest.mark.parametrize("name", backbone_names())
def test_backbone_parameters_are_those_of_the_full_exit(name: str) -> None:
    network = create_backbone(name)
    network.exit(network.num_exits - 1, torch.rand(1, 3, 8, 8)).sum().backward()
    used = {id(p) for p in network.parameters() if p.grad is not None}
    assert used == {id(p) for p in network.backbone_parameters()}


@pytest.mark.parametrize("name", backbone_names())
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_true_macs_are_those_that_torch_counts(name: str, scale: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def published_form(layer: SubPixelTransposedConvolution, x: torch.Tensor) -> torch.Tensor:
        return functional.pixel_unshuffle(nn.ConvTranspose2d.forward(layer, x), layer.scale)

    monkeypatch.setattr(SubPixelTransposedConvolution, "forward", published_form)
    network = create_backbone(name, scale)
    counted = [0.0]
    for depth in range(1, network.num_exits):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.exit(depth, torch.rand(1, 3, 32, 32))
        counted.append(counter.get_total_flops() / 2)
    assert true_macs(network).tolist() == counted


@pytest.mark.parametrize("name", backbone_names())
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_starts_as_interpolation(name: str, scale: int) -> None:
    smooth = functional.interpolate(torch.rand(1, 3, 5, 5), size=(24, 24), mode="bilinear")
    network = create_backbone(name, scale)
    expected = functional.interpolate(smooth, scale_factor=scale, mode="bilinear")
    inner = slice(6 * scale, -6 * scale)
    for sr in network(smooth):
        error = (sr - expected)[:, :, inner, inner].square().mean().sqrt()
        assert error.item() < 0.05


def test_light_network_costs_a_fraction_of_srresnet() -> None:
    light, heavy = (true_macs(create_backbone(name)) for name in ("light", "srresnet"))
    assert light[-1] < heavy[-1] / 5
    assert (light / light[-1]).tolist() == pytest.approx([0, 0.3, 0.6, 1], abs=0.03)


def test_estimator_cost() -> None:
    assert estimator_macs(create_estimator("paper"), 32, 32) == 3_801_216
    large = (create_estimator(name) for name in ("gain", "paper"))
    gain, paper = (estimator_macs(estimator, 1024, 1024) for estimator in large)
    assert gain <= paper


def test_rejects() -> None:
    with pytest.raises(ValueError, match=r"backbone: expected one of .*fsrcnn.*, got 'vdsr'"):
        create_backbone("vdsr")
    with pytest.raises(ValueError, match="scale: expected 2, 3 or 4, got 5"):
        create_backbone("fsrcnn", 5)
    with pytest.raises(ValueError, match=r"estimator: expected one of .*gain, paper.*, got 'x'"):
        create_estimator("x")
    with pytest.raises(ValueError, match="convention: expected 'paper' or 'macs', got 'ms'"):
        relative_cost(create_backbone("fsrcnn"), "ms")


def test_documentation_quotes_the_example() -> None:
    root = Path(__file__).resolve().parent.parent
    source, text = ((root / path).read_text() for path in ("python/enaf/models/light.py", "docs/backbones.md"))
    quoted = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(quoted) == 2
    for block in quoted:
        assert " ".join(block.split()) in " ".join(source.split())


def test_documented_costs() -> None:
    text = (Path(__file__).resolve().parent.parent / "docs/backbones.md").read_text()
    for name in backbone_names():
        macs = ", ".join(f"{value / 1e6:.1f}" for value in true_macs(create_backbone(name))[1:].tolist())
        assert f"| `{name}` | {macs} |" in text
