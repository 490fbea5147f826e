# SPDX-License-Identifier: Apache-2.0
"""Videos: every frame once and at its time, colours as they were, all other streams along, whatever ends the process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from enaf.cli import main
from enaf.exit_map import draw_exit_map
from enaf.upscaler import Upscaler
from enaf.video import VideoError, is_video, upscale_video
from enaf.video import run as video_run
from enaf.video.encode import _OPTIONS
from enaf.video.tags import kept_tags
from enaf.video.upscale import resized
from enaf_ext.grid import PatchGrid

av = pytest.importorskip("av")

BARS = [
    (235, 235, 235),
    (220, 220, 20),
    (20, 220, 220),
    (20, 200, 20),
    (220, 20, 220),
    (220, 20, 20),
    (20, 20, 220),
    (20, 20, 20),
]
MILLISECOND = Fraction(1, 1000)
NOISE = [np.random.default_rng(index).integers(0, 256, (96, 160, 3), dtype=np.uint8) for index in range(10)]


@dataclass
class Enlarger:
    """Stands for the network: repeats pixels, and remembers what it was called with."""

    scale: int = 2
    num_exits: int = 4
    brightness: int = 0
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    exit_maps: list[torch.Tensor] = field(default_factory=list)

    def __call__(self, image: torch.Tensor, return_info: bool = False, **routing: Any) -> Any:
        if image.dim() == 4:
            self.shapes.append(tuple(image.shape))
        large = image.repeat_interleave(self.scale, -1).repeat_interleave(self.scale, -2)
        large = large + self.brightness if self.brightness else large
        if not return_info:
            return large
        grid = PatchGrid(*image.shape[-2:], 32, 4)
        numbers = torch.arange(grid.rows * grid.cols).view(1, grid.rows, grid.cols)
        exit_index = (numbers + image.float().mean((1, 2, 3)).long().view(-1, 1, 1)) % self.num_exits
        self.exit_maps += list(exit_index)
        cost = {"paper": 0.5, "macs": float(image.float().mean()), "ms": 1.0}
        return large, SimpleNamespace(exit_index=exit_index, grid=grid, eta=1.0, cost=cost)


def bars(height: int = 32, width: int = 64) -> np.ndarray:
    return np.repeat(np.repeat(np.array(BARS, np.uint8)[None], width // 8, 1), height, 0)


def make_video(
    path: Path, pictures: list[np.ndarray] | None = None, times: list[int] | None = None, *, codec: str = "libx264",
    pixel_format: str = "yuv420p", matrix: int = 6, color_range: int = 1, audio: bool = False, subtitles: bool = False,
    attachment: bool = False, rotation: int = 0, aspect: Fraction = Fraction(1), options: dict[str, str] | None = None,
) -> None:  # fmt: skip
    """A video of `pictures` (H, W, 3) uint8 shown at `times` in milliseconds."""
    pictures = [np.roll(bars(), index, 1) for index in range(10)] if pictures is None else pictures
    times = [40 * index for index in range(len(pictures))] if times is None else times
    coefficients = {6: 5, 2: 5}.get(matrix, matrix)
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "A title"
        stream = container.add_stream(codec, rate=25, options={"crf": "10"} if options is None else options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixel_format
        context = stream.codec_context
        tick = Fraction(1, 25) if path.suffix in (".avi", ".mpg") else MILLISECOND  # these count frames
        stream.time_base = context.time_base = tick
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = matrix, color_range, 9, 16
        context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        sound = container.add_stream("aac", rate=44100) if audio else None
        if subtitles:
            container.add_mux_stream("srt")  # empty, but there
        if attachment:
            container.add_attachment("font.ttf", "font/ttf", b"a font")
        for picture, at in zip(pictures, times, strict=True):
            rgb = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = rgb.reformat(
                format=pixel_format, src_colorspace=coefficients, dst_colorspace=coefficients, src_color_range=2,
                dst_color_range=color_range,
            )  # fmt: skip
            frame.pts, frame.time_base = int(at * MILLISECOND / tick), tick
            frame.colorspace, frame.color_range = matrix, color_range
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            for index in range(times[-1] * 44100 // 1000 // 1024):
                tone = np.sin(np.arange(1024, dtype=np.float32) * 0.05)[None]
                samples = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
                samples.sample_rate, samples.pts, samples.time_base = 44100, 1024 * index, Fraction(1, 44100)
                container.mux(sound.encode(samples))
            container.mux(sound.encode(None))


TAGS = {
    "title": "A title",
    "artist": "Somebody",
    "creation_time": "2024-05-06T07:08:09.000000Z",
    "location": "+52.5200+013.4050/",
}
CHAPTERS = [(0, 200, "Beginning"), (200, 400, "End")]
TEXTS = [(0, 150, "¡Hola!"), (200, 180, "Adiós")]


def make_rich_video(path: Path) -> None:
    """A video with all that may stand beside pictures: a kind, a language and a title for each stream, chapters, tags."""
    plain = path.suffix == ".mkv"
    with av.open(str(path), "w") as container:
        container.metadata.update(TAGS)
        video = container.add_stream("libx264", rate=25, options={"crf": "10"})
        video.height, video.width, video.pix_fmt = 32, 64, "yuv420p"
        audio = container.add_stream("aac", rate=44100)
        text = container.add_mux_stream("subrip" if plain else "mov_text")
        for stream, language, title in ((video, "ger", "Bild"), (audio, "eng", "Commentary"), (text, "spa", "Letras")):
            stream.time_base = MILLISECOND
            stream.metadata.update({"language": language, "title": title})
        if plain:
            container.add_attachment("font.ttf", "font/ttf", b"a font")
        container.set_chapters(
            [
                {"id": number, "start": start, "end": end, "time_base": MILLISECOND, "metadata": {"title": title}}
                for number, (start, end, title) in enumerate(CHAPTERS, 1)
            ]
        )
        for index in range(10):
            frame = av.VideoFrame.from_ndarray(np.roll(bars(), index, 1), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = 40 * index, MILLISECOND
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for start, duration, words in TEXTS:
            data = words.encode()
            packet = av.Packet(data if plain else len(data).to_bytes(2, "big") + data)
            packet.stream, packet.pts, packet.dts, packet.duration = text, start, start, duration
            packet.time_base = MILLISECOND
            container.mux(packet)
        for index in range(16):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            samples.sample_rate, samples.pts, samples.time_base = 44100, 1024 * index, Fraction(1, 44100)
            container.mux(audio.encode(samples))
        container.mux(audio.encode(None))


def tags_of(path: Path) -> dict[str, str]:
    with av.open(str(path)) as container:
        return {name.lower(): value for name, value in container.metadata.items()}


def streams_of(path: Path) -> list[tuple[str, str | None, str | None]]:
    """Kind, language and title of every stream; MP4 calls a stream's title its name."""
    with av.open(str(path)) as container:
        return [
            (stream.type, stream.metadata.get("language"), stream.metadata.get("title", stream.metadata.get("name")))
            for stream in container.streams
            if stream.type != "data"
        ]


