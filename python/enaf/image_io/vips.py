# SPDX-License-Identifier: Apache-2.0
"""What Pillow cannot do: 16-bit colour, floating point colour, and decoding band by band. Needs the extra `images`."""

from __future__ import annotations

import os

import numpy as np
import pyvips

from .image import ImageError, Layout

_DTYPES = {"uchar": np.uint8, "ushort": np.uint16, "float": np.float32}
_TURNS = {2: "fliphor", 3: "rot180", 4: "flipver", 5: "rot90", 6: "rot90", 7: "rot270", 8: "rot270"}

pyvips.block_untrusted_set(True)


class VipsRows:
    """Rows decoded as they are asked for, in constant memory where the format stores rows in their order."""

    def __init__(self, source: str | os.PathLike[str] | bytes, name: str, orientation: int) -> None:
        self._source, self._orientation = source, orientation
        self._open()
        image = self._image
        if image.get_typeof("n-pages") and image.get("n-pages") > 1:
            raise ImageError(f"{name}: expected one image, got {image.get('n-pages')} frames; extract them first")
        if image.format not in _DTYPES or image.bands > 4:
            raise ImageError(f"{name}: expected 1 to 4 channels of 8, 16 or floating 32 bits, got {image}")
        self.layout = Layout(image.height, image.width, image.bands, np.dtype(_DTYPES[image.format]))

    def _open(self) -> None:
        # A picture that is turned needs its last rows first: libvips then keeps the whole, on disk if it is large.
        options = {"access": "sequential" if self._orientation == 1 else "random", "fail_on": "truncated"}
        if isinstance(self._source, bytes):
            image = pyvips.Image.new_from_buffer(self._source, "", **options)
        else:
            # libvips remembers files by name: without `revalidate` a file that was replaced is read as it was
            image = pyvips.Image.new_from_file(os.fspath(self._source), revalidate=True, **options)
        self._image = _upright(image, self._orientation)
        self._region = pyvips.Region.new(self._image)
        self._rows: np.ndarray | None = None
        self._top = 0

    def rows(self, top: int, bottom: int) -> np.ndarray:
        height, width, channels, dtype = (
            self.layout.height, self.layout.width, self.layout.channels, self.layout.dtype,
        )  # fmt: skip
        kept = self._rows
        if kept is not None and top < self._top:
            self._open()
            kept = None
        if kept is None:
            kept, self._top = np.empty((0, width, channels), dtype), top
        kept = kept[top - self._top :]
        have = top + len(kept)
        if bottom > have:
            start = max(have, top)
            raw = self._region.fetch(0, start, width, min(bottom, height) - start)
            fresh = np.frombuffer(raw, dtype).reshape(-1, width, channels)
            kept = np.concatenate([kept, fresh]) if len(kept) else fresh
        self._rows, self._top = kept, top
        return kept[: bottom - top].copy()


def _upright(image: pyvips.Image, orientation: int) -> pyvips.Image:
    turn = _TURNS.get(orientation)
    if turn is None:
        return image
    turned = getattr(image, turn)()
    if orientation in (5, 7):
        turned = turned.fliphor()
    return turned
