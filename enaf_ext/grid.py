# SPDX-License-Identifier: Apache-2.0
"""The regular grid of overlapping patches; the mirror of csrc/patch_grid.h."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PatchGrid:
    """Patches of `patch_size` pixels at every `patch_size - overlap` pixels, covering every pixel of an image.

    rows = 1 + max(0, ceil((height - patch_size) / stride)), and columns likewise. The last patches may reach past the right
    and the bottom edge: pixels there are the edge pixel (the coordinate is clamped; no padded copy is made). Patch n of image b
    has index `b * num_patches + row * cols + col` and its origin at `(row * stride, col * stride)`. Ours, because the
    authors' grid drops the remainder of an image that is no whole number of strides.

    Args:
        height: rows of the image in pixels, at least 1.
        width: columns of the image in pixels, at least 1.
        patch_size: side of a patch in pixels, at least 1.
        overlap: pixels that neighbouring patches share, 0 <= overlap <= patch_size // 2, so that at most four patches meet.

    Raises:
        ValueError: an argument is out of range.
    """

    height: int
    width: int
    patch_size: int = 32
    overlap: int = 4

    def __post_init__(self) -> None:
        for name in ("height", "width", "patch_size"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name}: expected {name} >= 1, got {value}")
        if not 0 <= self.overlap <= self.patch_size // 2:
            raise ValueError(f"overlap: expected 0 <= overlap <= patch_size // 2, got {self.overlap}")

    @property
    def stride(self) -> int:
        """Pixels from one patch's origin to the next."""
        return self.patch_size - self.overlap

    @property
    def rows(self) -> int:
        """Patches along the height."""
        return _count(self.height, self.patch_size, self.stride)

    @property
    def cols(self) -> int:
        """Patches along the width."""
        return _count(self.width, self.patch_size, self.stride)

    @property
    def num_patches(self) -> int:
        """Patches of one image."""
        return self.rows * self.cols

    @property
    def padded_height(self) -> int:
        """Pixels that the patches span along the height, at least `height`."""
        return (self.rows - 1) * self.stride + self.patch_size

    @property
    def padded_width(self) -> int:
        """Pixels that the patches span along the width, at least `width`."""
        return (self.cols - 1) * self.stride + self.patch_size

    def origin(self, index: int) -> tuple[int, int]:
        """(y, x) of the first pixel of patch `index` of an image, 0 <= index < num_patches."""
        row, col = divmod(index, self.cols)
        return row * self.stride, col * self.stride

    def scaled(self, scale: int) -> PatchGrid:
        """The grid over an image `scale` times as large: the same rows and columns, everything else multiplied."""
        return PatchGrid(self.height * scale, self.width * scale, self.patch_size * scale, self.overlap * scale)


def _count(size: int, patch_size: int, stride: int) -> int:
    return 1 + max(0, -(-(size - patch_size) // stride))
