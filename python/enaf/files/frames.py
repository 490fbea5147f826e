# SPDX-License-Identifier: Apache-2.0
"""Frames through a pipe: PPM or PGM one after another, which say their own size and depth, or bare pixels."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from enaf.device import usable_device
from enaf.image_io import MAX_PIXELS, ImageError, Layout, sweep
from enaf.image_io.pnm import PnmWriter, read_header, read_rows
from enaf.record import Tally

from .drawing import Drawing
from .ledger import BEGINS as LEDGER_BEGINS
from .ledger import FileResult, Ledger
from .one_image import upscale_rows
from .plan import check_drawings_folder, check_kept
from .run import Listener, check_request, kept, load_upscaler
from .settings import Settings, checked, result_layout
from .standard_output import WholeWriter

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

    def __init__(self, stream: WholeWriter) -> None:
        self._stream = stream

    def write(self, rows: np.ndarray) -> None:
        self._stream.write(rows.astype(rows.dtype.newbyteorder("<")).tobytes())


def upscale_frames(
    source: BinaryIO,
    target: BinaryIO,
    *,
    raw: str | None = None,
    model: str | os.PathLike[str] = "fsrcnn",
    scale: int = 4,
    size: tuple[int, int] | None = None,
    eta: float = 1.0,
    gamma: float = 1.0,
    budget: float | None = None,
    budget_ms: float | None = None,
    force_exit: int | None = None,
    patch_size: int = 32,
    overlap: int = 4,
    device: str = "auto",
    dtype: str | None = None,
    max_pixels: int = MAX_PIXELS,
    exit_map: str | os.PathLike[str] | None = None,
    ledger: str | os.PathLike[str] | None = None,
    listener: Listener | None = None,
) -> FileResult:
    """Upscales frames as they come, until the source ends: what `enaf upscale - -o -` does with `--raw` or `--format ppm`.

    Args:
        source: a binary file or pipe; its `read(n)` gives fewer bytes only at the end. PPM and PGM images one after another,
            each of its own size, or bare pixels.
        target: a binary file or pipe, gets the same kind, flushed after every frame; neither is closed.
        raw: size and kind of bare frames, as "1920x1080:rgb24" ("gray", "gray16le", "rgb24" or "rgb48le"); None for PPM and
            PGM.
        model, scale, size, eta, gamma, budget, budget_ms, force_exit, patch_size, overlap, device, dtype, max_pixels: as for
            `upscale_files`, for every frame.
        exit_map: a folder, made if missing, for a picture of every frame's exits: `00000000.png` and on.
        ledger: the file to which the result is appended as a JSON line; None is none.
        listener: is told how it gets on.

    Returns:
        Done, or failed at a frame that was cut short or that the target did not take; frames before it were written. Exits and
        cost are those of all frames, width and height those of the last.

    Raises:
        ValueError, TypeError, FileNotFoundError: as `upscale_files`; nothing was read or written.

    Deterministic: a frame gives the same bytes wherever it stands.
    """
    layout = None if raw is None else parse_raw(raw)
    settings = checked(
        Settings(
            model=os.fspath(model), scale=scale, size=size, eta=eta, gamma=gamma, budget=budget, budget_ms=budget_ms,
            force_exit=force_exit, patch_size=patch_size, overlap=overlap, dtype=dtype, format=None, quality=95,
            strip=(), max_pixels=max_pixels,
        )
    )  # fmt: skip
    upscaler, _ = load_upscaler(settings)
    device = usable_device(device)
    check_request(upscaler, settings)
    if ledger is not None:
        check_kept("ledger", Path(ledger), LEDGER_BEGINS)
    folder = None if exit_map is None else Path(exit_map)
    if folder is not None:
        check_drawings_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
    listener = listener or Listener()
    listener.started(None)
    whole = WholeWriter(target)
    result, started = FileResult("-", "-", "done"), time.perf_counter()
    tally = Tally()
    try:
        for frame in _frames(source, layout, max_pixels):
            large = result_layout(frame.layout, settings)
            writer = _BareWriter(whole) if raw is not None else PnmWriter(whole, large)
            drawing = None if folder is None else Drawing(folder / f"{tally.images:08d}.png", frame.layout, upscaler)
            preview = None if drawing is None else drawing.take
            info = upscale_rows(frame, writer.write, upscaler, settings, device, preview=preview)
            whole.flush()
            if drawing is not None:
                drawing.write(info)
            tally.add(info, upscaler.num_exits)
            result = replace(result, width=large.width, height=large.height)
            listener.advanced(1, large.height * large.width / 1e6)
    except (ImageError, OSError, RuntimeError, MemoryError) as problem:
        result = replace(result, status="failed", error=f"frame {tally.images}: {problem}")
    result = replace(
        result, seconds=round(time.perf_counter() - started, 3), exits=tally.exits, eta=tally.eta, cost=tally.cost,
        notes=[f"{tally.images} frames"],
    )  # fmt: skip
    result = result if ledger is None else kept(result, Ledger(Path(ledger)))
    listener.finished(result)
    return result


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
            limit = f"at most {max_pixels / 1e6:.6g} megapixels (max_pixels, --max-megapixels)"
            raise ImageError(f"-: expected {limit}, got {layout}")
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
