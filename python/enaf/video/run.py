# SPDX-License-Identifier: Apache-2.0
"""The flow of one video: decoded, upscaled in batches, encoded in segments, joined."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from enaf.image_io import MAX_PIXELS, sha256_of
from enaf.image_io.metadata import KINDS
from enaf.record import Tally

from .containers import WRITABLE
from .decode import Frames
from .encode import Encoder
from .errors import errors_of
from .join import join, join_exit_map, try_streams
from .look import Look
from .report import VideoError, VideoReport
from .segments import Segments
from .upscale import FrameUpscaler, drawing_size

if TYPE_CHECKING:
    from enaf.upscaler import Upscaler


def upscale_video(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    upscaler: Upscaler,
    *,
    routing: Mapping[str, Any] | None = None,
    target_size: Callable[[int, int], tuple[int, int]] | None = None,
    device: str = "cpu",
    codec: str | None = None,
    codec_options: Mapping[str, str] | None = None,
    segment_frames: int = 120,
    on_damage: str = "fail",
    strip: Collection[str] = (),
    max_pixels: int = MAX_PIXELS,
    exit_map: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> VideoReport:
    """Upscales a video; everything else in it comes along.

    Kept: the time of every frame (also where the rate varies; Matroska rounds it to its milliseconds), depth and
    chroma format, colour tags, pixel aspect, rotation, audio, subtitles, attachments, chapters, titles and languages.
    Subtitles of text become SubRip, WebVTT or MP4's timed text where the container does not know theirs: the words, italics,
    bold and underlining stay. Other subtitles are refused there. Colours are converted with the source's matrix and range,
    and back with the same. A source that does not name its matrix is taken as BT.601 below 720 lines and BT.709 from there
    on, as players do, and the result names it, because at its new size players would guess otherwise.

    Args:
        source: file with one video stream, progressive, 8 to 16 bits, without alpha.
        target: `.mkv`, `.mp4`, `.mov` or `.webm`.
        upscaler: called with up to eight frames at once, (B, 3, H, W), uint8 for 8 bits and uint16 for more.
        routing: keywords of the call: `eta`, `gamma`, `budget`, `force_exit`, `patch_size`, `overlap`.
        target_size: height and width of a source frame -> those of the result, antialiased; None is the upscaler's scale.
        device: where the frames are upscaled.
        codec: encoder of FFmpeg (default: libx264; libvpx-vp9 for `.webm`).
        codec_options: its options (default: near lossless to the eye).
        segment_frames: frames a segment, at least 1: what a crash can cost.
        on_damage: "fail" at the first damaged frame, or "keep" what the decoder makes of it, and report it.
        strip: metadata to leave out: of "exif" (tags of when, where and with what it was taken, and whatever else a device or
            a program noted) and "xmp" (tags that people write: titles, names, comments, rights; of chapters, too); "icc" and
            "resolution" are allowed, and change nothing. What decides the look, and languages, always stay.
        max_pixels: larger frames are refused.
        exit_map: a second video, of the same kinds as `target`: which patch of each frame took which exit, with a legend; same
            times and rotation (and pixel aspect, unless it is `.webm`), nothing else. It takes its place after the result.
        resume: go on after the last whole segment of an earlier run with the same source and settings.
        progress: called with the frames done and the frames expected (None where the file does not say).

    Returns:
        What was done.

    Raises:
        VideoError: the source is damaged or of a kind that would lose something; the target cannot hold it; `resume` and
            the segments are of another source or other settings.
        ValueError: an argument is out of range.
        ModuleNotFoundError: PyAV is missing (extra `video`).
    """
    source, target = Path(source), Path(target)
    map_target = None if exit_map is None else Path(exit_map)
    for name, path in (("target", target), ("exit_map", map_target)):
        if path is not None and path.suffix.lower() not in WRITABLE:
            raise ValueError(f"{name}: expected a name that ends in {', '.join(WRITABLE)}, got {path}")
    if map_target is not None and map_target.resolve() == target.resolve():
        raise ValueError(f"exit_map: expected another file than the target, got {map_target}")
    for kind in strip:
        if kind not in KINDS:
            raise ValueError(f"strip: expected of {', '.join(KINDS)}, got {kind}")
    if on_damage not in ("fail", "keep"):
        raise ValueError(f"on_damage: expected 'fail' or 'keep', got {on_damage!r}")
    if segment_frames < 1:
        raise ValueError(f"segment_frames: expected at least 1, got {segment_frames}")
    routing = dict(routing or {})
    report = VideoReport()

    with errors_of(source):
        frames = Frames(source, on_damage == "fail", report, max_pixels)
        first = next(iter(frames), None)
        if first is None:
            raise VideoError(f"{source}: has no frames")
        look = Look.of(first, frames, source)
        native = upscaler.scale * look.height, upscaler.scale * look.width
        report.height, report.width = native if target_size is None else target_size(look.height, look.width)
        encoder = Encoder.to(target, look, (report.height, report.width), frames, codec, codec_options)
        try_streams(source, target, encoder, strip)
        encoders: tuple[Encoder, ...] = (encoder,)
        if map_target is not None:
            encoders += (Encoder.to(map_target, look.of_drawing(), drawing_size(*native), frames),)
        content = sha256_of(source)

    settings = {
        "source": content,
        "routing": routing,
        "network": _fingerprint(upscaler, routing),
        "encoders": [(encoder.size, encoder.codec, encoder.options) for encoder in encoders],
        "segment_frames": segment_frames,
        "on_damage": on_damage,
    }
    with errors_of(target):
        segments = Segments(target, json.dumps(settings, sort_keys=True, default=str), resume)
    upscaled = FrameUpscaler(upscaler, routing, device, look, encoders, source)
    with errors_of(source):
        frames = Frames(source, on_damage == "fail", report, max_pixels)  # from the first again
        numbered = enumerate(frames)
        for index in itertools.count():
            part = itertools.islice(numbered, segment_frames)
            if index < segments.whole:
                count = sum(1 for _ in part)  # decoded for the sake of what follows, not upscaled
                report.reused += count
                report.tally.join(segments.tally(index))
            else:
                tally = Tally()
                count = segments.write(index, upscaled(part, tally), encoders, tally)
                report.tally.join(tally)
            report.frames += count
            if progress is not None and count > 0:
                progress(report.frames, frames.expected)
            if count < segment_frames:
                break
    with errors_of(target):
        join(source, target, segments, encoder, report, strip)
    if map_target is not None:
        with errors_of(map_target):
            join_exit_map(map_target, segments, encoders[1], report.frames)
    segments.remove()
    return report


def _fingerprint(upscaler: Upscaler, routing: Mapping[str, Any]) -> str:
    """What the network makes of a small fixed image: another network, another fingerprint."""
    ramp = torch.arange(3 * 48 * 64).view(3, 48, 64)
    image = ((ramp * 37) % 251 * (ramp % 64) // 64).to(torch.uint8)
    outputs = [
        upscaler(image, **{**routing, "budget": None, "budget_ms": None, "force_exit": exit_index})
        for exit_index in (0, -1 + upscaler.num_exits)
    ]
    return hashlib.sha256(b"".join(output.numpy().tobytes() for output in outputs)).hexdigest()
