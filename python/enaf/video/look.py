# SPDX-License-Identifier: Apache-2.0
"""Frames to colours, and back the way they came."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .decode import Frames
from .report import VideoError

# AVColorSpace of ISO/IEC 23091-2 to the coefficients that swscale knows by the same numbers; 2 is "unspecified".
_UNSPECIFIED, _BT709, _BT601 = 2, 1, 6
_COEFFICIENTS = {_BT709: 1, 4: 4, 5: 5, _BT601: 5, 7: 7, 9: 9}
_LIMITED, _FULL = 1, 2


@dataclass(frozen=True)
class Look:
    """How pixels of a video become colours; what the result must say again.

    Attributes:
        pixel_format: FFmpeg's name.
        deep: more than 8 bits.
        matrix, primaries, transfer: code points of ISO/IEC 23091-2.
        full_range: luma from 0 to the maximum, instead of 16/255 to 235/255 of it.
        range_tag: FFmpeg's, as the source has it.
        aspect: width of a pixel over its height.
        rotation: display matrix, 9 integers, or None.
    """

    pixel_format: str
    deep: bool
    width: int
    height: int
    matrix: int
    primaries: int
    transfer: int
    full_range: bool
    range_tag: int
    aspect: Fraction
    rotation: tuple[int, ...] | None

    @classmethod
    def of(cls, frame: Any, frames: Frames, source: Path) -> Look:
        from av.sidedata.sidedata import Type as SideData

        name = frame.format.name
        if any(component.is_alpha for component in frame.format.components) or frame.format.has_palette:
            raise VideoError(f"{source}: expected frames without alpha or palette, got {name}; convert the video first")
        bits = max(component.bits for component in frame.format.components)
        if bits > 16:
            raise VideoError(f"{source}: expected 8 to 16 bits, got {bits} ({name}); convert the video first")
        primaries, transfer, matrix, range_tag = (
            value or other
            for value, other in zip(
                (frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range), frames.tags, strict=True
            )
        )
        full_range = range_tag == _FULL or name.startswith("yuvj") or frame.format.is_rgb
        if not frame.format.is_rgb and matrix in (0, _UNSPECIFIED):
            matrix = _BT709 if frame.height >= 720 else _BT601
        if not frame.format.is_rgb and matrix not in _COEFFICIENTS:
            raise VideoError(
                f"{source}: its colour matrix ({matrix}) is not one that can be converted; convert it first"
            )
        data = frame.side_data.get(SideData.DISPLAYMATRIX)
        rotation = None if data is None else tuple(memoryview(bytes(data)).cast("i"))
        return cls(
            pixel_format=name.replace("yuvj", "yuv"),
            deep=bits > 8,
            width=frame.width,
            height=frame.height,
            matrix=matrix,
            primaries=primaries,
            transfer=transfer,
            full_range=full_range,
            range_tag=_FULL if full_range else range_tag,
            aspect=frames.aspect,
            rotation=rotation,
        )

    def of_drawing(self) -> Look:
        """That of 8-bit drawings beside the video, shown as it is."""
        return replace(
            self, pixel_format="yuv420p", deep=False, matrix=_BT709, primaries=1, transfer=1, full_range=False,
            range_tag=_LIMITED,
        )  # fmt: skip

    def mark(self, stream: Any) -> None:
        """Says in the header of a stream what its colours mean and how it is turned; not every codec keeps this itself."""
        self.tag(stream.codec_context)
        if self.rotation is not None:
            stream.set_display_matrix(self.rotation)

    def tag(self, context: Any) -> None:
        """Tells an encoder what the colours mean."""
        context.sample_aspect_ratio = self.aspect
        context.color_primaries, context.color_trc = self.primaries, self.transfer
        context.colorspace, context.color_range = self.matrix, self.range_tag

    def to_rgb(self, frame: Any) -> Tensor:
        """(3, H, W) uint8, or uint16 in 0..65535."""
        rgb = self._convert(frame, "rgb48le" if self.deep else "rgb24", self.full_range, True)
        return torch.from_numpy(rgb.to_ndarray()).permute(2, 0, 1)

    def to_frame(self, pixels: Tensor) -> Any:
        """The opposite, in the pixel format of the video."""
        import av

        array = pixels.permute(1, 2, 0).contiguous().numpy()
        rgb = av.VideoFrame.from_ndarray(array, format="rgb48le" if self.deep else "rgb24")
        frame = self._convert(rgb, self.pixel_format, True, self.full_range)
        frame.colorspace, frame.color_range = self.matrix, self.range_tag
        frame.color_primaries, frame.color_trc = self.primaries, self.transfer
        return frame

    def _convert(self, frame: Any, pixel_format: str, from_full: bool, to_full: bool) -> Any:
        from av.video.reformatter import Interpolation

        exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND
        coefficients = _COEFFICIENTS.get(self.matrix, 1)
        return frame.reformat(
            format=pixel_format,
            src_colorspace=coefficients,
            dst_colorspace=coefficients,
            src_color_range=_FULL if from_full else _LIMITED,
            dst_color_range=_FULL if to_full else _LIMITED,
            interpolation=exact | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP,
        )
