# SPDX-License-Identifier: Apache-2.0
"""PNG row by row (ISO/IEC 15948), which the libraries offer only for whole pictures or fewer depths."""

from __future__ import annotations

import struct
import zlib
from typing import IO

import numpy as np

from .deflate import ParallelDeflate, crc32
from .image import Appendable, Layout, Metadata

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
XMP_KEYWORD = b"XML:com.adobe.xmp\0\0\0\0\0"  # uncompressed, no language


def check_whole(stream: IO[bytes]) -> None:
    """Inflates the pixels of a PNG without keeping them: Pillow shows missing rows as black, and checks no sum.

    Raises:
        ValueError: fewer pixels than the header says, or a checksum that does not fit.
    """
    start = stream.tell()
    stream.seek(16)
    width, height, depth, colour, *_, interlaced = struct.unpack(">IIBBBBB", stream.read(13))
    bits = depth * _CHANNELS[colour]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sides = [(-((x - width) // dx), -((y - height) // dy)) for x, y, dx, dy in passes]
    expected = sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sides if columns > 0 < rows)
    inflate, found = zlib.decompressobj(), 0
    stream.seek(8)
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind != b"IDAT":
            stream.seek(length + 4, 1)
            continue
        while length > 0 and (part := stream.read(min(length, 1 << 16))):
            length -= len(part)
            while part:  # a little of a bomb at a time
                found += len(inflate.decompress(part, 1 << 20))
                part = inflate.unconsumed_tail
        stream.seek(4, 1)
    stream.seek(start)
    if found < expected or not inflate.eof:
        raise ValueError(f"truncated: {found} bytes of pixels where the header says {expected}")


class PngWriter:
    """Writes rows as they come; memory for one band, whatever the height."""

    def __init__(self, stream: Appendable, layout: Layout, metadata: Metadata) -> None:
        self._stream = stream
        self._pixel = layout.channels * layout.dtype.itemsize
        self._above = np.zeros(layout.width * self._pixel, np.uint8)
        stream.write(b"\x89PNG\r\n\x1a\n")
        depth = 8 * layout.dtype.itemsize
        self._chunk(
            b"IHDR",
            struct.pack(">IIBBBBB", layout.width, layout.height, depth, _COLOUR_TYPES[layout.channels], 0, 0, 0),
        )
        if metadata.icc_profile:
            self._chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc_profile))
        if metadata.resolution:
            per_metre = (max(1, round(value / 0.0254)) for value in metadata.resolution)
            self._chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1))
        if metadata.exif:
            self._chunk(b"eXIf", metadata.exif)
        if metadata.xmp:
            self._chunk(b"iTXt", XMP_KEYWORD + metadata.xmp)
        self._deflate = ParallelDeflate()

    def write(self, rows: np.ndarray) -> None:
        """Appends (n, width, channels)."""
        raw = rows.astype(rows.dtype.newbyteorder(">"), copy=False)
        data = np.ascontiguousarray(raw).view(np.uint8).reshape(len(rows), -1)
        self._emit(self._deflate.feed(self._filtered(data)))
        self._above = data[-1].copy()

    def finish(self) -> None:
        """Writes what is left and the end mark."""
        self._emit(self._deflate.finish())
        self._chunk(b"IEND", b"")

    def _filtered(self, data: np.ndarray) -> bytes:
        """Rows with the filter in front that leaves the smallest sum of absolute differences (section 12.7)."""
        above = np.concatenate([self._above[None], data[:-1]])
        left = np.zeros_like(data)
        left[:, self._pixel :] = data[:, : -self._pixel]
        mean = (above & left) + ((above ^ left) >> 1)  # rounded down, within eight bits
        candidates = np.stack([data - left, data - above, data - mean])  # filters 1, 2, 3; modulo 256
        size = np.minimum(candidates, -candidates).sum(axis=2, dtype=np.uint32)  # beyond 2^32 only the choice suffers
        best = size.argmin(axis=0)
        result = np.empty((len(data), 1 + data.shape[1]), np.uint8)
        result[:, 0] = 1 + best
        result[:, 1:] = candidates[best, np.arange(len(data))]
        return result.tobytes()

    def _emit(self, blocks: list[bytes]) -> None:
        for block in blocks:
            self._chunk(b"IDAT", block)

    def _chunk(self, kind: bytes, data: bytes) -> None:
        self._stream.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(data, crc32(kind))))