def chapters_of(path: Path) -> list[tuple[int, int, str | None]]:
    with av.open(str(path)) as container:
        return [
            (
                *(int(1000 * chapter[at] * chapter["time_base"]) for at in ("start", "end")),
                chapter["metadata"].get("title"),
            )
            for chapter in container.chapters()
        ]


def texts_of(path: Path) -> list[tuple[int, int, str]]:
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(subtitles=0) if packet.size]
        prefix = 2 if container.streams.subtitles[0].codec_context.name == "mov_text" else 0
        return [
            (int(1000 * packet.pts * packet.time_base), int(1000 * packet.duration * packet.time_base), text)
            for packet in packets
            if (text := bytes(packet)[prefix:].decode())
        ]


def frames_of(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def times_of(path: Path) -> list[float]:
    return [round(float(frame.pts * frame.time_base), 3) for frame in frames_of(path)]


def packets_of(path: Path, kind: str) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(**{kind: 0}) if packet.size]


def planes(frame: Any) -> list[np.ndarray]:
    """Samples of every plane, without the padding of its rows."""
    dtype = np.uint16 if frame.format.components[0].bits > 8 else np.uint8
    rows = [np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes]
    return [plane.astype(int) for plane in rows]


def test_everything_comes_along(tmp_path: Path) -> None:
    times = [0, 40, 95, 120, 200, 240, 260, 330, 360, 401]
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    make_video(
        source, times=times, audio=True, attachment=True, rotation=90, aspect=Fraction(4, 3), matrix=9, color_range=2
    )
    report = upscale_video(source, target, Enlarger(), segment_frames=4)
    assert (report.frames, report.reused, report.damaged, report.dropped) == (10, 0, [], [])
    assert times_of(target) == [time / 1000 for time in times]
    old, new = frames_of(source)[0], frames_of(target)[0]
    assert (new.width, new.height) == (128, 64)
    for name in ("colorspace", "color_range", "color_primaries", "color_trc", "rotation"):
        assert getattr(new, name) == getattr(old, name) != 0, name
    assert new.format.name == old.format.name
    with av.open(str(target)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio", "attachment"]
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
        assert container.metadata["title"] == "A title"
        assert container.streams[2].data == b"a font"
        assert container.streams[2].metadata["filename"] == "font.ttf"
    assert packets_of(target, "audio") == packets_of(source, "audio")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mkv", "out.mkv"]


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov"])
def test_texts_chapters_titles_and_languages_come_along(tmp_path: Path, suffix: str) -> None:
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    make_rich_video(source)
    report = upscale_video(source, target, Enlarger(), segment_frames=4)
    assert report.dropped == []  # the track of the chapters' titles is none of its own
    assert texts_of(target) == texts_of(source) == TEXTS
    assert packets_of(target, "subtitles") == packets_of(source, "subtitles")
    assert chapters_of(target) == chapters_of(source) == CHAPTERS
    expected = [("video", "ger", "Bild"), ("audio", "eng", "Commentary"), ("subtitle", "spa", "Letras")]
    assert streams_of(target)[:3] == streams_of(source)[:3] == expected
    assert TAGS.items() <= tags_of(target).items()
    if suffix == ".mkv":
        with av.open(str(target)) as container:
            assert container.streams[3].data == b"a font"
            assert container.streams[3].metadata["filename"] == "font.ttf"


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("strip", [("icc", "resolution"), ("exif",), ("xmp",), ("icc", "exif", "xmp", "resolution")])
def test_tags_are_stripped_and_nothing_else(tmp_path: Path, suffix: str, strip: tuple[str, ...]) -> None:
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    make_rich_video(source)
    upscale_video(source, target, Enlarger(), strip=strip)
    written, noted = {"title", "artist"}, {"creation_time", "location"}
    gone = (written if "xmp" in strip else set()) | (noted if "exif" in strip else set())
    assert tags_of(target).keys() & TAGS.keys() == TAGS.keys() - gone
    with_titles = "xmp" not in strip
    titles = ("Bild", "Commentary", "Letras") if with_titles else (None, None, None)
    expected = list(zip(("video", "audio", "subtitle"), ("ger", "eng", "spa"), titles, strict=True))
    assert streams_of(target)[:3] == expected
    with av.open(str(target)) as container:
        assert any("creation_time" in stream.metadata for stream in container.streams) == (
            suffix == ".mp4" and "exif" not in strip
        )
    assert [chapter[:2] for chapter in chapters_of(target)] == [chapter[:2] for chapter in CHAPTERS]
    assert all((title is not None and title != "") == with_titles for *_, title in chapters_of(target))
    assert texts_of(target) == TEXTS
    assert frames_of(target)[0].colorspace == 6


def test_what_is_written_and_what_is_noted() -> None:
    tags = {
        "ENCODER": "x", "_STATISTICS_TAGS": "x", "BPS-eng": "x", "language": "ger", "stereo_mode": "left_right",
        "title-eng": "t", "com.apple.quicktime.title": "t", "COPYRIGHT": "c",
        "com.apple.quicktime.location.ISO6709": "+1+1/", "com.android.version": "14", "make": "Maker", "odd": "?",
    }  # fmt: skip
    look = ["language", "stereo_mode"]
    assert list(kept_tags(tags)) == [*look, "title-eng", "com.apple.quicktime.title", "COPYRIGHT", *list(tags)[8:]]
    assert list(kept_tags(tags, ("exif",))) == [*look, "title-eng", "com.apple.quicktime.title", "COPYRIGHT"]
    assert list(kept_tags(tags, ("xmp",))) == [*look, *list(tags)[8:]]
    assert list(kept_tags(tags, ("exif", "xmp"))) == look


# --- exit maps ---


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".webm"])
def test_the_exit_map_is_a_second_video(tmp_path: Path, suffix: str) -> None:
    times = [0, 40, 95, 120, 200, 240, 260, 330, 360, 401]
    source, target, exit_map = tmp_path / "in.mkv", tmp_path / "out.mkv", tmp_path / f"map{suffix}"
    pictures = [np.full((75, 301, 3), 25 * index, np.uint8) for index in range(10)]
    make_video(source, pictures, times, audio=True, rotation=90, aspect=Fraction(4, 3), pixel_format="yuv444p10le")
    enlarger = Enlarger()
    upscale_video(source, target, enlarger, segment_frames=4, exit_map=exit_map)
    assert times_of(exit_map) == times_of(target) == [time / 1000 for time in times]
    with av.open(str(exit_map)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert container.streams.video[0].sample_aspect_ratio == (1 if suffix == ".webm" else Fraction(4, 3))
    assert len({tuple(exit_index.flatten().tolist()) for exit_index in enlarger.exit_maps}) > 1
    videos = frames_of(source), frames_of(target), frames_of(exit_map)
    for old, new, drawn, exit_index in zip(*videos, enlarger.exit_maps, strict=True):
        assert drawn.rotation == new.rotation == old.rotation != 0
        sr = torch.from_numpy(new.to_ndarray(format="rgb24")).permute(2, 0, 1)
        expected = draw_exit_map(sr, exit_index, PatchGrid(75, 301, 32, 4), 4).permute(1, 2, 0)
        height, width = expected.shape[:2]
        assert (drawn.height, drawn.width) == (height + height % 2, width + width % 2)
        shown = torch.from_numpy(drawn.to_ndarray(format="rgb24"))[:height, :width]
        assert (shown.float() - expected).abs().mean() < 4


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".webm"])
def test_other_containers(tmp_path: Path, suffix: str) -> None:
    make_video(tmp_path / "in.mp4", audio=suffix != ".webm")
    report = upscale_video(tmp_path / "in.mp4", tmp_path / f"out{suffix}", Enlarger(), segment_frames=3)
    assert report.frames == 10
    assert times_of(tmp_path / f"out{suffix}") == times_of(tmp_path / "in.mp4")


