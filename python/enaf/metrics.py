# SPDX-License-Identifier: Apache-2.0
"""Image quality: PSNR in decibels, SSIM."""

from __future__ import annotations

import torch
from torch import Tensor

SSIM_SETTINGS = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
"""What makes scikit-image's SSIM that of Wang et al.: Gaussian window of 11 pixels, K1 = 0.01, K2 = 0.03."""


def psnr(sr: Tensor, hr: Tensor, border: int = 0) -> Tensor:
    """Peak signal-to-noise ratio over all channels: -10 log10(mean((sr - hr)^2)), values in [0, 1].

    Args:
        sr, hr: (..., C, H, W), floating point in [0, 1]; same shape.
        border: pixels left out on every side (the benchmarks use the scale).

    Returns:
        (...,) in dB, float64; infinite where the images are equal.

    Raises:
        ValueError: shapes differ, or nothing is left inside the border.
    """
    if sr.shape != hr.shape:
        raise ValueError(f"sr: expected the shape of hr {tuple(hr.shape)}, got {tuple(sr.shape)}")
    if min(hr.shape[-2:]) <= 2 * border:
        raise ValueError(f"border: expected less than half of {tuple(hr.shape[-2:])}, got {border}")
    inner = (..., slice(border, hr.shape[-2] - border), slice(border, hr.shape[-1] - border))
    error = sr[inner].double() - hr[inner].double()
    return -10 * torch.log10(error.square().mean(dim=(-3, -2, -1)))


def luma(rgb: Tensor) -> Tensor:
    """Y of ITU-R BT.601 in studio range, as MATLAB's ``rgb2ycbcr``: (16 + 65.481 R + 128.553 G + 24.966 B) / 255.

    Args:
        rgb: (..., 3, H, W), floating point in [0, 1].

    Returns:
        (..., 1, H, W), in [16/255, 235/255] for values in [0, 1].
    """
    return (rgb * luma_weights(rgb)).sum(dim=-3, keepdim=True) + 16 / 255


def luma_weights(like: Tensor) -> Tensor:
    """(3, 1, 1): the share of R, G and B in Y, in the dtype and on the device of ``like``."""
    return like.new_tensor([65.481, 128.553, 24.966]).view(3, 1, 1) / 255


def ssim(sr: Tensor, hr: Tensor, border: int = 0) -> float:
    """Structural similarity of Y (Wang et al. 2004): scikit-image's ``structural_similarity`` with ``SSIM_SETTINGS``.

    Args:
        sr, hr: (3, H, W), floating point in [0, 1]; same shape, at least 11 pixels a side inside the border.
        border: pixels left out on every side.

    Raises:
        ValueError: shapes differ, or too little is left inside the border.
    """
    if sr.shape != hr.shape:
        raise ValueError(f"sr: expected the shape of hr {tuple(hr.shape)}, got {tuple(sr.shape)}")
    if min(hr.shape[-2:]) - 2 * border < 11:
        raise ValueError(f"hr: expected at least 11 pixels a side inside the border, got {tuple(hr.shape[-2:])}")
    from skimage.metrics import structural_similarity

    inner = (0, slice(border, hr.shape[-2] - border), slice(border, hr.shape[-1] - border))
    planes = [luma(image.float())[inner].cpu().numpy() for image in (sr, hr)]
    return float(structural_similarity(*planes, **SSIM_SETTINGS))
