# SPDX-License-Identifier: Apache-2.0
"""Frames to packets."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import Tensor

from .containers import container_of
from .decode import Frames
from .look import Look
from .report import VideoError

_CODECS = {"matroska": "libx264", "mp4": "libx264", "mov": "libx264", "webm": "libvpx-vp9"}
_OPTIONS = {
    # The lookahead keeps whole frames: 40, the default, would be 2 GB at 8K.
    "libx264": {"crf": "16", "preset": "medium", "rc-lookahead": "10"},
    "libx265": {"crf": "18", "preset": "medium", "x265-params": "rc-lookahead=10:log-level=error"},
    "libvpx-vp9": {"crf": "24", "b:v": "0", "lag-in-frames": "10", "row-mt": "1"},
}


@dataclass(frozen=True)
class Encoder:
    """How a video is encoded.

    Attributes:
        look: of its frames.
        size: height and width.
        codec, options: FFmpeg's encoder and its options.
        time_base, rate: as of the source.
        source: named by errors.
    """

    look: Look
    size: tuple[int, int]
    codec: str
    options: dict[str, str]
    time_base: Fraction
    rate: Fraction
    source: Path

    @classmethod
    def to(
        cls,
        target: Path,
        look: Look,
        size: tuple[int, int],
        frames: Frames,
        codec: str | None = None,
        options: Mapping[str, str] | None = None,
    ) -> Encoder:
        """The one of a file that is to be written; None is what is usual in such files, near lossless to the eye."""
        codec = codec or _CODECS[container_of(target.suffix)]
        options = dict(_OPTIONS.get(codec, {}) if options is None else options)
        return cls(look, size, codec, options, frames.time_base, frames.rate, frames.source)

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
                f"name another codec in Python, for instance {others}"
            )
        try:
            with av.open(io.BytesIO(), "w", format="nut") as trial:
                self.add_to(trial)
                trial.start_encoding()
        except av.error.FFmpegError as error:
            kind = f"{self.size[1]}x{self.size[0]} {self.look.pixel_format} with {self.options}"
            raise VideoError(
                f"{self.source}: {self.codec} cannot encode {kind} ({error.strerror}); "
                "name a smaller size with even sides, or in Python another codec"
            ) from error

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

    def mark(self, stream: Any) -> None:
        """Says in the header of a stream what its packets do not: x264's know of the time base alone, not of the rate."""
        self.look.mark(stream)
        stream.codec_context.framerate = self.rate

    def frame_of(self, pixels: Tensor, source: Any) -> Any:
        """(3, H, W) as a frame at the time of that of the source."""
        frame = self.look.to_frame(pixels)
        frame.pts, frame.time_base, frame.duration = source.pts, self.time_base, source.duration
        return frame