def rate_of(path: Path) -> Fraction:
    with av.open(str(path)) as container:
        return Fraction(container.streams.video[0].average_rate)


@pytest.mark.parametrize("rate", [Fraction(24), Fraction(30000, 1001)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_the_rate_is_that_of_the_source(tmp_path: Path, suffix: str, rate: Fraction) -> None:
    source = tmp_path / f"in{suffix}"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        for index in range(20):
            frame = av.VideoFrame.from_ndarray(np.roll(bars(), index, 1), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for target in (tmp_path / "out.mkv", tmp_path / "out.mp4", tmp_path / "out.webm"):
        upscale_video(source, target, Enlarger(), segment_frames=7, exit_map=tmp_path / "exits.mkv")
        # Matroska's times are milliseconds, and MP4 has no rate beside its times.
        assert float(rate_of(target)) == pytest.approx(float(rate), rel=2e-3 if target.suffix == ".mp4" else 0)
        assert times_of(target) == pytest.approx(times_of(source), abs=2e-3)
    assert rate_of(tmp_path / "exits.mkv") == rate


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_rate_that_varies_keeps_its_times(tmp_path: Path, suffix: str) -> None:
    times = [0, 40, 100, 110, 300, 340, 380, 500, 600, 700]
    make_video(tmp_path / f"in{suffix}", times=times)
    upscale_video(tmp_path / f"in{suffix}", tmp_path / "out.mkv", Enlarger(), segment_frames=3)
    assert times_of(tmp_path / "out.mkv") == [time / 1000 for time in times]
    assert rate_of(tmp_path / "out.mkv") == pytest.approx(rate_of(tmp_path / f"in{suffix}"), rel=1e-6)


@pytest.mark.parametrize(
    ("suffix", "codec", "options"),
    [
        (".avi", "libx264", {}),
        (".avi", "mpeg4", {"bf": "2"}),
        (".mpg", "mpeg2video", {"bf": "2"}),
        (".ts", "libx264", {}),
        (".flv", "libx264", {}),
    ],
)
def test_sources_that_give_few_frames_a_time(tmp_path: Path, suffix: str, codec: str, options: dict[str, str]) -> None:
    make_video(tmp_path / f"in{suffix}", codec=codec, options=options)
    report = upscale_video(tmp_path / f"in{suffix}", tmp_path / "out.mkv", Enlarger())
    assert report.frames == 10
    times = times_of(tmp_path / "out.mkv")
    assert np.diff(times) == pytest.approx([0.04] * 9, abs=0.002)


@pytest.mark.parametrize("color_range", [1, 2])
@pytest.mark.parametrize("matrix", [1, 6, 9, 2])
@pytest.mark.parametrize("pixel_format", ["yuv444p", "yuv444p10le", "yuv420p", "yuv420p10le"])
def test_colours_survive(tmp_path: Path, pixel_format: str, matrix: int, color_range: int) -> None:
    """At scale 1 the samples come back; with another matrix or range on one of the ways they would be far off."""
    deep = "10" in pixel_format
    seen: list[torch.Tensor] = []

    class Identity(Enlarger):
        def __call__(self, image: torch.Tensor, **routing: Any) -> Any:
            seen.append(image)
            return super().__call__(image, **routing)

    lossless: dict[str, Any] = {"codec": "ffv1", "options": {}}
    wide = np.repeat(bars(32, 64), 4, 1)
    make_video(
        tmp_path / "in.mkv", [wide] * 2, pixel_format=pixel_format, matrix=matrix, color_range=color_range, **lossless
    )
    upscale_video(tmp_path / "in.mkv", tmp_path / "out.mkv", Identity(scale=1), codec="ffv1")
    old, new = frames_of(tmp_path / "in.mkv")[0], frames_of(tmp_path / "out.mkv")[0]
    assert new.format.name == pixel_format
    assert (new.colorspace, new.color_range) == ({2: 6}.get(matrix, matrix), color_range)
    centres = slice(16, None, 32) if "444" in pixel_format else slice(8, None, 16)  # chroma bleeds at the bars' edges
    for number, (before, after) in enumerate(zip(planes(old), planes(new), strict=True)):
        middle = slice(16, None, 32) if number == 0 else centres
        assert np.abs(before[:, middle] - after[:, middle]).max() <= (4 if deep else 1)
    rgb = seen[-1][0].permute(1, 2, 0).float() / (257 if deep else 1)
    assert rgb.dtype == torch.float32
    assert seen[-1].dtype == (torch.uint16 if deep else torch.uint8)
    assert np.abs(rgb.numpy()[16, 16::32] - np.array(BARS)).max() <= 2


def test_a_matrix_that_is_not_named_is_named_by_its_old_size(tmp_path: Path) -> None:
    make_video(tmp_path / "in.mkv", [bars(360, 64)] * 2, matrix=2)
    assert frames_of(tmp_path / "in.mkv")[0].colorspace == 2
    upscale_video(tmp_path / "in.mkv", tmp_path / "out.mkv", Enlarger())
    assert frames_of(tmp_path / "out.mkv")[0].colorspace == 6  # at 720 lines a player would guess BT.709


def test_the_network_itself(tmp_path: Path) -> None:
    make_video(tmp_path / "in.mkv")
    upscaler = Upscaler()
    report = upscale_video(tmp_path / "in.mkv", tmp_path / "out.mkv", upscaler, routing={"eta": 0.3}, codec="ffv1")
    exact = 4 | 8192 | 16384 | 262144  # bicubic, chroma interpolated and not dropped, rounded
    rgb = frames_of(tmp_path / "in.mkv")[3].reformat(
        format="rgb24", src_colorspace=5, dst_colorspace=5, src_color_range=1, dst_color_range=2, interpolation=exact
    )
    sr, info = upscaler(torch.from_numpy(rgb.to_ndarray()).permute(2, 0, 1), eta=0.3, return_info=True)
    expected = sr.permute(1, 2, 0).numpy()
    assert sum(report.tally.exits) == 10 * info.exit_index.numel()
    assert report.tally.eta == 0.3
    assert report.tally.cost.keys() == info.cost.keys()
    luma = 16 + expected @ np.array([65.481, 128.553, 24.966]) / 255
    assert np.abs(planes(frames_of(tmp_path / "out.mkv")[3])[0] - luma).mean() < 0.6


def test_frames_share_batches_of_bounded_size(tmp_path: Path) -> None:
    make_video(tmp_path / "in.mkv")
    enlarger = Enlarger()
    seen: list[tuple[int, int | None]] = []
    upscale_video(
        tmp_path / "in.mkv", tmp_path / "out.mkv", enlarger, progress=lambda *done: seen.append(done), segment_frames=9
    )
    assert enlarger.shapes == [(8, 3, 32, 64), (1, 3, 32, 64), (1, 3, 32, 64)]
    assert [done for done, _ in seen] == [9, 10]


# --- crashes ---

SCRIPT = """
import sys
sys.path[:0] = [{tests!r}]
from test_video import Enlarger
from enaf.video import upscale_video
import time
class Slow(Enlarger):
    def __call__(self, image, **routing):
        if image.dim() == 4:
            time.sleep(0.15)
        return super().__call__(image, **routing)
upscale_video({source!r}, {target!r}, Slow(), segment_frames=2, resume=True, exit_map={exit_map!r})
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_and_doubles_nothing(tmp_path: Path) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    make_video(source, [np.roll(bars(), index, 1) for index in range(25)], audio=True)
    upscale_video(source, tmp_path / "whole.mkv", Enlarger(), segment_frames=2)
    exit_map = tmp_path / "map.mkv"
    paths = {"source": str(source), "target": str(target), "exit_map": str(exit_map)}
    script = SCRIPT.format(tests=str(Path(__file__).parent), **paths)
    segments = tmp_path / ".out.mkv.segments"
    kills = 0
    while True:
        process = subprocess.Popen([sys.executable, "-c", script])
        before = len(list(segments.glob("*.nut")))
        while process.poll() is None and len(list(segments.glob("*.nut"))) < before + 3:
            time.sleep(0.01)
        if process.poll() is not None:
            break
        time.sleep(0.05 * kills)  # somewhere else in the segment each time
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        assert not target.exists()
        assert not exit_map.exists()
    assert process.returncode == 0
    assert kills >= 2
    assert times_of(target) == times_of(exit_map) == times_of(source)
    assert packets_of(target, "video") == packets_of(tmp_path / "whole.mkv", "video")
    assert packets_of(target, "audio") == packets_of(source, "audio")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mkv", "map.mkv", "out.mkv", "whole.mkv"]


FULL = """
import resource, signal, sys
sys.path[:0] = [{tests!r}]
from test_video import Enlarger
from enaf.video import VideoError, upscale_video
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    upscale_video({source!r}, {target!r}, Enlarger(), segment_frames=2)
except VideoError as error:
    sys.exit(str(error))
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [2_000, 15_000])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, limit: int) -> None:
    """As large as a file may grow: less than a segment, or less than the result."""
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    make_video(source, NOISE[:6], audio=True)
    target.write_bytes(b"the old file")
    script = FULL.format(tests=str(Path(__file__).parent), source=str(source), target=str(target), limit=limit)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stderr
    assert ".mkv" in done.stderr
    assert target.read_bytes() == b"the old file"
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".part"]
    report = upscale_video(source, target, Enlarger(), segment_frames=2, resume=True)
    assert report.frames == 6
    assert times_of(target) == times_of(source)


