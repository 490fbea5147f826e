# SPDX-License-Identifier: Apache-2.0
"""What each file format can hold; what it cannot is refused before any work is done."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from . import ifd
from .image import ImageError, Layout, Metadata

READABLE = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "PPM", "BMP")
READABLE_SUFFIXES = frozenset(
    [
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".webp",
        ".avif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".bmp",
    ]
)


@dataclass(frozen=True)
class Format:
    """A file format that is written.

    Attributes:
        name: as Pillow calls it.
        max_side: pixels along the longer side.
        depths: names of the dtypes it holds.
        alpha: whether it holds opacity.
        metadata: the fields of `Metadata` that it holds.
        max_block: bytes of EXIF or XMP that fit.
    """

    name: str
    max_side: int
    depths: tuple[str, ...] = ("uint8",)
    alpha: bool = False
    metadata: tuple[str, ...] = ("icc_profile", "exif", "xmp", "resolution")
    max_block: int = 2**31 - 1


PNG = Format("PNG", 2**31 - 1, ("uint8", "uint16"), alpha=True)
TIFF = Format("TIFF", 2**31 - 1, ("uint8", "uint16", "float32"), alpha=True)
PPM = Format("PPM", 2**31 - 1, ("uint8", "uint16"), metadata=())
JPEG = Format("JPEG", 65500, max_block=65533 - 29)
WEBP = Format("WEBP", 16383, alpha=True, metadata=("icc_profile", "exif", "xmp"))
AVIF = Format("AVIF", 32768, alpha=True, metadata=("icc_profile", "exif", "xmp"))
BMP = Format("BMP", 2**31 - 1, metadata=("resolution",))

WRITABLE = {
    ".png": PNG, ".tif": TIFF, ".tiff": TIFF, ".jpg": JPEG, ".jpeg": JPEG, ".webp": WEBP, ".avif": AVIF,
    ".ppm": PPM, ".pgm": PPM, ".bmp": BMP,
}  # fmt: skip
_LARGEST_BMP = 2**32 - 2**16  # its header counts bytes in 32 bits


def format_of(path: str | os.PathLike[str]) -> Format:
    """The format that the suffix of a name stands for.

    Raises:
        ImageError: none that is written.
    """
    try:
        return WRITABLE[Path(path).suffix.lower()]
    except KeyError:
        raise ImageError(f"{path}: expected a name that ends in {', '.join(WRITABLE)}") from None


def check_target(path: str | os.PathLike[str], layout: Layout, metadata: Metadata | None = None) -> None:
    """Refuses a target that could not hold the result, before any work is done.

    Args:
        path: the file to be written; its suffix names the format.
        layout: the result's.
        metadata: what is to be written beside the pixels.

    Raises:
        ImageError: the format is unknown or cannot hold such an image; the message names one that can.
    """
    target = format_of(path)
    if max(layout.height, layout.width) > target.max_side:
        limit = f"{target.name} holds at most {target.max_side} pixels a side"
        raise ImageError(f"{path}: {limit}, got {layout.width}x{layout.height}; write PNG or TIFF")
    if target is BMP and layout.num_bytes > _LARGEST_BMP:
        raise ImageError(f"{path}: BMP holds at most 4 GiB, got {layout}; write PNG or TIFF")
    if layout.dtype.name not in target.depths:
        way_out = "write TIFF" if layout.dtype.kind == "f" else "write PNG or TIFF"
        raise ImageError(f"{path}: {target.name} does not hold such pixels, got {layout}; {way_out}")
    if layout.has_alpha and not target.alpha:
        raise ImageError(f"{path}: {target.name} holds no alpha, got {layout}; write PNG, WebP, AVIF or TIFF")
    if Path(path).suffix.lower() == ".pgm" and layout.channels != 1:
        raise ImageError(f"{path}: PGM is grey, got {layout}; write PPM")
    if metadata is not None and metadata.exif and target in (TIFF, AVIF):  # which are not given it as it is
        try:
            ifd.parse(metadata.exif)
        except ValueError as error:
            raise ImageError(f"{path}: the EXIF block is damaged ({error}); write PNG, or strip it") from None
    for name in ("exif", "xmp"):
        held = getattr(metadata, name, None)
        if held is not None and name in target.metadata and len(held) > target.max_block:
            limit = f"{target.name} holds at most {target.max_block} bytes of {name.upper()}"
            raise ImageError(f"{path}: {limit}, got {len(held)}; write PNG or TIFF, or strip it")
