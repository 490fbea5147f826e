# SPDX-License-Identifier: Apache-2.0
"""Videos, frame by frame: decode, upscale in batches, encode in segments, put together with all that is not pictures.

The result is written segment by segment into a folder beside the target; a segment file is whole or not there. At the
end the segments are joined without encoding anything again. Whatever ends the process, ``resume`` goes on after the
last whole segment.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import io
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from enaf.degradation import resize

if TYPE_CHECKING:
    from enaf.upscaler import Upscaler

READABLE = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".flv")
_CONTAINERS = {".mkv": "matroska", ".mp4": "mp4", ".mov": "mov", ".webm": "webm"}
WRITABLE = tuple(_CONTAINERS)
_CODECS = {"matroska": "libx264", "mp4": "libx264", "mov": "libx264", "webm": "libvpx-vp9"}
_OPTIONS = {
    # The lookahead keeps whole frames: 40, the default, would be 2 GB at 8K.
    "libx264": {"crf": "16", "preset": "medium", "rc-lookahead": "10"},
    "libx265": {"crf": "18", "preset": "medium", "x265-params": "rc-lookahead=10:log-level=error"},
    "libvpx-vp9": {"crf": "24", "b:v": "0", "lag-in-frames": "10", "row-mt": "1"},
}

# AVColorSpace of ISO/IEC 23091-2 to the coefficients that swscale knows by the same numbers; 2 is "unspecified".
_UNSPECIFIED, _BT709, _BT601 = 2, 1, 6
_COEFFICIENTS = {_BT709: 1, 4: 4, 5: 5, _BT601: 5, 7: 7, 9: 9}
_LIMITED, _FULL = 1, 2
_BATCH_PIXELS = 1 << 21
_LARGEST_BATCH = 8


class VideoError(Exception):
    """A video that cannot be read, held or written; the message names the file, the frame where there is one, and what to do."""


@dataclass
class VideoReport:
    """What became of a video.

    Attributes:
        frames: in the result.
        reused: of them, made by an earlier run.
        damaged: what was wrong with the source, where `on_damage` let it pass.
        dropped: streams that the result does not carry (timecode and other data).
    """

    frames: int = 0
    reused: int = 0
    damaged: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether the name is that of a video."""
    return Path(path).suffix.lower() in READABLE


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
    if target.suffix.lower() not in _CONTAINERS:
        raise ValueError(f"target: expected a name that ends in {', '.join(WRITABLE)}, got {target}")
    if on_damage not in ("fail", "keep"):
        raise ValueError(f"on_damage: expected 'fail' or 'keep', got {on_damage!r}")
    if segment_frames < 1:
        raise ValueError(f"segment_frames: expected at least 1, got {segment_frames}")
    container = _CONTAINERS[target.suffix.lower()]
    codec = codec or _CODECS[container]
    options = dict(_OPTIONS.get(codec, {}) if codec_options is None else codec_options)
    routing = dict(routing or {})
    report = VideoReport()

    with _errors_of(source):
        frames = _Frames(source, on_damage == "fail", report)
        first = next(iter(frames), None)
        if first is None:
            raise VideoError(f"{source}: has no frames")
        look = _Look.of(first, frames, source)
        native = upscaler.scale * look.height, upscaler.scale * look.width
        size = native if target_size is None else target_size(look.height, look.width)
        encoder = _Encoder(look, size, codec, options, frames.time_base, frames.rate, source)
        _try_streams(source, container, encoder)

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
    with _errors_of(target):
        segments = _Segments(target, json.dumps(settings, sort_keys=True, default=str), resume)
    batch = max(1, min(_LARGEST_BATCH, _BATCH_PIXELS // (first.height * first.width)))
    with _errors_of(source):
        frames = _Frames(source, on_damage == "fail", report)  # from the first again
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
    with _errors_of(target):
        _join(source, target, container, segments, report, encoder)
    segments.remove()
    return report


# --- decoding ---


class _Frames:
    """The frames of the one video stream of a file, in order; damage is an error that names the frame, or reported.

    Attributes:
        time_base: of the frames' `pts`.
        rate: mean frames per second.
        expected: how many frames the file says it has, or None.
        seconds: where the file says they end, or None.
    """

    def __init__(self, source: Path, strict: bool, report: VideoReport) -> None:
        import av

        self.source, self.strict, self.report = source, strict, report
        with av.open(str(source)) as container:
            stream = _video_stream(container, source)
            self.time_base = stream.time_base or Fraction(1, 1000)
            self.rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            self.expected = stream.frames or None
            self.seconds = _seconds(stream)
            context = stream.codec_context
            self.tags = (context.color_primaries, context.color_trc, context.colorspace, context.color_range)
            self.aspect = stream.sample_aspect_ratio or Fraction(1)

    def __iter__(self) -> Iterator[Any]:
        import av

        self.report.damaged.clear()
        count, read, last = 0, 0, None
        with av.open(str(self.source)) as container:
            stream = _video_stream(container, self.source)
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
            raise VideoError(f"{self.source}: {text}; repair the file, or let it pass with on_damage='keep'")
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
    """The end of a stream by the header, in seconds; Matroska has it in a tag, as H:M:S."""
    if stream.duration is not None:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = (float(part) for part in parts)
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds


def _video_stream(container: Any, source: Path) -> Any:
    import av

    moving = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if len(moving) != 1:
        raise VideoError(f"{source}: expected one video stream, got {len(moving)}; extract the one to upscale first")
    return moving[0]


@dataclass(frozen=True)
class _Look:
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
    def of(cls, frame: Any, frames: _Frames, source: Path) -> _Look:
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

    def tag(self, context: Any) -> None:
        """Says in the header what the colours mean."""
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


# --- upscaling ---


def _upscaled(
    numbered: Iterable[tuple[int, Any]],
    look: _Look,
    encoder: _Encoder,
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
        sr = _resized(upscaler(pixels, **routing), encoder.size)
        for (_, frame), result in zip(chunk, sr.cpu(), strict=True):
            yield encoder.timed(look.to_frame(result), frame)


def _resized(frames: Tensor, size: tuple[int, int]) -> Tensor:
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


# --- encoding, in segments ---


@dataclass(frozen=True)
class _Encoder:
    """How the result is encoded."""

    look: _Look
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


class _Segments:
    """The files of a result in the making, in a folder beside the target.

    Attributes:
        whole: segments that are finished.
    """

    def __init__(self, target: Path, settings: str, resume: bool) -> None:
        target = target.resolve()
        self.folder = target.with_name(f".{target.name}.segments")
        record = self.folder / "settings.json"
        known = record.read_text() if record.exists() else None
        if resume and known is not None and known != settings:
            raise VideoError(
                f"{target}: the segments of the earlier run are of another source or other settings; "
                "repeat those, or start anew without resuming"
            )
        if not resume or known is None:
            self.remove()
            self.folder.mkdir()
            with _whole_file(record) as part:
                part.write_text(settings)
        for part in self.folder.glob("*.part"):
            part.unlink()
        self.whole = next(index for index in itertools.count() if not self.path(index).exists())

    def path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.nut"

    def write(self, index: int, frames: Iterator[Any], encoder: _Encoder) -> int:
        """Encodes frames into a segment, which is there afterwards or not at all; no frames, no segment."""
        import av

        first = next(frames, None)
        if first is None:
            return 0
        count = 0
        path = self.path(index)
        # NUT keeps any time base exactly.
        with _errors_of(path), _whole_file(path) as part, av.open(str(part), "w", format="nut") as container:
            stream = encoder.add_to(container)
            for frame in itertools.chain([first], frames):
                container.mux(stream.encode(frame))
                count += 1
            container.mux(stream.encode(None))
        self.whole = index + 1
        return count

    def packets(self) -> Iterator[Any]:
        """All packets of all segments, in order."""
        import av

        for index in range(self.whole):
            with av.open(str(self.path(index))) as container:
                yield from (packet for packet in container.demux(video=0) if packet.size)

    def remove(self) -> None:
        if self.folder.exists():
            shutil.rmtree(self.folder)


def _join(
    source: Path, target: Path, container: str, segments: _Segments, report: VideoReport, encoder: _Encoder
) -> None:
    """One file from the segments and all other streams of the source."""
    import av

    with _whole_file(target) as part:
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
    source: Any, output: Any, add_video: Callable[[], Any], report: VideoReport, encoder: _Encoder
) -> dict[int, Any]:
    """The streams of the result, the upscaled one first.

    Returns:
        By index in the source, the streams that are copied as they are.
    """
    copies: dict[int, Any] = {}
    report.dropped.clear()
    original = _video_stream(source, encoder.source)
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


_OF_THE_OLD_FILE = ("major_brand", "minor_version", "compatible_brands", "encoder")
_OF_THE_OLD_STREAM = ("encoder", "duration", "bps", "number_of_frames", "number_of_bytes", "vendor_id", "handler_name")


def _try_streams(source: Path, container: str, encoder: _Encoder) -> None:
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


# --- files ---


@contextlib.contextmanager
def _errors_of(source: Path) -> Iterator[None]:
    """Whatever FFmpeg complains about becomes an error that names the file."""
    import av

    try:
        yield
    except FileNotFoundError as error:
        raise VideoError(f"{error.filename or source}: no such file or folder") from error
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"{getattr(error, 'filename', None) or source}: {error.strerror or error}") from error


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """A name to write to; the file takes its place once it is whole and on the disk."""
    path = path.resolve()
    part = path.with_name(f".{path.name}.part" if path.suffix != ".nut" else f"{path.name}.part")
    try:
        yield part
        with open(part, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must survive a power cut
    finally:
        os.close(folder)


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise VideoError(f"{path}: cannot be read: {error.strerror}") from error
