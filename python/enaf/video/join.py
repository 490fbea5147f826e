# SPDX-License-Identifier: Apache-2.0
"""Segments and all other streams of the source to one file."""

from __future__ import annotations

import contextlib
import heapq
import io
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from enaf.whole_file import whole_file

from .containers import WRITABLE, container_of
from .decode import video_stream
from .encode import Encoder
from .report import VideoError, VideoReport
from .segments import Segments
from .subtitles import Converter, converted_codec
from .tags import kept_tags

_WITH_ASPECT = ("libx264", "libx265")
"""Encoders whose pictures themselves say how wide a pixel is."""


def join(
    source: Path, target: Path, segments: Segments, encoder: Encoder, report: VideoReport, strip: Collection[str]
) -> None:
    """One file from the segments and all other streams of the source."""
    import av

    with av.open(str(source)) as others, _verified(target, report.frames) as output, segments.template() as template:
        copies, converters = _add_streams(
            others, output, lambda: output.add_stream_from_template(template), encoder, report, strip
        )
        video = output.streams[0]
        copied = _copied(others, copies, converters)
        pictures = ((packet, video) for packet in segments.packets())
        for packet, stream in heapq.merge(pictures, copied, key=_time):
            packet.stream = stream
            output.mux(packet)


def join_exit_map(target: Path, segments: Segments, encoder: Encoder, frames: int) -> None:
    """One file from the pictures of exits in the segments."""
    with _verified(target, frames) as output, segments.template(1) as template:
        video = output.add_stream_from_template(template)
        encoder.mark(video)
        for packet in segments.packets(1):
            packet.stream = video
            output.mux(packet)


@contextlib.contextmanager
def _verified(target: Path, frames: int) -> Iterator[Any]:
    """A container to write to; it takes the target's place if it holds as many frames as it should."""
    import av

    with whole_file(target) as part:
        with av.open(str(part), "w", format=container_of(target.suffix)) as output:
            yield output
        with av.open(str(part)) as written:  # what a full disk swallowed is noticed before the old file is gone
            found = sum(1 for packet in written.demux(written.streams.video[0]) if packet.size)
        if found != frames:
            raise VideoError(f"{target}: expected {frames} frames in the result, got {found}; nothing was replaced")


def _copied(source: Any, copies: dict[int, Any], converters: dict[int, Converter]) -> Iterator[tuple[Any, Any]]:
    """Every packet that comes along, in its new format where that changes, and its stream in the result."""
    wanted = [source.streams[index] for index in copies]
    for packet in source.demux(*wanted) if wanted else ():
        index = packet.stream.index
        if not packet.size or _is_gap(packet):
            continue
        converted = converters[index](packet) if index in converters else packet
        if converted.size:  # else it was nothing but styles
            yield converted, copies[index]


def _is_gap(packet: Any) -> bool:
    """Whether it is the silence between two subtitles of MP4, which is written again by itself."""
    return packet.size == 2 and packet.stream.type == "subtitle" and packet.stream.codec_context.name == "mov_text"


def _time(entry: tuple[Any, Any]) -> float:
    packet = entry[0]
    stamp = packet.dts if packet.dts is not None else packet.pts
    return float(stamp * packet.time_base) if stamp is not None else 0.0


def _add_streams(
    source: Any,
    output: Any,
    add_video: Callable[[], Any],
    encoder: Encoder,
    report: VideoReport,
    strip: Collection[str],
) -> tuple[dict[int, Any], dict[int, Converter]]:
    """The streams of the result, the upscaled one first.

    Returns:
        By index in the source, the streams that come along, and of them those that change their format.
    """
    copies: dict[int, Any] = {}
    converters: dict[int, Converter] = {}
    report.dropped.clear()
    report.converted.clear()
    original = video_stream(source, encoder.source)
    video = add_video()
    encoder.mark(video)
    video.metadata.update(_stream_tags(original, strip))
    video.disposition = original.disposition
    output.metadata.update(kept_tags(source.metadata, strip))
    for stream in source.streams:
        if stream.index == original.index:
            continue
        if stream.type == "attachment":
            name = stream.metadata.get("filename", f"attachment-{stream.index}")
            output.add_attachment(name, stream.mimetype or "application/octet-stream", stream.data)
        elif stream.type in ("audio", "subtitle", "video"):
            codec = converted_codec(stream, output.format.name) if stream.type == "subtitle" else None
            if codec is None:
                copy = output.add_stream_from_template(stream)
            else:
                converters[stream.index] = Converter(stream, output, codec)
                copy = converters[stream.index].stream
                report.converted.append(f"stream {stream.index} (subtitle) became {codec}")
            copy.metadata.update(_stream_tags(stream, strip))
            copy.disposition = stream.disposition
            copies[stream.index] = copy
        elif not _is_chapters(stream, source):
            report.dropped.append(f"stream {stream.index} ({stream.type})")
    output.set_chapters(
        [{**chapter, "metadata": kept_tags(chapter["metadata"], strip)} for chapter in source.chapters()]
    )
    return copies, converters


def _is_chapters(stream: Any, source: Any) -> bool:
    """Whether it is the track in which MP4 keeps the titles of its chapters, which come along as such."""
    return stream.name == "bin_data" and 0 < stream.frames == len(source.chapters())


def _stream_tags(stream: Any, strip: Collection[str]) -> dict[str, str]:
    """What is kept; a title is read from MP4 as "name", and only written as "title"."""
    tags = {"title" if name == "name" else name: value for name, value in stream.metadata.items()}
    return kept_tags(tags, strip)


def try_streams(source: Path, target: Path, encoder: Encoder, strip: Collection[str]) -> None:
    """Refuses what the target's format cannot hold, before any work is done."""
    import av

    error = _refusal(source, target.suffix, encoder, strip)
    if error is None:
        return
    with av.open(str(source)) as original:
        kinds = ", ".join(
            f"{s.index}: {s.type} {getattr(s.codec_context, 'name', '')}".strip() for s in original.streams
        )
    others = [suffix for suffix in WRITABLE if _refusal(source, suffix, encoder, strip) is None]
    raise VideoError(
        f"{source}: {container_of(target.suffix)} cannot hold all of it at {encoder.codec} ({error}; streams {kinds}); "
        + (f"name a target that ends in {', '.join(others)}" if others else "no other target can")
    ) from error


def _refusal(source: Path, suffix: str, encoder: Encoder, strip: Collection[str]) -> Exception | None:
    """Why a file with this suffix could not hold the result."""
    import av

    in_pictures_alone = container_of(suffix) in ("matroska", "webm")  # as PyAV writes them
    if encoder.look.aspect != 1 and in_pictures_alone and encoder.codec not in _WITH_ASPECT:
        return ValueError(f"its pixels' aspect of {encoder.look.aspect} would be lost")
    try:
        with av.open(str(source)) as original, av.open(io.BytesIO(), "w", format=container_of(suffix)) as output:
            _add_streams(original, output, lambda: encoder.add_to(output), encoder, VideoReport(), strip)
            output.start_encoding()
    except (av.error.FFmpegError, ValueError) as error:
        return error
    return None
