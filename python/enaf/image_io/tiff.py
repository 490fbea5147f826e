# SPDX-License-Identifier: Apache-2.0
"""TIFF and BigTIFF strip by strip (TIFF 6.0, Adobe's supplement 2 and 3), with everything a picture may carry."""

from __future__ import annotations

import numpy as np

from . import ifd
from .atomic import PartialFile
from .deflate import InOrder, compress
from .image import Layout, Metadata

_STRIP_BYTES = 1 << 20
_CLASSIC_LIMIT = 2**32 - 2**24
_DEFLATE, _HORIZONTAL = 8, 2
_STORAGE = {
    *range(254, 267), 273, *range(277, 282), *range(284, 294), 297, 317, *range(320, 348), *range(512, 522), *range(529, 533),
}  # fmt: skip
"""Tags that say how pixels are stored: ours alone, whatever a foreign EXIF block holds."""


class TiffWriter:
    """Writes rows as they come, deflated; memory for a few strips, whatever the height. BigTIFF from 4 GiB of pixels on."""

    def __init__(self, stream: PartialFile, layout: Layout, metadata: Metadata) -> None:
        self._stream, self._layout, self._metadata = stream, layout, metadata
        self._described = ifd.parse(metadata.exif) if metadata.exif else ifd.Directory("<")
        self._big = layout.num_bytes > _CLASSIC_LIMIT
        row = layout.width * layout.channels * layout.dtype.itemsize
        self._rows_per_strip = max(1, min(layout.height, _STRIP_BYTES // row))
        self._rest = np.empty((0, layout.width, layout.channels), layout.dtype)
        self._pool = InOrder()
        self._offsets: list[int] = []
        self._lengths: list[int] = []
        stream.write(ifd.header(self._described.order, self._big, 0))

    def write(self, rows: np.ndarray) -> None:
        """Appends (n, width, channels)."""
        rows = np.concatenate([self._rest, rows]) if len(self._rest) else rows
        step = self._rows_per_strip
        whole = len(rows) // step * step
        for start in range(0, whole, step):
            self._submit(rows[start : start + step])
        self._rest = rows[whole:].copy()

    def finish(self) -> None:
        """Writes what is left, the directory, and where to find it."""
        if len(self._rest):
            self._submit(self._rest)
        self._append(self._pool.finish())
        self._stream.write(bytes(self._stream.size % 2))
        place = self._stream.size
        self._stream.write(ifd.serialise(self._directory(), self._big, place))
        self._stream.patch_head(ifd.header(self._described.order, self._big, place))

    def _submit(self, strip: np.ndarray) -> None:
        self._append(self._pool.submit(_compress, strip, self._described.order))

    def _append(self, strips: list[bytes]) -> None:
        for data in strips:
            self._offsets.append(self._stream.size)
            self._lengths.append(len(data))
            self._stream.write(data)

    def _directory(self) -> ifd.Directory:
        layout, metadata = self._layout, self._metadata
        described = {tag: entry for tag, entry in self._described.entries.items() if tag not in _STORAGE}
        directory = ifd.Directory(self._described.order, described, self._described.children)
        directory.put(256, ifd.LONG, layout.width)
        directory.put(257, ifd.LONG, layout.height)
        directory.put(258, ifd.SHORT, *[8 * layout.dtype.itemsize] * layout.channels)
        directory.put(259, ifd.SHORT, _DEFLATE)
        directory.put(262, ifd.SHORT, 2 if layout.colours == 3 else 1)
        directory.put(273, ifd.LONG8 if self._big else ifd.LONG, *self._offsets)
        directory.put(274, ifd.SHORT, 1)
        directory.put(277, ifd.SHORT, layout.channels)
        directory.put(278, ifd.LONG, self._rows_per_strip)
        directory.put(279, ifd.LONG8 if self._big else ifd.LONG, *self._lengths)
        directory.put(284, ifd.SHORT, 1)
        for tag in (282, 283, 296):
            directory.entries.pop(tag, None)
        if metadata.resolution:
            for tag, value in zip((282, 283), metadata.resolution, strict=True):
                directory.put(tag, ifd.RATIONAL, round(value * 10000), 10000)
            directory.put(296, ifd.SHORT, 2)
        if layout.dtype.kind == "u":
            directory.put(317, ifd.SHORT, _HORIZONTAL)
        if layout.has_alpha:
            directory.put(338, ifd.SHORT, 2)  # straight
        directory.put(339, ifd.SHORT, *[3 if layout.dtype.kind == "f" else 1] * layout.channels)
        if metadata.xmp:
            directory.entries[700] = ifd.Entry(1, len(metadata.xmp), metadata.xmp)
        if metadata.icc_profile:
            directory.entries[34675] = ifd.Entry(ifd.UNDEFINED, len(metadata.icc_profile), metadata.icc_profile)
        return directory


def _compress(strip: np.ndarray, order: ifd.Order) -> bytes:
    if strip.dtype.kind == "u":
        strip = np.concatenate([strip[:, :1], strip[:, 1:] - strip[:, :-1]], axis=1)  # modulo 2^bits
    return compress(strip.astype(strip.dtype.newbyteorder(order), copy=False).tobytes())
