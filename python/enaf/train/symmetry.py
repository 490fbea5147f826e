# SPDX-License-Identifier: Apache-2.0
"""The flips and quarter turns of square patches, each a number whose bits 0 to 2 mirror by rows, by columns and by the
diagonal."""

from __future__ import annotations

from torch import Tensor

SYMMETRIES = 8


def mirrored(images: Tensor, symmetry: int) -> Tensor:
    """Images (n, C, P, P) of this symmetry."""
    images = _flipped(images, symmetry)
    return images.mT if symmetry >> 2 & 1 else images


def upright(images: Tensor, symmetry: int) -> Tensor:
    """The images of which ``mirrored`` made these."""
    return _flipped(images.mT if symmetry >> 2 & 1 else images, symmetry)


def _flipped(images: Tensor, symmetry: int) -> Tensor:
    return images.flip([2 + side for side in (0, 1) if symmetry >> side & 1])
