# SPDX-License-Identifier: Apache-2.0
"""Metadata out of files, and made true again for pixels that were turned upright and enlarged."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from typing import BinaryIO

from PIL import Image

from . import ifd
from .image import Metadata
from .png import XMP_KEYWORD

KINDS = ("icc", "exif", "xmp", "resolution")
"""What can be stripped."""

_ORIENTATION, _SIDES = 0x0112, {0xA002: "width", 0xA003: "height"}
# What TIFF shares with EXIF: who, when and with what, not how the pixels are stored.
_DESCRIPTIVE = (0x010E, 0x010F, 0x0110, 0x0112, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298, *range(0x9C9B, 0x9CA0))
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|\s*>\s*))([1-8])")


def of_pillow(image: Image.Image) -> Metadata:
    """The metadata of a PNG, JPEG, WebP, AVIF or BMP that Pillow has opened."""
    info = image.info
    exif = info.get("exif")
    if exif is None and "Raw profile type exif" in info:  # how ImageMagick wrote it before PNG had a chunk for it
        exif = bytes.fromhex("".join(info["Raw profile type exif"].split("\n")[3:]))
    xmp = info.get("xmp")
    # Pillow gives 72 where a JPEG says nothing.
    has_resolution = "dpi" in info and (image.format not in ("JPEG", "MPO") or info.get("jfif_unit") in (1, 2))
    return Metadata(
        icc_profile=info.get("icc_profile") or None,
        exif=exif.removeprefix(b"Exif\0\0") if exif else None,
        xmp=xmp.encode() if isinstance(xmp, str) else xmp,
        resolution=(float(info["dpi"][0]), float(info["dpi"][1])) if has_resolution else None,
    )


def with_late_chunks(found: Metadata, stream: BinaryIO) -> Metadata:
    """What a PNG says of itself after its pixels, which Pillow reads only once it has decoded them."""
    start = stream.tell()
    stream.seek(8)
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf" and found.exif is None:
            found = replace(found, exif=stream.read(length))
        elif kind == b"iTXt" and found.xmp is None:
            text = stream.read(length)
            if text.startswith(XMP_KEYWORD):
                found = replace(found, xmp=text.removeprefix(XMP_KEYWORD))
        else:
            stream.seek(length, 1)
        stream.seek(4, 1)
    stream.seek(start)
    return found


def of_tiff(directory: ifd.Directory) -> Metadata:
    """The metadata of a TIFF's first directory; its descriptive, EXIF and GPS tags become an EXIF block."""
    entries = {tag: entry for tag, entry in directory.entries.items() if tag in _DESCRIPTIVE}
    described = ifd.Directory(directory.order, entries, directory.children)
    x, y = directory.rational(282), directory.rational(283)
    per_inch = {2: 1.0, 3: 2.54}.get((directory.integers(296) or [2])[0])
    icc, xmp = directory.entries.get(34675), directory.entries.get(700)
    return Metadata(
        icc_profile=icc.data if icc else None,
        exif=ifd.block(described) if entries.keys() - {_ORIENTATION} or directory.children else None,
        xmp=xmp.data if xmp else None,
        resolution=(x * per_inch, y * per_inch) if x and y and per_inch else None,
    )


def orientation(metadata: Metadata) -> int:
    """1 to 8: how the stored pixels are to be turned, by EXIF, or else by XMP."""
    values: list[int] = []
    if metadata.exif:
        try:
            values = ifd.parse(metadata.exif).integers(_ORIENTATION)
        except ValueError:
            values = []  # a damaged block turns nothing, and is kept as it is
    if not values and metadata.xmp and (found := _XMP_ORIENTATION.search(metadata.xmp)):
        values = [int(found[2])]
    return values[0] if values and 1 <= values[0] <= 8 else 1


def upright(metadata: Metadata, height: int, width: int) -> Metadata:
    """The same metadata for upright pixels of this size: only the bytes of orientation and size change."""
    exif = metadata.exif
    if exif:
        patched = bytearray(exif)
        try:
            directory = ifd.parse(exif)
        except ValueError:
            directory = ifd.Directory("<")
        for tag, entry in ifd.positions(directory):
            value = 1 if tag == _ORIENTATION else {"width": width, "height": height}.get(_SIDES.get(tag, ""))
            form, limit = {ifd.SHORT: ("H", 0xFFFF), ifd.LONG: ("I", 0xFFFFFFFF)}.get(entry.kind, ("", 0))
            if value is not None and entry.number == 1 and value <= limit:
                struct.pack_into(directory.order + form, patched, entry.position, value)
        exif = bytes(patched)
    xmp = _XMP_ORIENTATION.sub(rb"\g<1>1", metadata.xmp) if metadata.xmp else None
    return replace(metadata, exif=exif, xmp=xmp)


def without_orientation(exif: bytes) -> bytes:
    """The block without that tag, everything else in its place; AVIF keeps orientation elsewhere."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return exif
    (start,) = struct.unpack_from(order + "I", exif, 4)
    if start + 2 > len(exif):
        return exif
    (count,) = struct.unpack_from(order + "H", exif, start)
    end = start + 2 + 12 * count + 4  # behind the rows: where the next directory lies
    for row in range(start + 2, min(end - 4, len(exif) - 12), 12):
        if struct.unpack_from(order + "H", exif, row)[0] == _ORIENTATION:
            head = exif[:start] + struct.pack(order + "H", count - 1) + exif[start + 2 : row]
            return head + exif[row + 12 : end] + bytes(12) + exif[end:]
    return exif


def stripped(metadata: Metadata, kinds: tuple[str, ...]) -> Metadata:
    """The metadata without the named `KINDS`."""
    names = {"icc": "icc_profile"}
    return replace(metadata, **{names.get(kind, kind): None for kind in kinds})
