# SPDX-License-Identifier: Apache-2.0
"""The picture of the exits of one image, in the making beside the result."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from enaf.exit_map import draw_exit_map, shown_size
from enaf.image_io import Layout, write_image
from enaf.upscaler import UpscaleInfo, Upscaler

from .resizing import RowResizer


class Drawing:
    """Collects an upscaled image at a size that fits a screen, in 8 bits; then draws on it which patch took which exit.

    Args:
        path: of the picture; its folder is made.
        lr: layout of the image that is upscaled.
        upscaler: what upscales it.
    """

    def __init__(self, path: Path, lr: Layout, upscaler: Upscaler) -> None:
        self._path, self._num_exits = path, upscaler.num_exits
        self._parts: list[Tensor] = []
        native = upscaler.scale * lr.height, upscaler.scale * lr.width
        limit = 1 if lr.dtype.kind == "f" else torch.iinfo(getattr(torch, lr.dtype.name)).max

        def keep(rows: Tensor) -> None:
            self._parts.append((rows.float() * (255 / limit)).round().to(torch.uint8))

        self.take = RowResizer(native, shown_size(*native), keep)

    def write(self, info: UpscaleInfo) -> None:
        """Writes the picture, or leaves the old one.

        Raises:
            ImageError: the disk refused it.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        picture = torch.cat(self._parts, dim=1)
        write_image(self._path, draw_exit_map(picture, info.exit_index[0], info.grid, self._num_exits))
