# SPDX-License-Identifier: Apache-2.0
"""Images between files and pixels: reading loses nothing in silence, writing leaves a whole file or none.

A picture comes in through `reading` (by Pillow, `pnm`, or `vips`), its `metadata` made true for upright pixels; `formats`
refuses a target that cannot hold the result; `writing` hands rows to `png`, `tiff`, `pnm` or Pillow, and `atomic` puts the
file in its place.
"""

from .atomic import sha256_of, sweep
from .formats import READABLE_SUFFIXES, WRITABLE, check_target, format_of
from .image import MAX_PIXELS, NOTHING, ImageError, Layout, Metadata
from .reading import ImageFile, ImageReader, open_image, read_image
from .writing import ImageWriter, create_image, write_image

__all__ = [
    "MAX_PIXELS",
    "NOTHING",
    "READABLE_SUFFIXES",
    "WRITABLE",
    "ImageError",
    "ImageFile",
    "ImageReader",
    "ImageWriter",
    "Layout",
    "Metadata",
    "check_target",
    "create_image",
    "format_of",
    "open_image",
    "read_image",
    "sha256_of",
    "sweep",
    "write_image",
]
