# SPDX-License-Identifier: Apache-2.0
"""The patch grid: every pixel is covered, by at most two patches an axis, and nothing else is."""

from __future__ import annotations

import dataclasses

import pytest

from enaf_ext.grid import PatchGrid

SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 31, 32, 33, 60, 61, 97)


@pytest.mark.parametrize(("patch_size", "overlap"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (8, 0), (8, 4), (32, 4)])
def test_covers_every_pixel(patch_size: int, overlap: int) -> None:
    for size in SIZES:
        grid = PatchGrid(size, 1, patch_size, overlap)
        covered = [0] * grid.padded_height
        for row in range(grid.rows):
            y, _ = grid.origin(row * grid.cols)
            for k in range(y, y + patch_size):
                covered[k] += 1
        assert set(covered) <= {1, 2}
        assert len(covered) >= size
        assert grid.origin(grid.num_patches - 1)[0] < size, "the last patch holds a pixel of the image"
        if grid.rows > 1:
            assert grid.padded_height - grid.stride < size, "no row of patches is superfluous"


def test_scaled_keeps_rows_and_columns() -> None:
    for height in SIZES:
        grid = PatchGrid(height, 53, 8, 2)
        for scale in (2, 3, 4):
            scaled = grid.scaled(scale)
            assert (scaled.rows, scaled.cols) == (grid.rows, grid.cols)
            assert (scaled.patch_size, scaled.overlap) == (8 * scale, 2 * scale)
            assert scaled.origin(grid.num_patches - 1) == tuple(scale * x for x in grid.origin(grid.num_patches - 1))


def test_published_example() -> None:
    # A 480x270 image in 32-pixel patches every 28 pixels.
    grid = PatchGrid(270, 480)
    assert (grid.rows, grid.cols, grid.num_patches, grid.stride) == (10, 17, 170, 28)
    assert (grid.padded_height, grid.padded_width) == (284, 480)
    assert grid.origin(18) == (28, 28)


def test_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PatchGrid(8, 8, 8, 0).height = 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 8), "height: expected height >= 1, got 0"),
        ((8, -1), "width: expected width >= 1, got -1"),
        ((8, 8, 0, 0), "patch_size: expected patch_size >= 1, got 0"),
        ((8, 8, 32, 20), r"overlap: expected 0 <= overlap <= patch_size // 2, got 20"),
        ((8, 8, 8, -1), r"overlap: expected 0 <= overlap <= patch_size // 2, got -1"),
    ],
)
def test_rejects(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PatchGrid(*arguments)
