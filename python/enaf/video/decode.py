# SPDX-License-Identifier: Apache-2.0
"""A file to frames, every one at its time; damage is never passed over in silence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from .report import VideoError, VideoReport

_WITHOUT_TIMES = ("avi", "mpeg")
"""Containers in which most frames have no time, but all last equally long."""


class Frames:
    """The frames of the one video stream of a file, in order; damage is an error that names the frame, or reported.

    Attributes:
        time_base: of the frames' `pts`.
        rate: mean frames per second.
        expected: how many frames the file says it has, or None.
        seconds: where the file says they end, or None.
    """

    def __init__(self, source: Path, strict: bool, report: VideoReport, max_pixels: int) -> None:
        import av

        self.source, self.strict, self.report = source, strict, report
        with av.open(str(source)) as container:
            stream = video_stream(container, source)
            self.time_base = stream.time_base or Fraction(1, 1000)
            self.rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            self.expected = stream.frames or None
            self.seconds = _seconds(stream)
            even = container.format.name in _WITHOUT_TIMES
            self._step = max(1, round(1 / (self.rate * self.time_base))) if even else None
            context = stream.codec_context
            if context.width * context.height > max_pixels:
                limit, found = f"at most {max_pixels / 1e6:.6g} megapixels", f"{context.width}x{context.height}"
                raise VideoError(
                    f"{source}: expected {limit} a frame, got {found}; allow more (max_pixels, --max-megapixels) if you trust it"
                )
            self.tags = (context.color_primaries, context.color_trc, context.colorspace, context.color_range)
            self.aspect = stream.sample_aspect_ratio or Fraction(1)

    def __iter__(self) -> Iterator[Any]:
        import av

        self.report.damaged.clear()
        count, read, last = 0, 0, None
        with av.open(str(self.source)) as container:
            stream = video_stream(container, self.source)
            stream.thread_type = "SLICE"  # threads by frame would blame another frame for the damage
            packets = container.demux(stream)
            while True:
                with _complaints() as complaints:
                    try:
                        packet = next(packets, None)
                        if packet is None:
                            break
                        read += 1  # frames come out of the decoder later: damage is that of the packet
                        decoded = packet.decode()
                    except av.error.FFmpegError as error:
                        self._damage(read - 1, f"cannot be decoded ({error.strerror})")
                        continue
                if complaints:
                    self._damage(read - 1, f"is damaged ({complaints[0]})")
                for frame in decoded:
                    if frame.is_corrupt and not complaints:
                        self._damage(count, "is damaged")
                    if frame.interlaced_frame:
                        raise VideoError(f"{self.source}: frame {count} is interlaced; deinterlace it first")
                    if self._step is not None and (frame.pts is None or (last is not None and frame.pts <= last)):
                        frame.pts = 0 if last is None else last + self._step
                    if frame.pts is None or (last is not None and frame.pts <= last):
                        self._damage(count, f"has no time of its own (pts {frame.pts} after {last})")
                        continue
                    last = frame.pts
                    yield frame
                    count += 1
        end = 0.0 if last is None else float(last * self.time_base)
        if self.expected is not None and count < self.expected:
            self._damage(count, f"is missing: the file says that it has {self.expected} frames")
        elif self.seconds is not None and end + 2.5 / self.rate < self.seconds:
            self._damage(
                count, f"is missing: the file says that it lasts {self.seconds:.2f} s, and ends at {end:.2f} s"
            )

    def _damage(self, number: int, what: str) -> None:
        text = f"frame {number} {what}"
        if self.strict:
            raise VideoError(f"{self.source}: {text}; repair the file, or let it pass in Python (on_damage='keep')")
        self.report.damaged.append(text)


@contextlib.contextmanager
def _complaints() -> Iterator[list[str]]:
    """What FFmpeg logs as an error inside: most decoders patch over damage and say so nowhere else."""
    import av

    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    found: list[str] = []
    try:
        with av.logging.Capture(local=False) as log:
            yield found
            found += [message.strip() for severity, _, message in log if severity <= av.logging.ERROR]
    finally:
        av.logging.set_level(level)


def _seconds(stream: Any) -> float | None:
    """The end of a stream by the header, in seconds; Matroska's only knows the file's, but has a tag, as H:M:S."""
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = (float(part) for part in parts)
        return 3600 * hours + 60 * minutes + seconds
    except ValueError:
        if stream.duration is None:
            return None
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)


def video_stream(container: Any, source: Path) -> Any:
    import av

    moving = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if len(moving) != 1:
        raise VideoError(f"{source}: expected one video stream, got {len(moving)}; extract the one to upscale first")
    return moving[0]
