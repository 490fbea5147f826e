# SPDX-License-Identifier: Apache-2.0
"""Segments and all other streams of the source to one file."""

from __future__ import annotations

import heapq
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .decode import video_stream
from .encode import Encoder
from .files import whole_file
from .report import VideoError, VideoReport
from .segments import Segments

_OF_THE_OLD_FILE = ("major_brand", "minor_version", "compatible_brands", "encoder")
_OF_THE_OLD_STREAM = ("encoder", "duration", "bps", "number_of_frames", "number_of_bytes", "vendor_id", "handler_name")


def join(source: Path, target: Path, container: str, segments: Segments, report: VideoReport, encoder: Encoder) -> None:
    """One file from the segments and all other streams of the source."""
    import av

    with whole_file(target) as part:
        with (
            av.open(str(source)) as others,
            av.open(str(segments.path(0))) as first,
            av.open(str(part), "w", format=container) as output,
        ):
            template = first.streams.video[0]
            copies = _add_streams(others, output, lambda: output.add_stream_from_template(template), report, encoder)
            video = output.streams[0]
            wanted = [others.streams[index] for index in copies]
            packets = (packet for packet in others.demux(*wanted) if packet.size) if wanted else ()
            copied = ((packet, copies[packet.stream.index]) for packet in packets)
            pictures = ((packet, video) for packet in segments.packets())
            for packet, stream in heapq.merge(pictures, copied, key=_time):
                packet.stream = stream
                output.mux(packet)
        with av.open(str(part)) as written:  # what a full disk swallowed is noticed before the old file is gone
            frames = sum(1 for packet in written.demux(written.streams.video[0]) if packet.size)
        if frames != report.frames:
            raise VideoError(
                f"{target}: expected {report.frames} frames in the result, got {frames}; nothing was replaced"
            )


def _time(entry: tuple[Any, Any]) -> float:
    packet = entry[0]
    stamp = packet.dts if packet.dts is not None else packet.pts
    return float(stamp * packet.time_base) if stamp is not None else 0.0


def _add_streams(
    source: Any, output: Any, add_video: Callable[[], Any], report: VideoReport, encoder: Encoder
) -> dict[int, Any]:
    """The streams of the result, the upscaled one first.

    Returns:
        By index in the source, the streams that are copied as they are.
    """
    copies: dict[int, Any] = {}
    report.dropped.clear()
    original = video_stream(source, encoder.source)
    video = add_video()
    encoder.look.tag(video.codec_context)  # not every codec keeps this itself
    if encoder.look.rotation is not None:
        video.set_display_matrix(encoder.look.rotation)
    video.metadata.update({k: v for k, v in original.metadata.items() if k.lower() not in _OF_THE_OLD_STREAM})
    video.disposition = original.disposition
    output.metadata.update({k: v for k, v in source.metadata.items() if k not in _OF_THE_OLD_FILE})
    for stream in source.streams:
        if stream.index == original.index:
            continue
        if stream.type == "attachment":
            name = stream.metadata.get("filename", f"attachment-{stream.index}")
            output.add_attachment(name, stream.mimetype or "application/octet-stream", stream.data)
        elif stream.type in ("audio", "subtitle", "video"):
            copy = output.add_stream_from_template(stream)
            copy.metadata.update({k: v for k, v in stream.metadata.items() if k.lower() not in _OF_THE_OLD_STREAM})
            copy.disposition = stream.disposition
            copies[stream.index] = copy
        else:
            report.dropped.append(f"stream {stream.index} ({stream.type})")
    output.set_chapters(source.chapters())
    return copies


def try_streams(source: Path, container: str, encoder: Encoder) -> None:
    """Refuses what the target's format cannot hold, before any work is done."""
    import av

    try:
        with av.open(str(source)) as original, av.open(io.BytesIO(), "w", format=container) as output:
            _add_streams(original, output, lambda: encoder.add_to(output), VideoReport(), encoder)
            output.start_encoding()
    except (av.error.FFmpegError, ValueError) as error:
        with av.open(str(source)) as original:
            kinds = ", ".join(
                f"{s.index}: {s.type} {getattr(s.codec_context, 'name', '')}".strip() for s in original.streams
            )
        raise VideoError(
            f"{source}: {container} cannot hold all of it at {encoder.codec} ({error}; streams {kinds}); "
            "name another kind of target, .mkv takes the most"
        ) from error
