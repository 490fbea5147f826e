# SPDX-License-Identifier: Apache-2.0
"""enaf.degradation against Pillow, which has the same kernel inside the image, and against MATLAB's definition by hand."""

from __future__ import annotations

from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from enaf.degradation import downsample, resize


def keys(x: float) -> float:
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def by_hand(row: list[float], new_size: int) -> list[float]:
    """One row, as MATLAB documents imresize: u = x/s + (1 - 1/s)/2 in one-based coordinates, symmetric borders."""
    size, scale = len(row), new_size / len(row)
    stretch = min(scale, 1.0)
    result = []
    for x in range(1, new_size + 1):
        u = x / scale + 0.5 * (1 - 1 / scale)
        total = weight_sum = 0.0
        for i in range(int(u - 4 / stretch) - 2, int(u + 4 / stretch) + 3):
            weight = keys((u - i) * stretch)
            mirrored = (i - 1) % (2 * size)
            total += weight * row[mirrored if mirrored < size else 2 * size - 1 - mirrored]
            weight_sum += weight
        result.append(total / weight_sum)
    return result


@pytest.mark.parametrize(("size", "new_size"), [(16, 4), (12, 4), (10, 5), (7, 3), (5, 11), (2, 1), (1, 3)])
def test_rows_follow_the_definition(size: int, new_size: int) -> None:
    generator = np.random.default_rng(size)
    row = generator.random(size)
    image = torch.from_numpy(row).expand(1, 3, size)
    assert resize(image, 3, new_size)[0, 1].tolist() == pytest.approx(by_hand(row.tolist(), new_size), abs=1e-12)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_inside_equals_pillow(scale: int) -> None:
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (12, 15, 3), dtype=np.uint8))
    hr = np.asarray(coarse.resize((15 * 12, 12 * 12), Image.Resampling.BICUBIC))
    expected = np.asarray(Image.fromarray(hr).resize((180 // scale, 144 // scale), Image.Resampling.BICUBIC))
    lr = downsample(torch.from_numpy(hr.copy()).permute(2, 0, 1), scale).permute(1, 2, 0).numpy()
    difference = np.abs(lr.astype(int) - expected.astype(int))[3:-3, 3:-3]
    assert lr.shape == expected.shape
    assert difference.max() <= 1  # Pillow also rounds to 8 bits between the two axes
    assert difference.mean() < 0.25


def exact_row(row: list[Fraction], scale: int) -> list[Fraction]:
    """One row reduced by ``scale`` in rational arithmetic: 4*scale taps around each new pixel, mirrored borders."""
    size, weights = len(row), []
    for tap in range(4 * scale):  # distances of the taps, in new pixels: odd multiples of 1/(2 scale) or whole ones
        x = abs(Fraction(2 * tap + 1 - 4 * scale, 2 * scale))
        near, far = (3 * x**3 - 5 * x**2 + 2) / 2, (-(x**3) + 5 * x**2 - 8 * x + 4) / 2
        weights.append(near if x <= 1 else far)
    result = []
    for new in range(size // scale):
        first = new * scale + scale // 2 - 2 * scale
        mirrored = [
            index if 0 <= index < size else (-1 - index if index < 0 else 2 * size - 1 - index)
            for index in range(first, first + 4 * scale)
        ]
        total = sum(weight * row[index] for weight, index in zip(weights, mirrored, strict=True))
        result.append(total / sum(weights))
    return result


def level(value: Fraction) -> Fraction:
    return Fraction(min(255, max(0, floor(value + Fraction(1, 2)))))


def reduced_exactly(hr: torch.Tensor, scale: int, rounded_between: bool) -> torch.Tensor:
    """A square image reduced in rational arithmetic, columns first; rounded between the axes or only at the end."""
    size = len(hr)
    rows = [[Fraction(value) for value in row] for row in hr.tolist()]
    columns = [exact_row([row[x] for row in rows], scale) for x in range(size)]
    if rounded_between:
        columns = [[level(value) for value in column] for column in columns]
    exact = [exact_row([column[y] for column in columns], scale) for y in range(size // scale)]
    return torch.tensor([[int(level(value)) for value in row] for row in exact])


@pytest.mark.parametrize("scale", [2, 4])
def test_eight_bits_equal_exact_arithmetic(scale: int) -> None:
    hr = torch.randint(0, 256, (8 * scale, 8 * scale), generator=torch.Generator().manual_seed(scale)).to(torch.uint8)
    corner = hr[: 4 * scale, : 4 * scale]
    corner.copy_(torch.where(corner > 127, 255, 0))  # overshoots are clamped
    assert torch.equal(downsample(hr, scale).long(), reduced_exactly(hr, scale, rounded_between=False))


@pytest.mark.parametrize("scale", [2, 4])
def test_matlab_is_met_to_one_level(scale: int) -> None:
    """MATLAB keeps 8-bit images in 8 bits between the axes; we round once, as research code on floats does."""
    coarse = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(scale))
    soft = torch.nn.functional.interpolate(coarse, scale_factor=float(scale), mode="bicubic")[0, 0]
    hr = (255 * soft.clamp(0, 1)).to(torch.uint8)
    difference = (downsample(hr, scale).long() - reduced_exactly(hr, scale, rounded_between=True)).abs()
    assert difference.max() <= 1


REFERENCE = Path(__file__).resolve().parents[2] / "shared"


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference images are not here")
def test_the_reference_images_are_met() -> None:
    hr = np.asarray(Image.open(REFERENCE / "reference" / "chelsea_hr.png").convert("RGB"))
    lr = np.asarray(Image.open(REFERENCE / "reference" / "chelsea_lr.png").convert("RGB"))
    height, width = (side // 4 * 4 for side in hr.shape[:2])
    ours = downsample(torch.from_numpy(hr[:height, :width].copy()).permute(2, 0, 1), 4).permute(1, 2, 0).numpy()
    assert ours.shape == lr.shape
    assert np.abs(ours.astype(int) - lr.astype(int)).max() <= 1


def test_constant_stays_constant_and_dtype_is_kept() -> None:
    for value, dtype in ((37, torch.uint8), (0.3, torch.float32), (0.3, torch.float64)):
        lr = downsample(torch.full((2, 3, 8, 12), value, dtype=dtype), 4)
        assert lr.dtype == dtype
        assert lr.shape == (2, 3, 2, 3)
        assert torch.allclose(lr.double(), torch.tensor(value, dtype=torch.float64), atol=1e-6)


def test_rejects() -> None:
    with pytest.raises(ValueError, match="multiples of scale=4, got 9x8"):
        downsample(torch.zeros(3, 9, 8), 4)
    with pytest.raises(ValueError, match="height, width: expected at least 1, got 0, 4"):
        resize(torch.zeros(3, 8, 8), 0, 4)
    with pytest.raises(TypeError, match=r"image: expected uint8 or a floating dtype, got torch\.int32"):
        resize(torch.zeros(3, 8, 8, dtype=torch.int32), 4, 4)
