# SPDX-License-Identifier: Apache-2.0
"""Images between files and tensors: reading loses nothing in silence, writing leaves a whole file or none."""

from __future__ import annotations

import contextlib
import os
import secrets
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

READABLE = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM")
_SUPPORTED = "8-bit RGB or grey, or 16-bit grey"
_KINDS = {  # what Pillow's modes mean, where the letters alone do not say it
    "P": "a palette",
    "PA": "a palette with an alpha channel",
    "LA": "grey with an alpha channel",
    "RGBA": "RGB with an alpha channel",
    "I": "integer grey of more than 8 bits",
    "F": "floating point grey",
}


class ImageError(Exception):
    """A file that cannot be read or written as an image; the message names the file, the reason and the way out."""


@dataclass(frozen=True)
class ImageFile:
    """An image as it stands in a file.

    Attributes:
        pixels: (C, H, W), C = 1 (grey) or 3 (RGB), upright; uint8 in 0..255, or uint16 in 0..65535 (grey only).
        icc_profile: the embedded colour profile, byte for byte, or None.
    """

    pixels: Tensor
    icc_profile: bytes | None = None


@dataclass(frozen=True)
class _Format:
    """What a file format that is written here can hold."""

    name: str
    max_side: int
    holds_16_bit_grey: bool


_PNG = _Format("PNG", 2**31 - 1, True)
_JPEG = _Format("JPEG", 65500, False)
_WEBP = _Format("WEBP", 16383, False)
_TIFF = _Format("TIFF", 2**31 - 1, True)
WRITABLE = {".png": _PNG, ".jpg": _JPEG, ".jpeg": _JPEG, ".webp": _WEBP, ".tif": _TIFF, ".tiff": _TIFF}


def read_image(path: str | os.PathLike[str]) -> ImageFile:
    """Reads one image: PNG, JPEG, WebP, TIFF, BMP or PPM; 8-bit RGB or grey, or 16-bit grey.

    The EXIF orientation is applied. Nothing is converted that would lose something: images with alpha, a palette, CMYK,
    16-bit colour, floating point or several frames are refused. 1-bit images become 8-bit grey.

    Args:
        path: the file.

    Returns:
        The upright pixels and the colour profile.

    Raises:
        ImageError: the file is missing, damaged, or of a kind that is not supported.
    """
    path = Path(path)
    try:
        # Pillow refuses more than 179 megapixels; its warnings (half of that, odd metadata) help nobody here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=READABLE) as image:
                _check_readable(path, image)
                upright = ImageOps.exif_transpose(image)
                if upright.mode == "1":
                    upright = upright.convert("L")
                array = np.array(upright)
                profile = image.info.get("icc_profile")
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{path}: is a folder, expected an image file") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: is not a {', '.join(READABLE[:-1])} or {READABLE[-1]} image") from None
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise ImageError(f"{path}: cannot be read: {error}") from error
    if array.dtype != np.uint8:
        array = array.astype(np.uint16)  # also brings big-endian files to the machine's order
    pixels = torch.from_numpy(array)
    return ImageFile(pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1), profile)


def check_target(path: str | os.PathLike[str], height: int, width: int, pixels: Tensor | None = None) -> None:
    """Refuses a target that could not hold the result, before any work is done.

    Args:
        path: the file to be written; its suffix names the format.
        height: rows of the result in pixels.
        width: columns of the result in pixels.
        pixels: a tensor (C, H, W) of any size with the result's channels and dtype; None leaves these unchecked.

    Raises:
        ImageError: the format is unknown, or cannot hold an image of this size or depth.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITABLE:
        raise ImageError(f"{path}: expected a name that ends in {', '.join(WRITABLE)}")
    target = WRITABLE[path.suffix.lower()]
    if max(height, width) > target.max_side:
        limit = f"{target.name} holds at most {target.max_side} pixels a side"
        raise ImageError(f"{path}: {limit}, got {width}x{height}; write PNG or TIFF")
    if pixels is None:
        return
    if pixels.dim() != 3 or pixels.shape[0] not in (1, 3):
        raise ImageError(f"{path}: expected pixels of shape (1 or 3, H, W), got {tuple(pixels.shape)}")
    if pixels.dtype not in (torch.uint8, torch.uint16):
        raise ImageError(f"{path}: expected uint8 or uint16 pixels, got {pixels.dtype}")
    if pixels.dtype == torch.uint16 and not (pixels.shape[0] == 1 and target.holds_16_bit_grey):
        kind = "grey" if pixels.shape[0] == 1 else "RGB"
        raise ImageError(f"{path}: 16 bits are written as grey PNG or TIFF only, got {kind} for {target.name}")


def write_image(
    path: str | os.PathLike[str], pixels: Tensor, *, icc_profile: bytes | None = None, quality: int = 95
) -> None:
    """Writes one image so that the file is the old one or the new one at every moment, never a part.

    The data goes to a temporary file in the same folder, is flushed to the disk and renamed over the target. If
    anything fails, the temporary file is removed and the old target stays. Only a killed process can leave a
    `.NAME.*.part` behind.

    Args:
        path: the file to write: `.png`, `.tif`, `.tiff` (lossless), `.jpg`, `.jpeg` or `.webp`.
        pixels: (C, H, W), C = 1 or 3, any device; uint8, or uint16 for grey PNG and TIFF.
        icc_profile: embedded as it is.
        quality: 1..100, for JPEG (colour kept at full resolution) and WebP.

    Raises:
        ImageError: the format cannot hold the image, or the disk refused it.
    """
    path = Path(path)
    check_target(path, pixels.shape[-2], pixels.shape[-1], pixels)
    target = WRITABLE[path.suffix.lower()]
    array = pixels.cpu().permute(1, 2, 0).contiguous().numpy()
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    options: dict[str, object] = {"icc_profile": icc_profile} if icc_profile else {}
    if target is _JPEG:
        options |= {"quality": quality, "subsampling": 0}
    elif target is _WEBP:
        options |= {"quality": quality}
    elif target is _TIFF:
        options |= {"compression": "tiff_lzw"}
    try:
        with _replacing(path) as stream:
            image.save(stream, format=target.name, **options)
    except OSError as error:
        raise ImageError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content takes the place of `path` once it is whole and on the disk."""
    path = path.resolve()  # a link stays a link, to the new content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must survive a power cut
    finally:
        os.close(folder)


def _check_readable(path: Path, image: Image.Image) -> None:
    """Refuses what would lose something on the way into an RGB or grey tensor."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # an MPO is a photograph with its previews
        raise ImageError(f"{path}: expected one image, got {frames} frames; extract them first")
    kind = _KINDS.get(image.mode, image.mode)
    if "transparency" in image.info:
        kind += " with a transparent colour"
    # Pillow opens 16-bit colour as 8-bit RGB without a word; only the arguments of its decoder tell.
    elif image.mode == "RGB" and any(_is_deep(tile[0], tile[3]) for tile in getattr(image, "tile", ())):
        kind = "16-bit RGB"
    elif image.mode in ("1", "L", "RGB") or image.mode.startswith("I;16"):
        return
    way_out = "remove or flatten the transparency" if "alpha" in kind or "transparent" in kind else "convert it"
    raise ImageError(f"{path}: expected {_SUPPORTED}, got {kind}; {way_out} first")


def _is_deep(codec: str, arguments: object) -> bool:
    """Whether a decoder reads more than 8 bits a sample: a raw mode like `RGB;16B`, or a PPM header's maximum value."""
    mode, *rest = arguments if isinstance(arguments, tuple) else (arguments,)
    return ";16" in str(mode) or (codec == "ppm" and rest[0] > 255)
