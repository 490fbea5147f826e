# SPDX-License-Identifier: Apache-2.0
"""The flow of one image: rows in, colours and opacity upscaled apart, to the size asked for, rows out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import torch
from torch import Tensor

from enaf.image_io import Layout
from enaf.upscaler import UpscaleInfo, Upscaler

from .alpha import REACH, fill_hidden, within_neighbourhood
from .resizing import RowResizer, Sink
from .settings import Routing, Settings

_ALPHA_BAND = 256


class Rows(Protocol):
    """Where the rows of an image come from: `enaf.image_io.ImageReader`, or a frame in memory."""

    layout: Layout

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """(bottom - top, width, channels)."""


def upscale_rows(
    source: Rows,
    write: Callable[[np.ndarray], object],
    upscaler: Upscaler,
    settings: Settings,
    device: str,
    *,
    scratch: Path | None = None,
    advanced: Callable[[int], object] = lambda rows: None,
    preview: Sink | None = None,
) -> UpscaleInfo:
    """Upscales an image in bounded memory.

    Args:
        source: the rows of the LR image.
        write: gets the rows of the result, (n, width, channels) in the source's dtype, from top to bottom.
        upscaler: of any scale; what it makes is resized where another size was asked for.
        settings: what was asked for.
        device: where the network runs.
        scratch: a folder for a file without a name, in which opacity waits for the colours; None is the system's.
        advanced: told of rows of the LR image that were done.
        preview: also gets the colours of the upscaled rows, (C, n, W), before any resizing.

    Returns:
        What happened to the colours.
    """
    layout, scale = source.layout, upscaler.scale
    shape = (layout.colours, layout.height, layout.width)
    native = scale * layout.height, scale * layout.width
    wanted = settings.target_size(layout.height, layout.width)

    def put(rows: Tensor) -> None:
        write(rows.permute(1, 2, 0).contiguous().numpy())

    sink: Sink = put if wanted == native else RowResizer(native, wanted, put)
    dtype = None if settings.dtype is None else getattr(torch, settings.dtype)
    routing = settings.routing

    with tempfile.TemporaryFile(dir=scratch) as spool:
        alpha = _alpha(source) if layout.has_alpha else None
        flat = alpha is not None and bool((alpha == alpha[:, :1, :1]).all())
        if alpha is not None and not flat:
            if settings.budget_ms is not None:
                routing["budget_ms"] = settings.budget_ms / 2  # half of the time for each of the two
            _spool_alpha(alpha, spool, upscaler, device, dtype, routing)

        def read(top: int, bottom: int) -> Tensor:
            if alpha is None or flat:
                return _planes(source.rows(top, bottom))[: layout.colours]
            above, below = max(0, top - REACH), min(layout.height, bottom + REACH)
            planes = _planes(source.rows(above, below))
            return fill_hidden(planes[:-1], planes[-1:])[:, top - above : bottom - above].contiguous()

        def take(top: int, rows: Tensor) -> None:
            if preview is not None:
                preview(rows)
            if alpha is not None:
                count = rows.shape[1] * rows.shape[2]
                opacity = (
                    alpha[:, :1, :1].expand(1, *rows.shape[1:])
                    if flat
                    else torch.frombuffer(bytearray(spool.read(count * rows.element_size())), dtype=rows.dtype)
                )
                rows = torch.cat([rows, opacity.reshape(1, *rows.shape[1:])])
            sink(rows)
            advanced(rows.shape[1] // scale)

        return upscaler.stream(read, shape, take, device=device, dtype=dtype, **routing)


def _planes(rows: np.ndarray) -> Tensor:
    """(n, W, C) -> (C, n, W)."""
    return torch.from_numpy(np.ascontiguousarray(rows.transpose(2, 0, 1)))


def _alpha(source: Rows) -> Tensor:
    """(1, H, W): the opacity of the whole image, one channel of it in memory."""
    layout = source.layout
    alpha = np.empty((1, layout.height, layout.width), layout.dtype)
    for top in range(0, layout.height, _ALPHA_BAND):
        bottom = min(top + _ALPHA_BAND, layout.height)
        alpha[0, top:bottom] = source.rows(top, bottom)[:, :, -1]
    return torch.from_numpy(alpha)


def _spool_alpha(
    alpha: Tensor,
    spool: IO[bytes],
    upscaler: Upscaler,
    device: str,
    dtype: torch.dtype | None,
    routing: Routing,
) -> None:
    """Upscales the opacity into a file without a name, from which the colours' rows will fetch theirs."""

    def keep(top: int, rows: Tensor) -> None:
        spool.write(within_neighbourhood(rows, alpha, top, upscaler.scale).numpy().tobytes())

    shape = (1, alpha.shape[1], alpha.shape[2])
    upscaler.stream(
        lambda top, bottom: alpha[:, top:bottom].contiguous(), shape, keep, device=device, dtype=dtype, **routing
    )  # fmt: skip
    spool.seek(0)
