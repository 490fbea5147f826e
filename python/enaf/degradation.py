# SPDX-License-Identifier: Apache-2.0
"""MATLAB-compatible antialiased bicubic resizing: how low-resolution images of the benchmarks are made."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _keys_cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel, a = -0.5 (Keys 1981, equation 15)."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def taps(size: int, new_size: int) -> tuple[Tensor, Tensor]:
    """Source indices (new_size, K) and weights (new_size, K, float64) along one axis, symmetric at the borders."""
    scale = new_size / size
    stretch = min(scale, 1.0)  # antialiasing: the kernel widens by the reduction
    width = 4.0 / stretch
    centre = (torch.arange(new_size, dtype=torch.float64) + 0.5) / scale - 0.5
    first = torch.floor(centre - width / 2)
    indices = first[:, None] + torch.arange(math.ceil(width) + 2, dtype=torch.float64)
    weights = _keys_cubic((centre[:, None] - indices) * stretch)
    weights /= weights.sum(dim=1, keepdim=True)
    used = (weights != 0).any(dim=0)
    reflected = indices[:, used].long() % (2 * size)
    return torch.where(reflected < size, reflected, 2 * size - 1 - reflected), weights[:, used]


def _resize_axis(image: Tensor, dim: int, new_size: int) -> Tensor:
    indices, weights = taps(image.shape[dim], new_size)
    shape = [1] * image.dim()
    shape[dim] = new_size
    indices = indices.to(image.device)
    weights = weights.to(image)
    result = torch.zeros((), dtype=image.dtype, device=image.device)
    for tap in range(indices.shape[1]):
        result = result + image.index_select(dim, indices[:, tap]) * weights[:, tap].view(shape)
    return result


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize as MATLAB's ``imresize(image, [height width], "bicubic")`` with antialiasing.

    Separable convolution with Keys' cubic kernel (a = -0.5), stretched by the reduction factor where the image shrinks,
    with symmetric borders. Computed in float32 (float64 for float64 images); 8-bit results are rounded once, at the end.

    Args:
        image: (..., H, W), uint8 or floating point.
        height, width: new size in pixels, at least 1.

    Returns:
        (..., height, width), same dtype and device; floating-point results are not clamped.

    Raises:
        ValueError: a size below 1, or an empty image.
        TypeError: any other dtype.
    """
    if height < 1 or width < 1:
        raise ValueError(f"height, width: expected at least 1, got {height}, {width}")
    if image.dim() < 2 or 0 in image.shape[-2:]:
        raise ValueError(f"image: expected (..., H, W) with at least one pixel, got {tuple(image.shape)}")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise TypeError(f"image: expected uint8 or a floating dtype, got {image.dtype}")
    working = image if image.dtype == torch.float64 else image.float()
    # the axis that shrinks most goes first, as in MATLAB
    axes = [(height / image.shape[-2], image.dim() - 2, height), (width / image.shape[-1], image.dim() - 1, width)]
    for factor, dim, size in sorted(axes, key=lambda axis: axis[0]):
        if factor != 1:
            working = _resize_axis(working, dim, size)
    if image.dtype == torch.uint8:
        return (working + 0.5).floor_().clamp_(0, 255).to(torch.uint8)
    return working.to(image.dtype)


def downsample(hr: Tensor, scale: int) -> Tensor:
    """The low-resolution image of the benchmarks: ``resize`` to 1/scale of each side.

    Args:
        hr: (..., H, W), uint8 or floating point; H and W multiples of ``scale``.
        scale: integer reduction factor, at least 1.

    Returns:
        (..., H/scale, W/scale), same dtype: 8-bit in, 8-bit out.

    Raises:
        ValueError: a side is not a multiple of ``scale``.
    """
    height, width = hr.shape[-2:]
    if scale < 1 or height % scale or width % scale:
        raise ValueError(f"hr: expected sides that are multiples of scale={scale}, got {height}x{width}")
    return resize(hr, height // scale, width // scale)
