# SPDX-License-Identifier: Apache-2.0
"""Frames to packets."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from .look import Look
from .report import VideoError

CODECS = {"matroska": "libx264", "mp4": "libx264", "mov": "libx264", "webm": "libvpx-vp9"}
OPTIONS = {
    # The lookahead keeps whole frames: 40, the default, would be 2 GB at 8K.
    "libx264": {"crf": "16", "preset": "medium", "rc-lookahead": "10"},
    "libx265": {"crf": "18", "preset": "medium", "x265-params": "rc-lookahead=10:log-level=error"},
    "libvpx-vp9": {"crf": "24", "b:v": "0", "lag-in-frames": "10", "row-mt": "1"},
}


@dataclass(frozen=True)
class Encoder:
    """How the result is encoded."""

    look: Look
    size: tuple[int, int]
    codec: str
    options: dict[str, str]
    time_base: Fraction
    rate: Fraction
    source: Path

    def __post_init__(self) -> None:
        import av

        try:
            held = [form.name for form in av.codec.Codec(self.codec, "w").video_formats or ()]
        except (av.error.FFmpegError, ValueError):
            raise ValueError(f"codec: expected an encoder of this FFmpeg, got {self.codec!r}") from None
        if self.look.pixel_format not in held:
            others = "libx265 or ffv1" if self.codec != "libx265" else "ffv1"
            raise VideoError(
                f"{self.source}: {self.codec} cannot hold its pixel format {self.look.pixel_format}; "
                f"name another codec, for instance {others}"
            )

    def add_to(self, container: Any) -> Any:
        """A stream of the encoder in `container`."""
        look = self.look
        stream = container.add_stream(self.codec, rate=self.rate, options=self.options)
        context = stream.codec_context
        stream.height, stream.width = self.size
        stream.pix_fmt = look.pixel_format
        stream.time_base = context.time_base = self.time_base
        look.tag(context)
        context.max_b_frames = 0  # decoding order is showing order: segments join without touching a time stamp
        context.flags |= 1 << 22  # AV_CODEC_FLAG_GLOBAL_HEADER: the joined file has one header for all segments
        return stream

    def timed(self, frame: Any, source: Any) -> Any:
        frame.pts, frame.time_base, frame.duration = source.pts, self.time_base, source.duration
        return frame
