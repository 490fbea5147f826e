# SPDX-License-Identifier: Apache-2.0
"""The flow of one video: decoded, upscaled in batches, encoded in segments, joined."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from enaf.degradation import resize

from .containers import CONTAINERS, WRITABLE
from .decode import Frames
from .encode import CODECS, OPTIONS, Encoder
from .files import errors_of
from .join import join, try_streams
from .look import Look
from .report import VideoError, VideoReport
from .segments import Segments

if TYPE_CHECKING:
    from enaf.upscaler import Upscaler


_BATCH_PIXELS = 1 << 21
_LARGEST_BATCH = 8


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
    resume: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> VideoReport:
    """Upscales a video; everything else in it comes along.

    Kept: the time of every frame (also where the rate varies; Matroska rounds it to its milliseconds), depth and
    chroma format, colour tags, pixel aspect, rotation, audio, subtitles, attachments, chapters, titles and languages.
    Colours are converted with the source's matrix and range, and back with the same. A source that does not name its
    matrix is taken as BT.601 below 720 lines and BT.709 from there on, as players do, and the result names it, because at
    its new size players would guess otherwise.

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
    if target.suffix.lower() not in CONTAINERS:
        raise ValueError(f"target: expected a name that ends in {', '.join(WRITABLE)}, got {target}")
    if on_damage not in ("fail", "keep"):
        raise ValueError(f"on_damage: expected 'fail' or 'keep', got {on_damage!r}")
    if segment_frames < 1:
        raise ValueError(f"segment_frames: expected at least 1, got {segment_frames}")
    container = CONTAINERS[target.suffix.lower()]
    codec = codec or CODECS[container]
    options = dict(OPTIONS.get(codec, {}) if codec_options is None else codec_options)
    routing = dict(routing or {})
    report = VideoReport()

    with errors_of(source):
        frames = Frames(source, on_damage == "fail", report)
        first = next(iter(frames), None)
        if first is None:
            raise VideoError(f"{source}: has no frames")
        look = Look.of(first, frames, source)
        native = upscaler.scale * look.height, upscaler.scale * look.width
        size = native if target_size is None else target_size(look.height, look.width)
        encoder = Encoder(look, size, codec, options, frames.time_base, frames.rate, source)
        try_streams(source, container, encoder)

    settings = {
        "source": _sha256(source),
        "routing": routing,
        "network": _fingerprint(upscaler, routing),
        "size": size,
        "codec": codec,
        "options": options,
        "segment_frames": segment_frames,
        "on_damage": on_damage,
    }
    with errors_of(target):
        segments = Segments(target, json.dumps(settings, sort_keys=True, default=str), resume)
    batch = max(1, min(_LARGEST_BATCH, _BATCH_PIXELS // (first.height * first.width)))
    with errors_of(source):
        frames = Frames(source, on_damage == "fail", report)  # from the first again
        numbered = enumerate(frames)
        for index in itertools.count():
            part = itertools.islice(numbered, segment_frames)
            if index < segments.whole:
                count = sum(1 for _ in part)  # decoded for the sake of what follows, not upscaled
                report.reused += count
            else:
                upscaled = _upscaled(part, look, encoder, upscaler, routing, device, batch, source)
                count = segments.write(index, upscaled, encoder)
            report.frames += count
            if progress is not None and count > 0:
                progress(report.frames, frames.expected)
            if count < segment_frames:
                break
    with errors_of(target):
        join(source, target, container, segments, report, encoder)
    segments.remove()
    return report


def _upscaled(
    numbered: Iterable[tuple[int, Any]],
    look: Look,
    encoder: Encoder,
    upscaler: Upscaler,
    routing: Mapping[str, Any],
    device: str,
    batch: int,
    source: Path,
) -> Iterator[Any]:
    """Frames to encode, upscaled `batch` at a time, so that patches of neighbouring frames share the network's batches."""
    numbered = iter(numbered)
    while chunk := list(itertools.islice(numbered, batch)):
        for number, frame in chunk:
            kind = (frame.width, frame.height, frame.format.name.replace("yuvj", "yuv"))
            if kind != (look.width, look.height, look.pixel_format):
                expected = f"{look.width}x{look.height} {look.pixel_format} as before"
                raise VideoError(f"{source}: frame {number}: expected {expected}, got {kind[0]}x{kind[1]} {kind[2]}")
        pixels = torch.stack([look.to_rgb(frame) for _, frame in chunk]).to(device)
        sr = resized(upscaler(pixels, **routing), encoder.size)
        for (_, frame), result in zip(chunk, sr.cpu(), strict=True):
            yield encoder.timed(look.to_frame(result), frame)


def resized(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames (B, 3, H, W) of 8 or 16 bits at another height and width, antialiased."""
    if tuple(frames.shape[-2:]) == size:
        return frames
    if frames.dtype == torch.uint8:
        return resize(frames, *size)
    return resize(frames.float(), *size).round_().clamp_(0, 65535).int().to(torch.uint16)


def _fingerprint(upscaler: Upscaler, routing: Mapping[str, Any]) -> str:
    """What the network makes of a small fixed image: another network, another fingerprint."""
    ramp = torch.arange(3 * 48 * 64).view(3, 48, 64)
    image = ((ramp * 37) % 251 * (ramp % 64) // 64).to(torch.uint8)
    outputs = [
        upscaler(image, **{**routing, "budget": None, "budget_ms": None, "force_exit": exit_index})
        for exit_index in (0, -1 + upscaler.num_exits)
    ]
    return hashlib.sha256(b"".join(output.numpy().tobytes() for output in outputs)).hexdigest()


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise VideoError(f"{path}: cannot be read: {error.strerror}") from error
