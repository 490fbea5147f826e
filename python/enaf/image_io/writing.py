# SPDX-License-Identifier: Apache-2.0
"""Pixels to files, band by band where the format allows it, whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from . import formats, ifd
from .atomic import PartialFile, replacing
from .formats import Format, check_target, format_of
from .image import NOTHING, ImageError, Layout, Metadata
from .metadata import without_orientation
from .pillow import open_pillow
from .png import PngWriter
from .pnm import PnmWriter
from .tiff import TiffWriter


class Encoder(Protocol):
    """Takes the rows of one picture, each once, from top to bottom."""

    def write(self, rows: np.ndarray) -> None:
        """Appends (n, width, channels)."""

    def finish(self) -> None:
        """Completes the file."""


class ImageWriter:
    """Checks rows on their way into an encoder.

    Attributes:
        sha256: of the file, in hexadecimal, once it is in its place.
    """

    sha256 = ""

    def __init__(self, name: str, encoder: Encoder, layout: Layout) -> None:
        self._name, self._encoder, self._layout, self._done = name, encoder, layout, 0

    def write(self, rows: np.ndarray) -> None:
        """Appends (n, width, channels) in the layout's dtype.

        Raises:
            ImageError: a value is not finite, or the disk refused.
        """
        expected = (self._layout.width, self._layout.channels, self._layout.dtype)
        assert (*rows.shape[1:], rows.dtype) == expected, f"expected {expected}, got {rows.shape} {rows.dtype}"
        if rows.dtype.kind == "f" and not np.isfinite(rows).all():
            raise ImageError(f"{self._name}: cannot be written: a value of the result is not finite")
        self._encoder.write(rows)
        self._done += len(rows)

    def finish(self) -> None:
        """Completes the file."""
        assert self._done == self._layout.height, f"expected {self._layout.height} rows, got {self._done}"
        self._encoder.finish()


@contextlib.contextmanager
def create_image(
    path: str | os.PathLike[str], layout: Layout, metadata: Metadata = NOTHING, *, quality: int = 95
) -> Iterator[ImageWriter]:
    """A writer of rows; the file takes its name when the block ends without an error, and not before.

    The data goes to a temporary file in the same folder (`.NAME.enaf-*.part`), is flushed to the disk, read back and
    compared, opened again, and renamed over the target. If anything fails, the temporary file is removed and the old
    target stays. Only a killed process leaves it behind; `sweep` removes it.

    Args:
        path: the file to write; its suffix names the format.
        layout: of the picture.
        metadata: written as it is, as far as the format holds it.
        quality: 1..100, for JPEG (colour kept at full resolution), WebP and AVIF.

    Raises:
        ImageError: the format cannot hold the picture, the disk refused it or gave it back changed.
    """
    path = Path(path)
    check_target(path, layout, metadata)
    target = format_of(path)
    try:
        with replacing(path, lambda part: _check_written(part, target, layout)) as part:
            writer = ImageWriter(str(path), _encoder(part, target, layout, metadata, quality), layout)
            yield writer
            writer.finish()
        writer.sha256 = part.sha256
    except OSError as error:
        raise ImageError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_image(
    path: str | os.PathLike[str], pixels: Tensor, *, metadata: Metadata = NOTHING, quality: int = 95
) -> None:
    """Writes one image so that the file is the old one or the new one at every moment, never a part.

    Args:
        path: the file to write: `.png`, `.tif`, `.tiff`, `.ppm`, `.pgm`, `.bmp` (lossless), `.jpg`, `.jpeg`, `.webp` or
            `.avif`.
        pixels: (C, H, W), any device; C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha; uint8, uint16, or float32 in
            [0, 1]. What each format holds: `formats.check_target`.
        metadata: written as it is, as far as the format holds it.
        quality: 1..100, for JPEG (colour kept at full resolution), WebP and AVIF.

    Raises:
        ImageError: the format cannot hold the image, the disk refused it or gave it back changed.
    """
    array = pixels.detach().cpu().permute(1, 2, 0).contiguous().numpy() if pixels.dim() == 3 else np.empty(0)
    if pixels.dim() != 3 or pixels.shape[0] not in (1, 2, 3, 4) or 0 in pixels.shape:
        raise ImageError(f"{path}: expected pixels of shape (1 to 4, H, W), got {tuple(pixels.shape)}")
    if pixels.dtype not in (torch.uint8, torch.uint16, torch.float32):
        raise ImageError(f"{path}: expected uint8, uint16 or float32 pixels, got {pixels.dtype}")
    height, width, channels = array.shape
    layout = Layout(height, width, channels, array.dtype)
    with create_image(path, layout, metadata, quality=quality) as writer:
        writer.write(array)


def _encoder(part: PartialFile, target: Format, layout: Layout, metadata: Metadata, quality: int) -> Encoder:
    held = Metadata(**{name: getattr(metadata, name) for name in target.metadata})
    if target is formats.PNG:
        return PngWriter(part, layout, held)
    if target is formats.TIFF:
        return TiffWriter(part, layout, held)
    if target is formats.PPM:
        return PnmWriter(part, layout)
    return _PillowEncoder(part, target, layout, held, quality)


class _PillowEncoder:
    """Collects the whole picture: these formats have no size that would hurt, or no way around it."""

    def __init__(self, part: PartialFile, target: Format, layout: Layout, metadata: Metadata, quality: int) -> None:
        self._part, self._target, self._metadata, self._quality = part, target, metadata, quality
        self._array = np.empty((layout.height, layout.width, layout.channels), layout.dtype)
        self._done = 0

    def write(self, rows: np.ndarray) -> None:
        self._array[self._done : self._done + len(rows)] = rows
        self._done += len(rows)

    def finish(self) -> None:
        array, target, metadata = self._array, self._target, self._metadata
        options: dict[str, object] = {}
        if metadata.icc_profile:
            options["icc_profile"] = metadata.icc_profile
        if metadata.exif:
            # with an orientation in it, Pillow would write the AVIF's block anew and lose the maker's note
            block = without_orientation(metadata.exif) if target is formats.AVIF else metadata.exif
            options["exif"] = b"Exif\0\0" + block
        if metadata.xmp:
            options["xmp"] = metadata.xmp
        if metadata.resolution:
            options["dpi"] = metadata.resolution
        if target is not formats.BMP:
            options["quality"] = self._quality
        if target is formats.JPEG:
            options["subsampling"] = 0
        if target is formats.WEBP:
            options["exact"] = True  # colours below full transparency are kept
        if target is formats.AVIF:
            options["subsampling"] = "4:4:4"
        image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
        image.save(cast(BinaryIO, self._part), format=target.name, **options)


def _check_written(path: Path, target: Format, layout: Layout) -> None:
    """Opens the file again and compares what its header says; what an encoder of others made is decoded, too."""
    with open(path, "rb") as stream:
        if target is formats.TIFF:
            directory = ifd.parse_file(stream)
            found = (directory.integers(257)[0], directory.integers(256)[0])
        else:
            with open_pillow(stream) as image:
                found = (image.height, image.width)
                if target not in (formats.PNG, formats.PPM):
                    image.load()
    if found != (layout.height, layout.width):
        raise OSError(f"the file that was written says {found[1]}x{found[0]}, expected {layout.width}x{layout.height}")
