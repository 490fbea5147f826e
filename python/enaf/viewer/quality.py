# SPDX-License-Identifier: Apache-2.0
"""How close an image comes to its original, over images as large as fit into memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from enaf.metrics import SSIM_SETTINGS, luma

SSIM_WINDOW = 11
"""Pixels a side that these settings look at."""
_BAND = 1 << 20  # pixels in double precision at once


@dataclass(frozen=True)
class Similarity:
    """An image against its original, over every pixel.

    Attributes:
        psnr_rgb_db: over all channels, dB; infinite where they are equal.
        psnr_y_db: of the luma Y (``enaf.metrics.luma``), peak 255, dB.
        ssim_y: structural similarity of Y with ``SSIM_SETTINGS``; NaN below 11 pixels a side.
    """

    psnr_rgb_db: float
    psnr_y_db: float
    ssim_y: float


def compare_quality(image: Tensor, reference: Tensor) -> Similarity:
    """Measures an image against its original.

    Grey counts as R = G = B; Y is not rounded.

    Args:
        image, reference: (C, H, W), C = 1 or 3, uint8 or uint16; same height and width.

    Raises:
        ValueError: the sizes differ.
    """
    if image.shape[-2:] != reference.shape[-2:]:
        raise ValueError(f"image: expected the size of the reference {_size(reference)}, got {_size(image)}")
    height, width = image.shape[-2:]
    planes = np.empty((2, height, width), np.float32)
    error_rgb = error_y = 0.0
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        band = slice(top, top + rows)
        ours, theirs = (_unit_rgb(pixels[:, band]) for pixels in (image, reference))
        y_ours, y_theirs = luma(ours)[0], luma(theirs)[0]
        error_rgb += float((ours - theirs).square().sum())
        error_y += float((y_ours - y_theirs).square().sum())
        planes[0, band], planes[1, band] = y_ours.numpy(), y_theirs.numpy()
    pixels = height * width
    return Similarity(_psnr(error_rgb / (3 * pixels)), _psnr(error_y / pixels), _ssim(planes[0], planes[1]))


def _unit_rgb(pixels: Tensor) -> Tensor:
    """(3, H, W) float64 in [0, 1]."""
    return (pixels.double() / (255 if pixels.dtype == torch.uint8 else 65535)).expand(3, -1, -1)


def _psnr(mean_squared_error: float) -> float:
    return -10 * math.log10(mean_squared_error) if mean_squared_error > 0 else math.inf


def _ssim(ours: np.ndarray, theirs: np.ndarray) -> float:
    from skimage.metrics import structural_similarity

    if min(ours.shape) < SSIM_WINDOW:
        return math.nan
    return float(structural_similarity(ours, theirs, **SSIM_SETTINGS))


def _size(pixels: Tensor) -> str:
    return f"{pixels.shape[-1]}x{pixels.shape[-2]}"