@pytest.fixture
def repeatable_x264(monkeypatch: pytest.MonkeyPatch) -> None:
    """With AVX-512, x264's macroblock tree gives other bytes for the same frames in about 1 of 100 runs."""
    monkeypatch.setitem(_OPTIONS, "libx264", {**_OPTIONS["libx264"], "x264-params": "mbtree=0"})


def broken_off(source: Path, target: Path, after: int, **options: Any) -> None:
    """A run that fails at a batch."""

    class Failing(Enlarger):
        def __call__(self, image: torch.Tensor, **routing: Any) -> Any:
            if len(self.shapes) == after:
                raise RuntimeError("out of luck")
            return super().__call__(image, **routing)

    with pytest.raises(RuntimeError, match="out of luck"):
        upscale_video(source, target, Failing(), segment_frames=2, **options)


@pytest.mark.usefixtures("repeatable_x264")
def test_resuming_does_only_what_is_left(tmp_path: Path) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    make_video(source)
    target.write_bytes(b"the old file")
    broken_off(source, target, after=3)
    assert target.read_bytes() == b"the old file"
    (tmp_path / ".out.mkv.segments" / "000003.nut.part").write_bytes(b"torn")
    enlarger = Enlarger()
    report = upscale_video(source, target, enlarger, segment_frames=2, resume=True)
    assert (report.frames, report.reused) == (10, 6)
    assert [shape[0] for shape in enlarger.shapes] == [2, 2]
    whole = upscale_video(source, tmp_path / "whole.mkv", Enlarger(), segment_frames=2)
    assert report.tally == whole.tally
    assert report.tally.images == 10
    assert packets_of(target, "video") == packets_of(tmp_path / "whole.mkv", "video")


