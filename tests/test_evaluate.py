# SPDX-License-Identifier: Apache-2.0
"""The protocol of the paper, on an untrained network."""

from __future__ import annotations

import pytest
import torch

from enaf.adaptive import AdaptiveNetwork
from enaf.estimator import create_estimator
from enaf.evaluate.protocol import EvaluatedImage, cheapest_within, estimator_error, evaluate_image, sweep, uniform_psnr
from enaf.models import create_backbone


@pytest.fixture(scope="module")
def model() -> AdaptiveNetwork:
    torch.manual_seed(0)
    return AdaptiveNetwork(create_backbone("fsrcnn"), create_estimator("paper")).eval()


@pytest.fixture(scope="module")
def evaluated(model: AdaptiveNetwork) -> EvaluatedImage:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 20, 25, generator=generator)
    hr = torch.nn.functional.interpolate(coarse, size=(285, 370), mode="bicubic").clamp(0, 1)
    return evaluate_image(model, (hr[0] * 255).to(torch.uint8))


def test_covers_whole_patches_only(evaluated: EvaluatedImage) -> None:
    assert (evaluated.grid.rows, evaluated.grid.cols) == (2, 3)  # 71x92 LR pixels: 60x88 are covered
    assert evaluated.hr.shape == (3, 240, 352)
    assert evaluated.outputs.shape == (4, 6, 3, 128, 128)


def test_uniform_exit_is_a_forced_decision(model: AdaptiveNetwork, evaluated: EvaluatedImage) -> None:
    uniform = uniform_psnr(model, [evaluated])
    assert uniform[0] == pytest.approx(evaluated.fused_psnr(torch.zeros(6, dtype=torch.int64), 4))
    bicubic_everywhere = sweep(model, [evaluated], [1e9])[0]
    assert bicubic_everywhere.cost == 0
    assert bicubic_everywhere.psnr_db == pytest.approx(uniform[0])


def test_oracle_is_an_upper_bound(model: AdaptiveNetwork, evaluated: EvaluatedImage) -> None:
    best = sweep(model, [evaluated], [0.0], oracle=True)[0]
    assert best.psnr_db >= max(uniform_psnr(model, [evaluated])) - 0.05
    target = min(uniform_psnr(model, [evaluated]))
    assert cheapest_within(model, [evaluated], target, oracle=True).psnr_db >= target


def test_estimator_error(evaluated: EvaluatedImage) -> None:
    expected = (evaluated.predicted_db - evaluated.psnr_db).abs().mean(dim=0)
    assert estimator_error([evaluated]) == pytest.approx(expected.tolist())


def test_rejects_tiny_images(model: AdaptiveNetwork) -> None:
    with pytest.raises(ValueError, match="hr: expected at least 128 pixels a side"):
        evaluate_image(model, torch.zeros(3, 100, 300, dtype=torch.uint8))
