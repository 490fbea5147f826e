# SPDX-License-Identifier: Apache-2.0
"""Frames to larger frames, and to drawings of the exits that their patches took."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from enaf.degradation import resize
from enaf.exit_map import draw_exit_map, sheet_size, shown_size
from enaf.record import Tally

from .encode import Encoder
from .look import Look
from .report import VideoError

if TYPE_CHECKING:
    from enaf.upscaler import UpscaleInfo, Upscaler

_BATCH_PIXELS = 1 << 21
_LARGEST_BATCH = 8


@dataclass(frozen=True)
class FrameUpscaler:
    """Upscales several frames at a time, so that patches of neighbouring frames share the network's batches.

    Attributes:
        upscaler, routing, device: as of `upscale_video`.
        look: of the source.
        encoders: of the result, and of the exit map where one is drawn.
        source: named by errors.
    """

    upscaler: Upscaler
    routing: Mapping[str, Any]
    device: str
    look: Look
    encoders: tuple[Encoder, ...]
    source: Path

    def __call__(self, numbered: Iterable[tuple[int, Any]], tally: Tally) -> Iterator[tuple[Any, ...]]:
        """For every frame the pictures to encode, one an encoder; what they took is added up."""
        numbered = iter(numbered)
        batch = max(1, min(_LARGEST_BATCH, _BATCH_PIXELS // (self.look.height * self.look.width)))
        while chunk := list(itertools.islice(numbered, batch)):
            for number, frame in chunk:
                self._check(number, frame)
            pixels = torch.stack([self.look.to_rgb(frame) for _, frame in chunk]).to(self.device)
            sr, info = self.upscaler(pixels, **self.routing, return_info=True, scores=False)
            tally.add(info, self.upscaler.num_exits)
            drawings = None if len(self.encoders) == 1 else _drawings(sr, info, self.upscaler.num_exits)
            results = resized(sr, self.encoders[0].size).cpu()
            for (_, frame), *pictures in zip(chunk, results, *([] if drawings is None else [drawings]), strict=True):
                yield tuple(
                    encoder.frame_of(picture, frame) for encoder, picture in zip(self.encoders, pictures, strict=True)
                )

    def _check(self, number: int, frame: Any) -> None:
        look = self.look
        kind = (frame.width, frame.height, frame.format.name.replace("yuvj", "yuv"))
        if kind != (look.width, look.height, look.pixel_format):
            expected = f"{look.width}x{look.height} {look.pixel_format} as before"
            raise VideoError(f"{self.source}: frame {number}: expected {expected}, got {kind[0]}x{kind[1]} {kind[2]}")


def drawing_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the drawn exits of upscaled frames of this size; even, as most players want it."""
    height, width = sheet_size(*shown_size(height, width))
    return height + height % 2, width + width % 2


def _drawings(sr: Tensor, info: UpscaleInfo, num_exits: int) -> Iterator[Tensor]:
    """(3, H, W) uint8 of every frame, of `drawing_size`."""
    height, width = drawing_size(*sr.shape[-2:])
    for frame, exit_index in zip(sr, info.exit_index, strict=True):
        picture = resized(frame[None], shown_size(*frame.shape[-2:]))[0]
        if picture.dtype == torch.uint16:
            picture = (picture.float() / 257).round_().to(torch.uint8)
        sheet = draw_exit_map(picture, exit_index, info.grid, num_exits)
        yield F.pad(sheet, (0, width - sheet.shape[-1], 0, height - sheet.shape[-2]), value=255)


def resized(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames (B, 3, H, W) of 8 or 16 bits at another height and width, antialiased."""
    if tuple(frames.shape[-2:]) == size:
        return frames
    if frames.dtype == torch.uint8:
        return resize(frames, *size)
    return resize(frames.float(), *size).round_().clamp_(0, 65535).int().to(torch.uint16)