@pytest.mark.usefixtures("repeatable_x264")
def test_resuming_goes_on_with_both_videos(tmp_path: Path) -> None:
    source, target, exit_map = tmp_path / "in.mkv", tmp_path / "out.mkv", tmp_path / "map.mkv"
    make_video(source)
    broken_off(source, target, after=3, exit_map=exit_map)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.mkv.segments", "in.mkv"]
    report = upscale_video(source, target, Enlarger(), segment_frames=2, resume=True, exit_map=exit_map)
    assert (report.frames, report.reused) == (10, 6)
    whole = tmp_path / "whole.mkv", tmp_path / "whole-map.mkv"
    upscale_video(source, whole[0], Enlarger(), segment_frames=2, exit_map=whole[1])
    for made, expected in zip((target, exit_map), whole, strict=True):
        assert packets_of(made, "video") == packets_of(expected, "video")
        assert times_of(made) == times_of(source)


def test_a_stop_between_the_two_videos_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target, exit_map = tmp_path / "in.mkv", tmp_path / "out.mkv", tmp_path / "map.mkv"
    make_video(source)
    exit_map.write_bytes(b"the old map")

    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(video_run, "join_exit_map", stop)
        with pytest.raises(KeyboardInterrupt):
            upscale_video(source, target, Enlarger(), exit_map=exit_map)
    assert exit_map.read_bytes() == b"the old map"
    enlarger = Enlarger()
    report = upscale_video(source, target, enlarger, resume=True, exit_map=exit_map)
    assert (report.frames, report.reused, enlarger.shapes) == (10, 10, [])
    assert times_of(target) == times_of(exit_map) == times_of(source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mkv", "map.mkv", "out.mkv"]


@pytest.mark.parametrize("change", ["source", "network", "routing", "options", "exit_map"])
def test_segments_of_something_else_are_not_used(tmp_path: Path, change: str) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    make_video(source)
    broken_off(source, target, after=2)
    arguments: dict[str, Any] = {"segment_frames": 2}
    enlarger = Enlarger()
    if change == "source":
        make_video(source, [bars()] * 10)
    elif change == "network":
        enlarger.brightness = 1
    elif change == "routing":
        arguments["routing"] = {"eta": 2.0}
    elif change == "exit_map":
        arguments["exit_map"] = tmp_path / "map.mkv"
    else:
        arguments["codec_options"] = {"crf": "30"}
    with pytest.raises(VideoError, match="of another source or other settings"):
        upscale_video(source, target, enlarger, resume=True, **arguments)
    report = upscale_video(source, target, enlarger, **arguments)
    assert report.reused == 0
    assert times_of(target) == times_of(source)


# --- damage, and what is refused ---


@pytest.fixture(params=["ffv1", "libx264"])
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "damaged.mkv"
    options = {"ffv1": {"level": "3", "slicecrc": "1"}, "libx264": {"crf": "10", "g": "3"}}[request.param]
    make_video(path, NOISE, codec=request.param, options=options)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    length = 400 if request.param == "ffv1" else 10000  # H.264 has no checksum: only gross damage can be seen
    data[middle : middle + length] = bytes(length)
    path.write_bytes(bytes(data))
    return path


def test_a_damaged_frame_is_named(tmp_path: Path, damaged: Path) -> None:
    with pytest.raises(VideoError, match=r"damaged\.mkv: frame [3-6] (is damaged|cannot be decoded)"):
        upscale_video(damaged, tmp_path / "out.mkv", Enlarger())
    with pytest.raises(VideoError, match=r"; repair the file, or let it pass in Python \(on_damage='keep'\)$"):
        upscale_video(damaged, tmp_path / "out.mkv", Enlarger())
    assert not (tmp_path / "out.mkv").exists()


def test_damage_is_passed_and_reported_where_that_is_asked_for(tmp_path: Path, damaged: Path) -> None:
    report = upscale_video(damaged, tmp_path / "out.mkv", Enlarger(), on_damage="keep")
    assert 1 <= len(report.damaged) <= 3
    assert report.frames == len(times_of(tmp_path / "out.mkv")) >= 9


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_video_that_ends_early(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"in{suffix}"
    make_video(source, NOISE, options={"crf": "10", "g": "1"})
    data = source.read_bytes()
    source.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(VideoError, match=rf"in\{suffix}: (frame \d (is missing|cannot|is damaged)|Invalid data)"):
        upscale_video(source, tmp_path / "out.mkv", Enlarger())


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ({"codec": "ffv1", "pixel_format": "yuva420p", "options": {}}, "out.mkv", "without alpha or palette, got yuva420p"),
        ({"codec": "ffv1", "pixel_format": "yuv420p16le", "options": {}}, "out.mkv", "libx264 cannot hold its pixel format"),
        ({"options": {"x264-params": "interlaced=1"}}, "out.mkv", "frame 0 is interlaced; deinterlace it first"),
        ({"audio": True}, "out.webm", "webm cannot hold all of it"),
        ({"aspect": Fraction(4, 3)}, "out.webm", r"its pixels' aspect of 4/3 would be lost; .*name a target that ends in \.mp4"),
        ({"attachment": True}, "out.mp4", r"mp4 cannot hold all of it .*; name a target that ends in \.mkv$"),
    ],
)  # fmt: skip
def test_what_would_lose_something_is_refused_before_the_work(
    tmp_path: Path, source: dict[str, Any], target: str, words: str
) -> None:
    make_video(tmp_path / "in.mkv", **source)
    enlarger = Enlarger()
    with pytest.raises(VideoError, match=words):
        upscale_video(tmp_path / "in.mkv", tmp_path / target, enlarger)
    assert enlarger.shapes == []
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]


