# SPDX-License-Identifier: Apache-2.0
"""What an image is between a file and the pixels: its shape, its metadata, and the error all of them raise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

MAX_PIXELS = 2 * 89_478_485
"""Pixels an input may have unless more is allowed: where Pillow suspects a decompression bomb."""


class Appendable(Protocol):
    """What encoders write to."""

    def write(self, data: bytes, /) -> object:
        """Appends."""


class ImageError(Exception):
    """A file that cannot be read or written as an image; the message names the file, the reason and the way out."""


@dataclass(frozen=True)
class Metadata:
    """What a file says about its pixels, byte for byte.

    Attributes:
        icc_profile: the colour profile.
        exif: an EXIF block, from its `II*` or `MM*` on.
        xmp: an XMP packet.
        resolution: pixels per inch along x and y.
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    resolution: tuple[float, float] | None = None


NOTHING = Metadata()
"""A file that says nothing of its pixels."""


@dataclass(frozen=True)
class Layout:
    """How the pixels of an image lie.

    Attributes:
        height, width: sides in pixels.
        channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha; alpha is straight, never premultiplied.
        dtype: uint8, uint16, or float32 in [0, 1].
    """

    height: int
    width: int
    channels: int
    dtype: np.dtype[Any]

    @property
    def has_alpha(self) -> bool:
        """Whether the last channel is opacity."""
        return self.channels in (2, 4)

    @property
    def colours(self) -> int:
        """Channels without alpha: 1 or 3."""
        return self.channels - self.has_alpha

    @property
    def num_bytes(self) -> int:
        """Bytes of the bare pixels."""
        return self.height * self.width * self.channels * self.dtype.itemsize

    def __str__(self) -> str:
        kind = {1: "grey", 2: "grey with alpha", 3: "RGB", 4: "RGB with alpha"}[self.channels]
        depth = "floating point" if self.dtype.kind == "f" else f"{8 * self.dtype.itemsize}-bit"
        return f"{self.width}x{self.height} {depth} {kind}"
