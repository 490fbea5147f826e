# SPDX-License-Identifier: Apache-2.0
"""enaf.degradation against Pillow, which has the same kernel inside the image, and against MATLAB's definition by hand."""

from __future__ import annotations

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