SPOKEN = ["¡Hola!", "<i>slanted</i> and <b>bold</b>", "two\nlines", "a < b & c > d", "one\n\nthree", "日本語 😀"]
PLAIN = ["¡Hola!", "slanted and bold", "two\nlines", "a < b & c > d", "one\n\nthree", "日本語 😀"]


def make_spoken_video(path: Path, codec: str) -> None:
    """A video of one frame whose subtitles go on long after it: `SPOKEN`, each for 300 of 400 milliseconds."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libvpx-vp9" if path.suffix == ".webm" else "libx264", rate=25)
        video.height, video.width, video.pix_fmt = 32, 64, "yuv420p"
        text = container.add_mux_stream(codec)
        text.metadata.update({"language": "spa", "title": "Letras"})
        video.time_base = text.time_base = MILLISECOND
        text.disposition = av.stream.Disposition.default | av.stream.Disposition.forced
        frame = av.VideoFrame.from_ndarray(bars(), format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = 0, MILLISECOND
        container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for index, words in enumerate(SPOKEN):
            data = words.encode()
            packet = av.Packet(len(data).to_bytes(2, "big") + data if codec == "mov_text" else data)
            packet.stream, packet.pts, packet.dts, packet.duration = text, 400 * index, 400 * index, 300
            packet.time_base = MILLISECOND
            container.mux(packet)


@pytest.mark.parametrize(
    ("before", "after", "codec", "expected"),
    [
        (".mkv", ".mp4", "mov_text", PLAIN),
        (".mkv", ".mov", "mov_text", PLAIN),
        (".mp4", ".mkv", "subrip", SPOKEN),
        (".mkv", ".webm", "webvtt", [SPOKEN[0], SPOKEN[1], SPOKEN[2], "a &lt; b &amp; c &gt; d", *SPOKEN[4:]]),
        (".mp4", ".webm", "webvtt", [SPOKEN[0], "&lt;i&gt;slanted&lt;/i&gt; and &lt;b&gt;bold&lt;/b&gt;", SPOKEN[2],
                                     "a &lt; b &amp; c &gt; d", *SPOKEN[4:]]),
    ],
)  # fmt: skip
def test_texts_change_their_format_with_the_container(
    tmp_path: Path, before: str, after: str, codec: str, expected: list[str]
) -> None:
    source, target = tmp_path / f"in{before}", tmp_path / f"out{after}"
    make_spoken_video(source, "subrip" if before == ".mkv" else "mov_text")
    report = upscale_video(source, target, Enlarger())
    assert report.converted == [f"stream 1 (subtitle) became {codec}"]
    with av.open(str(target)) as container:
        stream = container.streams.subtitles[0]
        assert stream.codec_context.name.replace("srt", "subrip") == codec
        if after != ".mov":  # which knows none
            assert av.stream.Disposition.forced & stream.disposition
        assert stream.metadata["language"] == "spa"
        assert stream.metadata.get("title", stream.metadata.get("name")) == "Letras"
        spoken = [packet for packet in container.demux(stream) if packet.size > 2]
        texts = [bytes(packet) for packet in spoken]
        assert [int(1000 * packet.pts * packet.time_base) for packet in spoken] == [400 * i for i in range(len(SPOKEN))]
        assert {int(1000 * packet.duration * packet.time_base) for packet in spoken} == {300}
        if codec == "mov_text":
            assert b"styl" in texts[1][18:]
            assert b"ftab" in stream.codec_context.extradata
            texts = [data[2 : 2 + int.from_bytes(data[:2], "big")] for data in texts]
    assert [text.decode() for text in texts] == expected


def test_subtitles_that_the_target_cannot_hold(tmp_path: Path) -> None:
    make_video(tmp_path / "in.mkv")
    with av.open(str(tmp_path / "in.mkv")) as plain, av.open(str(tmp_path / "pictures.mkv"), "w") as container:
        video = container.add_stream_from_template(plain.streams.video[0])
        container.add_mux_stream("dvd_subtitle")
        for packet in plain.demux(video=0):
            if packet.size:
                packet.stream = video
                container.mux(packet)
    with pytest.raises(VideoError, match=r"mov cannot hold .*dvd.*; name a target that ends in \.mkv"):
        upscale_video(tmp_path / "pictures.mkv", tmp_path / "out.mov", Enlarger())


def test_sizes_that_the_encoder_cannot_hold(tmp_path: Path) -> None:
    make_video(tmp_path / "in.mkv")
    for size in ((51, 101), (50, 17000)):
        with pytest.raises(
            VideoError, match=f"libx264 cannot encode {size[1]}x{size[0]} yuv420p .*; name a smaller size"
        ):
            upscale_video(tmp_path / "in.mkv", tmp_path / "out.mkv", Enlarger(), target_size=lambda *_, to=size: to)


def test_frames_above_the_limit_are_refused(tmp_path: Path) -> None:
    make_video(tmp_path / "in.mkv")
    with pytest.raises(VideoError, match=r"in\.mkv: expected at most 0\.002 megapixels a frame, got 64x32"):
        upscale_video(tmp_path / "in.mkv", tmp_path / "out.mkv", Enlarger(), max_pixels=2000)
    upscale_video(tmp_path / "in.mkv", tmp_path / "out.mkv", Enlarger(), max_pixels=2048)


def test_files_that_are_no_videos(tmp_path: Path) -> None:
    (tmp_path / "text.mkv").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    for name, words in (("text.mkv", "Invalid data"), ("empty.mp4", "Invalid data"), ("none.mkv", "no such file")):
        with pytest.raises(VideoError, match=f"{name}: {words}"):
            upscale_video(tmp_path / name, tmp_path / "out.mkv", Enlarger())
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("target", "keywords", "words"),
    [
        ("out.avi", {}, "target: expected a name that ends in .mkv, .mp4, .mov, .webm"),
        ("out.mkv", {"on_damage": "ignore"}, "on_damage: expected 'fail' or 'keep'"),
        ("out.mkv", {"segment_frames": 0}, "segment_frames: expected at least 1, got 0"),
        (
            "out.mkv",
            {"exit_map": "map.png"},
            "exit_map: expected a name that ends in .mkv, .mp4, .mov, .webm, got map.png",
        ),
        ("out.mkv", {"strip": ("iptc",)}, "strip: expected of icc, exif, xmp, resolution, got iptc"),
        ("out.mkv", {"codec": "nonesuch"}, "codec: expected an encoder of this FFmpeg, got 'nonesuch'"),
    ],
)
def test_rejects(tmp_path: Path, target: str, keywords: dict[str, Any], words: str) -> None:
    make_video(tmp_path / "in.mkv")
    with pytest.raises(ValueError, match=words):
        upscale_video(tmp_path / "in.mkv", tmp_path / target, Enlarger(), **keywords)


def test_is_video() -> None:
    assert is_video("a/b.MP4")
    assert is_video(Path("c.mkv"))
    assert not is_video("d.png")
    assert not is_video("mp4")


def test_a_missing_folder_is_an_error_of_its_name(tmp_path: Path) -> None:
    make_video(tmp_path / "in.mkv")
    with pytest.raises(VideoError, match="no such file or folder"):
        upscale_video(tmp_path / "in.mkv", tmp_path / "missing" / "out.mkv", Enlarger())


def test_the_command_takes_videos_among_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder with both: each kept in its kind, counted, resumed; what makes no sense for a video fails that file."""
    folder, large = tmp_path / "in", tmp_path / "large"
    folder.mkdir()
    make_video(folder / "clip.mp4", [bars()] * 3)
    Image.fromarray(bars()).save(folder / "bars.png")
    assert main(["upscale", str(folder), "-o", str(large), "--eta", "5", "--json"]) == 0
    results = {Path(line["source"]).name: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert results["clip.mp4"]["notes"] == ["3 frames"]
    for fact in ("paper", "macs"):
        assert results["clip.mp4"]["cost"][fact] == pytest.approx(results["bars.png"]["cost"][fact], abs=0.05)
    assert sum(results["clip.mp4"]["exits"]) == 3 * sum(results["bars.png"]["exits"])
    assert (results["clip.mp4"]["width"], results["clip.mp4"]["height"]) == (256, 128)
    assert [(frame.width, frame.height) for frame in frames_of(large / "clip.mp4")] == [(256, 128)] * 3
    assert main(["upscale", str(folder), "-o", str(large), "--eta", "5", "--json", "--resume"]) == 0
    assert {json.loads(line)["status"] for line in capsys.readouterr().out.splitlines()} == {"skipped"}
    for size in (["--size", "100x50"], ["--scale", "2"]):
        assert main(["upscale", str(folder / "clip.mp4"), "-o", str(tmp_path / "sized.mkv"), "-q", *size]) == 0
        expected = (100, 50) if size[0] == "--size" else (128, 64)
        assert [(frame.width, frame.height) for frame in frames_of(tmp_path / "sized.mkv")] == [expected] * 3
    assert main(["upscale", str(folder / "clip.mp4"), "-o", str(tmp_path / "x.png")]) == 2
    assert main(["upscale", str(folder / "bars.png"), "-o", str(tmp_path / "x.mkv")]) == 2
    assert main(["upscale", str(folder / "clip.mp4"), "-o", "-"]) == 2
    assert main(["upscale", str(folder / "clip.mp4"), "-o", str(tmp_path / "x.mkv"), "--format", "mp4"]) == 2
    assert not (tmp_path / "x.mkv").exists()


def test_every_option_for_images_and_videos_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, large, maps = tmp_path / "in", tmp_path / "large", tmp_path / "maps"
    folder.mkdir()
    make_video(folder / "clip.avi", [bars()] * 3)
    Image.fromarray(bars()).save(folder / "bars.png")
    options = [
        "--scale=2", "--gamma=0.5", "--budget=0.5", "--patch-size=16", "--overlap=2", "--device=cpu", "--dtype=bfloat16",
        "--format=mp4", "--quality=80", "--strip=all", "--max-megapixels=1", "--resume", f"--ledger={tmp_path / 'l.jsonl'}",
        f"--exit-map={maps}", f"--report={tmp_path / 'report.json'}", "--json",
    ]  # fmt: skip
    assert main(["upscale", str(folder), "-o", str(large), *options]) == 0
    assert sorted(path.name for path in large.iterdir()) == ["bars.png", "clip.mp4"]
    assert sorted(path.name for path in maps.iterdir()) == ["bars.png", "clip.mp4"]
    with Image.open(maps / "bars.png") as drawn:
        assert [(frame.width, frame.height) for frame in frames_of(maps / "clip.mp4")] == [drawn.size] * 3
    assert tags_of(large / "clip.mp4").keys() & {"title"} == set()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["done"] == 2
    assert report["megapixels"] == pytest.approx(2 * 0.008192, abs=1e-3)
    capsys.readouterr()
    (maps / "clip.mp4").unlink()
    assert main(["upscale", str(folder), "-o", str(large), *options]) == 0
    statuses = [json.loads(line)["status"] for line in capsys.readouterr().out.splitlines()]
    assert statuses == ["skipped", "done"]
    assert len(frames_of(maps / "clip.mp4")) == 3


def test_without_pyav_the_file_fails_and_names_the_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_video(tmp_path / "clip.mp4", [bars()] * 2)
    monkeypatch.setitem(sys.modules, "av", None)
    assert main(["upscale", str(tmp_path / "clip.mp4"), "-o", str(tmp_path / "large.mkv")]) == 1
    assert "videos need PyAV: pip install 'enaf_ext[video]'" in capsys.readouterr().err


def test_deep_frames_are_resized_without_wrapping() -> None:
    frames = torch.tensor([[0, 65535] * 8] * 6, dtype=torch.int32).to(torch.uint16).expand(2, 3, 6, 16)
    result = resized(frames, (9, 20))
    assert result.shape == (2, 3, 9, 20)
    assert result.dtype == torch.uint16
    assert {0, 65535} <= set(result.int().flatten().tolist()), "overshoot is clamped"
    assert torch.equal(resized(frames, (6, 16)), frames)
