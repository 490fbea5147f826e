# SPDX-License-Identifier: Apache-2.0
"""Bare pixels with a line of text before them: PGM and PPM of 8 and 16 bits, also one after another in a stream."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from .image import Appendable, ImageError, Layout

_CHANNELS = {b"P5": 1, b"P6": 3}


def read_header(stream: BinaryIO, name: str) -> Layout | None:
    """Reads the next header (`P5` or `P6`, width, height, largest value; comments allowed); None at the end.

    Raises:
        ImageError: anything else.
    """
    if not (magic := stream.read(2)):
        return None
    if magic not in _CHANNELS:
        raise ImageError(f"{name}: expected P5 or P6 before a frame, got {magic!r}")
    numbers: list[int] = []
    while len(numbers) < 3:
        token, byte = b"", stream.read(1)
        while byte.isspace() or byte == b"#":
            if byte == b"#":
                while byte not in (b"\n", b""):
                    byte = stream.read(1)
            byte = stream.read(1)
        while byte.isdigit() and len(token) < 10:
            token, byte = token + byte, stream.read(1)
        if not token or not byte.isspace():
            raise ImageError(f"{name}: cannot be read: expected width, height and largest value in the header")
        numbers.append(int(token))
    width, height, largest = numbers
    if largest not in (255, 65535):
        raise ImageError(f"{name}: expected a largest value of 255 or 65535, got {largest}; convert it first")
    if width < 1 or height < 1:
        raise ImageError(f"{name}: expected at least one pixel, got {width}x{height}")
    return Layout(height, width, _CHANNELS[magic], np.dtype(np.uint8 if largest == 255 else np.uint16))


def read_rows(stream: BinaryIO, layout: Layout, count: int, name: str) -> np.ndarray:
    """(count, width, channels): the next rows.

    Raises:
        ImageError: the stream ends before.
    """
    shape = (count, layout.width, layout.channels)
    raw = stream.read(count * layout.width * layout.channels * layout.dtype.itemsize)
    if len(raw) != count * layout.width * layout.channels * layout.dtype.itemsize:
        raise ImageError(f"{name}: cannot be read: truncated, expected {layout}")
    return np.frombuffer(raw, layout.dtype.newbyteorder(">")).reshape(shape).astype(layout.dtype)


class PnmReader:
    """Rows of a PGM or PPM file, read as they are asked for."""

    def __init__(self, stream: BinaryIO, layout: Layout, name: str) -> None:
        self.layout = layout
        self._stream, self._name, self._start = stream, name, stream.tell()

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """(bottom - top, width, channels)."""
        row = self.layout.width * self.layout.channels * self.layout.dtype.itemsize
        self._stream.seek(self._start + top * row)
        return read_rows(self._stream, self.layout, bottom - top, self._name)


class PnmWriter:
    """Writes rows as they come."""

    def __init__(self, stream: Appendable, layout: Layout) -> None:
        magic = "P5" if layout.channels == 1 else "P6"
        largest = np.iinfo(layout.dtype).max
        stream.write(f"{magic}\n{layout.width} {layout.height}\n{largest}\n".encode())
        self._stream = stream

    def write(self, rows: np.ndarray) -> None:
        """Appends (n, width, channels)."""
        self._stream.write(rows.astype(rows.dtype.newbyteorder(">")).tobytes())

    def finish(self) -> None:
        """Nothing follows the last row."""
