# SPDX-License-Identifier: Apache-2.0
"""Luma and SSIM; PSNR is held to its definition by the tests of the evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from enaf.metrics import luma, psnr, ssim


def test_psnr_is_its_definition() -> None:
    hr = torch.zeros(3, 20, 20)
    sr = hr.clone()
    sr[:, 10, 10] = 0.5
    assert float(psnr(sr, hr)) == pytest.approx(-10 * np.log10(0.25 / 400))
    assert float(psnr(sr, hr, 4)) == pytest.approx(-10 * np.log10(0.25 / 144))
    assert float(psnr(hr, hr)) == float("inf")
    with pytest.raises(ValueError, match="border: expected less than half"):
        psnr(hr, hr, 10)


@pytest.mark.parametrize(
    ("rgb", "level"),  # rgb2ycbcr of MATLAB's documentation: black 16, white 235, and the primaries
    [((0, 0, 0), 16), ((1, 1, 1), 235), ((1, 0, 0), 81.481), ((0, 1, 0), 144.553), ((0, 0, 1), 40.966)],
)
def test_luma_is_that_of_bt601(rgb: tuple[float, float, float], level: float) -> None:
    pixel = torch.tensor(rgb, dtype=torch.float64).view(3, 1, 1)
    assert float(luma(pixel)) * 255 == pytest.approx(level, abs=1e-9)


def test_ssim_is_that_of_wang_et_al() -> None:
    """The definition at one pixel by hand: the Gaussian window of 11x11 pixels is the whole image inside the border."""
    generator = torch.Generator().manual_seed(0)
    hr, sr = torch.rand(2, 3, 27, 27, generator=generator, dtype=torch.float64)
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    x, y = (luma(image)[0, 8:19, 8:19].numpy() for image in (sr, hr))
    mean_x, mean_y = (window * x).sum(), (window * y).sum()
    var_x, var_y = (window * x * x).sum() - mean_x**2, (window * y * y).sum() - mean_y**2
    covariance = (window * x * y).sum() - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    expected = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    # scikit-image leaves out the five outermost pixels, so that a border of eight keeps one of 27
    assert ssim(sr, hr, 8) == pytest.approx(expected, abs=1e-5)
    assert ssim(hr, hr) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="hr: expected at least 11 pixels a side inside the border"):
        ssim(sr, hr, 9)
