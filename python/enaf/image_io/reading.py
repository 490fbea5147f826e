# SPDX-License-Identifier: Apache-2.0
"""Files to pixels: what a file is, decided by its header alone; rows as they are asked for."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import BinaryIO, Protocol, TypeAlias

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from . import ifd, metadata
from .formats import READABLE
from .image import MAX_PIXELS, ImageError, Layout, Metadata
from .pillow import PillowRows, is_deep, open_pillow
from .pnm import PnmReader, read_header

BANDED_PIXELS = 1 << 26
"""From here on PNG, JPEG and TIFF are decoded band by band, where pyvips is installed."""

_EXTRA = "install enaf_ext[images] to read it"

Source: TypeAlias = "str | os.PathLike[str] | bytes"


class Rows(Protocol):
    """A source of rows; asked for in ascending bands that may overlap, possibly from the top again."""

    layout: Layout

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """(bottom - top, width, channels)."""


class ImageReader:
    """An open image: upright, its alpha straight, its metadata made true for that.

    Attributes:
        layout: shape and dtype, known before anything is decoded.
        metadata: with orientation 1.
        notes: what was converted on the way, for people.
    """

    def __init__(self, name: str, source: Rows, metadata: Metadata, notes: tuple[str, ...] = ()) -> None:
        self.name, self.layout, self.metadata, self.notes = name, source.layout, metadata, notes
        self._source = source

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """(bottom - top, width, channels) in the layout's dtype.

        Raises:
            ImageError: the file is damaged, or a value is not finite or outside [0, 1].
        """
        try:
            rows = self._source.rows(top, bottom)
        except ImageError:
            raise
        except Exception as error:  # decoders raise nearly anything on damaged files
            raise ImageError(f"{self.name}: cannot be read: {_reason(error)}") from error
        if rows.dtype.kind == "f":
            low, high = float(rows.min()), float(rows.max())
            if not (low >= 0 and high <= 1):  # also where a value is not a number
                raise ImageError(f"{self.name}: expected floating values in [0, 1], got [{low:g}, {high:g}]")
        return rows


@dataclass(frozen=True)
class ImageFile:
    """An image as it stands in a file.

    Attributes:
        pixels: (C, H, W), upright; C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha; uint8, uint16, or float32 in
            [0, 1].
        metadata: colour profile, EXIF (orientation 1), XMP, resolution.
    """

    pixels: Tensor
    metadata: Metadata


def read_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> ImageFile:
    """Reads one image: PNG, JPEG, WebP, AVIF, TIFF, PPM or BMP.

    The EXIF orientation is applied. A palette becomes RGB, one bit becomes 8-bit grey, CMYK goes through its profile to
    sRGB. Depth follows the file's own declaration, never its values.

    Args:
        path: the file.
        max_pixels: more are refused before they are decoded.

    Returns:
        The upright pixels and the metadata.

    Raises:
        ImageError: the file is missing, damaged, or of a kind that is not supported.
    """
    with open_image(path, max_pixels=max_pixels) as reader:
        rows = reader.rows(0, reader.layout.height)
        return ImageFile(torch.from_numpy(rows).permute(2, 0, 1), reader.metadata)


@contextlib.contextmanager
def open_image(source: Source, *, name: str | None = None, max_pixels: int = MAX_PIXELS) -> Iterator[ImageReader]:
    """Opens an image and reads its header; rows are decoded when they are asked for.

    Args:
        source: a file, or the bytes of one.
        name: what errors call it.
        max_pixels: more are refused before they are decoded.

    Raises:
        ImageError: as for `read_image`.
    """
    name = name or (os.fspath(source) if not isinstance(source, bytes) else "input")
    with contextlib.ExitStack() as stack:
        try:
            reader = _open(source, name, max_pixels, stack)
        except ImageError:
            raise
        except FileNotFoundError:
            raise ImageError(f"{name}: no such file") from None
        except IsADirectoryError:
            raise ImageError(f"{name}: is a folder, expected an image file") from None
        except UnidentifiedImageError:
            raise ImageError(f"{name}: is not a {', '.join(READABLE[:-1])} or {READABLE[-1]} image") from None
        except Exception as error:  # as above
            raise ImageError(f"{name}: cannot be read: {_reason(error)}") from error
        yield reader


def _open(source: Source, name: str, max_pixels: int, stack: contextlib.ExitStack) -> ImageReader:
    stream: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else stack.enter_context(open(source, "rb"))  # noqa: SIM115
    magic = stream.read(4)
    stream.seek(0)
    if magic[:2] in (b"P5", b"P6"):
        layout = read_header(stream, name)
        assert layout is not None
        _check_size(name, layout.height, layout.width, max_pixels)
        return ImageReader(name, PnmReader(stream, layout, name), Metadata())
    if magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _open_tiff(source, stream, name, max_pixels, stack)
    image = stack.enter_context(open_pillow(stream))
    deep = is_deep(image)
    _check_size(name, image.height, image.width, max_pixels)
    _check_frames(name, image)
    found = metadata.of_pillow(image)
    if image.format == "PNG":
        found = metadata.with_late_chunks(found, stream)
    return _reader(source, image, found, name, deep=deep)


def _open_tiff(
    source: Source, stream: BinaryIO, name: str, max_pixels: int, stack: contextlib.ExitStack
) -> ImageReader:
    """TIFF says in its tags what it holds, also where Pillow cannot open it."""
    directory = ifd.parse(source, strict=True) if isinstance(source, bytes) else ifd.parse_file(stream)
    found = metadata.of_tiff(directory)
    width, height = (directory.integers(tag)[:1] or [0] for tag in (256, 257))
    _check_size(name, height[0], width[0], max_pixels)
    bits = directory.integers(258) or [1]
    sample = (directory.integers(339) or [1])[0]
    kind = {(8, 1): np.uint8, (16, 1): np.uint16, (32, 3): np.float32, (16, 3): np.float32}.get((bits[0], sample))
    photometric = (directory.integers(262) or [1])[0]
    if bits[0] > 8 and (kind is None or photometric not in (0, 1, 2)):
        what = {1: "unsigned integer", 2: "signed integer", 3: "floating point"}.get(sample, "unknown")
        raise ImageError(
            f"{name}: expected 8 or 16 bits or 32-bit floating point a channel, grey or RGB, got {bits[0]}-bit {what} "
            f"of photometric kind {photometric}; convert it first"
        )
    if bits[0] <= 8 or (len(bits) == 1 and photometric == 1 and (bits[0], sample) != (16, 3)):
        with contextlib.suppress(UnidentifiedImageError):  # Pillow knows no big-endian BigTIFF, for one
            image = stack.enter_context(open_pillow(stream))
            _check_frames(name, image)
            return _reader(source, image, found, name, deep=False)
    return _vips_reader(source, found, name, f"a {bits[0]}-bit TIFF of this kind")


def _reader(source: Source, image: Image.Image, found: Metadata, name: str, *, deep: bool) -> ImageReader:
    """A reader of the whole by Pillow; by pyvips where Pillow would lose bits, or where the whole is large."""
    if deep:
        return _vips_reader(source, found, name, f"a 16-bit {image.format}")
    plain = image.mode in ("1", "L", "LA", "RGB", "RGBA") and image.format in ("PNG", "JPEG", "TIFF")
    if plain and image.width * image.height > BANDED_PIXELS and find_spec("pyvips"):
        return _vips_reader(source, found, name, "")
    rows = PillowRows(image, found, name)
    return _upright(name, rows, rows.metadata, rows.notes)


def _vips_reader(source: Source, found: Metadata, name: str, what: str) -> ImageReader:
    try:
        from .vips import VipsRows
    except ImportError:
        raise ImageError(f"{name}: got {what}; {_EXTRA}") from None
    return _upright(name, VipsRows(source, name, metadata.orientation(found)), found)


def _upright(name: str, rows: Rows, found: Metadata, notes: tuple[str, ...] = ()) -> ImageReader:
    return ImageReader(name, rows, metadata.upright(found, rows.layout.height, rows.layout.width), notes)


def _check_size(name: str, height: int, width: int, max_pixels: int) -> None:
    if height < 1 or width < 1:
        raise ImageError(f"{name}: expected at least one pixel, got {width}x{height}")
    if height * width > max_pixels:
        raise ImageError(
            f"{name}: expected at most {max_pixels / 1e6:.6g} megapixels, its header says {width}x{height} "
            f"({height * width / 1e6:.6g}); allow more (max_pixels, --max-megapixels) if you trust the file"
        )


def _check_frames(name: str, image: Image.Image) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # an MPO is a photograph with its previews
        raise ImageError(f"{name}: expected one image, got {frames} frames; extract them first")


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
