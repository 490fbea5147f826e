# SPDX-License-Identifier: Apache-2.0
"""Pictures that Pillow decodes, as a whole: 8 bits a channel in any mode, grey of 16 bits and floating point."""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngImageFile

from . import metadata
from .formats import READABLE
from .image import ImageError, Layout, Metadata
from .png import check_whole

_MODES = {"L": (1, np.uint8), "LA": (2, np.uint8), "RGB": (3, np.uint8), "RGBA": (4, np.uint8),
          "I;16": (1, np.uint16), "F": (1, np.float32)}  # fmt: skip
_limits = threading.Lock()


def open_pillow(stream: BinaryIO) -> Image.Image:
    """Opens without decoding; the size is checked by us, for a caller may allow more than Pillow does."""
    with _limits, _quiet():
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(stream, formats=READABLE)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def is_deep(image: Image.Image) -> bool:
    """Whether Pillow would cut 16-bit samples to 8 without a word; only the arguments of its decoder tell.

    To be asked before anything makes Pillow decode, for then it forgets them.
    """
    return image.mode != "I;16" and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


class PillowRows:
    """Rows of a picture that is decoded at the first question.

    Args:
        image: open, not decoded.
        found: its metadata; CMYK is converted through the profile in it.
        name: what errors call the picture.

    Attributes:
        layout: of the upright pixels.
        metadata: `found`, with the profile of the converted pixels.
        notes: what is converted, for people.
    """

    def __init__(self, image: Image.Image, found: Metadata, name: str) -> None:
        self._image, self._mode = image, _target_mode(image, name)
        self._to_srgb: ImageCms.ImageCmsTransform | None = None
        self.metadata = found
        self.notes: tuple[str, ...] = ()
        if image.mode == "CMYK":
            self._to_srgb, self.metadata = _cmyk_to_srgb(found, name)
        if image.mode in ("P", "PA", "CMYK"):
            self.notes = ("CMYK to sRGB" if image.mode == "CMYK" else f"palette to {self._mode}",)
        self._turn = metadata.orientation(found)
        height, width = (image.width, image.height) if self._turn > 4 else (image.height, image.width)
        channels, dtype = _MODES[self._mode]
        self.layout = Layout(height, width, channels, np.dtype(dtype))
        self._array: np.ndarray | None = None

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """(bottom - top, width, channels)."""
        if self._array is None:
            with _quiet():
                self._array = self._decoded()
        return self._array[top:bottom].copy()

    def _decoded(self) -> np.ndarray:
        picture = self._image
        if isinstance(picture, PngImageFile) and picture.fp is not None:
            check_whole(picture.fp)
        picture.load()
        if self._to_srgb is not None:
            picture = ImageCms.applyTransform(picture, self._to_srgb) or picture
        elif picture.mode != self._mode and not picture.mode.startswith("I;16"):
            picture = picture.convert(self._mode)
        array = np.asarray(picture).astype(self.layout.dtype, copy=False)  # also in the machine's byte order
        self._image.close()  # its own copy of the pixels is not needed any more
        return np.ascontiguousarray(_upright(np.atleast_3d(array), self._turn))


def _target_mode(image: Image.Image, name: str) -> str:
    """The mode in which a picture is handed on."""
    clear = "transparency" in image.info
    if image.mode in ("P", "PA"):
        return "RGBA" if clear or image.mode == "PA" else "RGB"
    mode = {"1": "L", "YCbCr": "RGB", "CMYK": "RGB", "I;16B": "I;16", "I;16L": "I;16"}.get(image.mode, image.mode)
    if clear:  # one colour, or one grey, that stands for nothing
        mode = {"L": "LA", "RGB": "RGBA"}.get(mode, "")
    if mode not in _MODES:
        raise ImageError(f"{name}: expected grey, RGB, palette or CMYK pixels, got mode {image.mode}; convert it first")
    return mode


def _cmyk_to_srgb(found: Metadata, name: str) -> tuple[ImageCms.ImageCmsTransform, Metadata]:
    if found.icc_profile is None:
        raise ImageError(f"{name}: expected a colour profile with CMYK, got none; convert it to RGB first")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(found.icc_profile))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    data = srgb.tobytes()
    data = data[:24] + bytes(12) + data[36:]  # without the moment of its making: the same input gives the same bytes
    return ImageCms.buildTransform(profile, srgb, "CMYK", "RGB"), replace(found, icc_profile=data)


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, C) as a camera stored it, turned as EXIF says."""
    if orientation > 4:
        array = array.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Pillow warns of odd metadata, which helps nobody here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
