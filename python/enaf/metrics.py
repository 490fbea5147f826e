# SPDX-License-Identifier: Apache-2.0
"""Image quality in decibels."""

from __future__ import annotations

import torch
from torch import Tensor


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
