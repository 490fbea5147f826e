# SPDX-License-Identifier: Apache-2.0
"""Frames through a pipe: PPM or PGM one after another, which say their own size and depth, or bare pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from enaf.image_io import ImageError, Layout, sweep
from enaf.image_io.pnm import PnmWriter, read_header, read_rows

from .drawing import Drawing
from .ledger import FileResult, Ledger
from .one_image import upscale_rows
from .plan import check_drawings_folder
from .run import Listener, check_request, kept, load_upscaler, usable_device
from .settings import Settings, checked, result_layout

PIXEL_FORMATS = {"gray": (1, np.uint8), "gray16le": (1, np.uint16), "rgb24": (3, np.uint8), "rgb48le": (3, np.uint16)}
"""Bare pixels, by the names of FFmpeg."""


class _Frame:
    """An LR image in memory."""

    def __init__(self, layout: Layout, pixels: np.ndarray) -> None:
        self.layout, self._pixels = layout, pixels

    def rows(self, top: int, bottom: int) -> np.ndarray:
        return self._pixels[top:bottom]


class _BareWriter:
    """Pixels in little-endian order, nothing around them."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, rows: np.ndarray) -> None:
        self._stream.write(rows.astype(rows.dtype.newbyteorder("<")).tobytes())


def upscale_frames(
    source: BinaryIO,
    target: BinaryIO,
    settings: Settings,
    *,
    raw: Layout | None = None,
    device: str = "auto",
    exit_map: Path | None = None,
    ledger: Ledger | None = None,
    listener: Listener | None = None,
) -> FileResult:
    """Upscales frames as they come, until the source ends.

    Args:
        source: PPM and PGM images one after another, or bare pixels.
        target: gets the same kind.
        settings: as of `upscale_files`.
        raw: shape and dtype of bare frames; None for PPM and PGM.
        device: as of `upscale_files`.
        exit_map: a folder, made if missing, for a picture of every frame's exits: `00000000.png` and on.
        ledger: gets what is returned.
        listener: is told how it gets on.

    Returns:
        Done, or failed at a frame that was cut short or that the target did not take; frames before it were written.

    Raises:
        ValueError, TypeError, FileNotFoundError: as `upscale_files`.
    """
    settings, listener = checked(settings), listener or Listener()
    upscaler, _ = load_upscaler(settings)
    device = usable_device(device)
    check_request(upscaler, settings)
    if exit_map is not None:
        check_drawings_folder(exit_map)
        exit_map.mkdir(parents=True, exist_ok=True)
        sweep(exit_map)
    count, error = 0, None
    listener.started(None)
    try:
        for frame in _frames(source, raw, settings.max_pixels):
            layout = result_layout(frame.layout, settings)
            writer = _BareWriter(target) if raw is not None else PnmWriter(target, layout)
            drawing = None if exit_map is None else Drawing(exit_map / f"{count:08d}.png", frame.layout, upscaler)
            preview = None if drawing is None else drawing.take
            info = upscale_rows(frame, writer.write, upscaler, settings, device, preview=preview)
            target.flush()
            if drawing is not None:
                drawing.write(info)
            count += 1
            listener.advanced(1, layout.height * layout.width / 1e6)
    except (ImageError, OSError, RuntimeError, MemoryError) as problem:
        error = f"frame {count}: {problem}"
    result = FileResult("-", "-", "failed" if error else "done", error=error, notes=[f"{count} frames"])
    return result if ledger is None else kept(result, ledger)


def _frames(source: BinaryIO, raw: Layout | None, max_pixels: int) -> Iterator[_Frame]:
    while True:
        if raw is None:
            layout = read_header(source, "-")
            if layout is None:
                return
            pixels = None
        else:
            first = source.read(raw.num_bytes)
            if not first:
                return
            if len(first) < raw.num_bytes:
                raise ImageError(
                    f"-: cannot be read: truncated, expected {raw.num_bytes} bytes a frame, got {len(first)}"
                )
            layout, pixels = raw, np.frombuffer(first, raw.dtype.newbyteorder("<"))
        if layout.height * layout.width > max_pixels:
            raise ImageError(f"-: expected at most {max_pixels / 1e6:.6g} megapixels, got {layout}")
        if pixels is None:
            pixels = read_rows(source, layout, layout.height, "-")
        shape = (layout.height, layout.width, layout.channels)
        yield _Frame(layout, pixels.reshape(shape).astype(layout.dtype))


def parse_raw(text: str) -> Layout:
    """`"1920x1080:rgb24"`.

    Raises:
        ValueError: something else.
    """
    size, _, form = text.partition(":")
    width, _, height = size.partition("x")
    if form not in PIXEL_FORMATS or not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise ValueError(f"raw: expected WIDTHxHEIGHT: and one of {', '.join(PIXEL_FORMATS)}, got {text}")
    channels, dtype = PIXEL_FORMATS[form]
    return Layout(int(height), int(width), channels, np.dtype(dtype))
