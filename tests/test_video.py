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
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from enaf.cli import main
from enaf.video import VideoError, is_video, upscale_video
from enaf.video.run import resized

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

    def __call__(self, image: torch.Tensor, **routing: Any) -> torch.Tensor:
        if image.dim() == 4:
            self.shapes.append(tuple(image.shape))
        large = image.repeat_interleave(self.scale, -1).repeat_interleave(self.scale, -2)
        return large + self.brightness if self.brightness else large


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
        stream.time_base = context.time_base = MILLISECOND
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
            frame.pts, frame.time_base, frame.colorspace, frame.color_range = at, MILLISECOND, matrix, color_range
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            for index in range(times[-1] * 44100 // 1000 // 1024):
                tone = np.sin(np.arange(1024, dtype=np.float32) * 0.05)[None]
                samples = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
                samples.sample_rate, samples.pts, samples.time_base = 44100, 1024 * index, Fraction(1, 44100)
                container.mux(sound.encode(samples))
            container.mux(sound.encode(None))


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


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".webm"])
def test_other_containers(tmp_path: Path, suffix: str) -> None:
    make_video(tmp_path / "in.mp4", audio=suffix != ".webm")
    report = upscale_video(tmp_path / "in.mp4", tmp_path / f"out{suffix}", Enlarger(), segment_frames=3)
    assert report.frames == 10
    assert times_of(tmp_path / f"out{suffix}") == times_of(tmp_path / "in.mp4")


@pytest.mark.parametrize("color_range", [1, 2])
@pytest.mark.parametrize("matrix", [1, 6, 9, 2])
@pytest.mark.parametrize("pixel_format", ["yuv444p", "yuv444p10le", "yuv420p", "yuv420p10le"])
def test_colours_survive(tmp_path: Path, pixel_format: str, matrix: int, color_range: int) -> None:
    """At scale 1 the samples come back; with another matrix or range on one of the ways they would be far off."""
    deep = "10" in pixel_format
    seen: list[torch.Tensor] = []

    class Identity(Enlarger):
        def __call__(self, image: torch.Tensor, **routing: Any) -> torch.Tensor:
            seen.append(image)
            return image.clone()

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
    from enaf.upscaler import Upscaler

    make_video(tmp_path / "in.mkv")
    upscaler = Upscaler()
    upscale_video(tmp_path / "in.mkv", tmp_path / "out.mkv", upscaler, routing={"eta": 0.3}, codec="ffv1")
    exact = 4 | 8192 | 16384 | 262144  # bicubic, chroma interpolated and not dropped, rounded
    rgb = frames_of(tmp_path / "in.mkv")[3].reformat(
        format="rgb24", src_colorspace=5, dst_colorspace=5, src_color_range=1, dst_color_range=2, interpolation=exact
    )
    expected = upscaler(torch.from_numpy(rgb.to_ndarray()).permute(2, 0, 1), eta=0.3).permute(1, 2, 0).numpy()
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
upscale_video({source!r}, {target!r}, Slow(), segment_frames=2, resume=True)
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_and_doubles_nothing(tmp_path: Path) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    make_video(source, [np.roll(bars(), index, 1) for index in range(25)], audio=True)
    upscale_video(source, tmp_path / "whole.mkv", Enlarger(), segment_frames=2)
    script = SCRIPT.format(tests=str(Path(__file__).parent), source=str(source), target=str(target))
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
    assert process.returncode == 0
    assert kills >= 2
    assert times_of(target) == times_of(source)
    assert packets_of(target, "video") == packets_of(tmp_path / "whole.mkv", "video")
    assert packets_of(target, "audio") == packets_of(source, "audio")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mkv", "out.mkv", "whole.mkv"]


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


def broken_off(source: Path, target: Path, after: int) -> None:
    """A run that fails at a batch."""

    class Failing(Enlarger):
        def __call__(self, image: torch.Tensor, **routing: Any) -> torch.Tensor:
            if len(self.shapes) == after:
                raise RuntimeError("out of luck")
            return super().__call__(image, **routing)

    with pytest.raises(RuntimeError, match="out of luck"):
        upscale_video(source, target, Failing(), segment_frames=2)


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
    upscale_video(source, tmp_path / "whole.mkv", Enlarger(), segment_frames=2)
    assert packets_of(target, "video") == packets_of(tmp_path / "whole.mkv", "video")


@pytest.mark.parametrize("change", ["source", "network", "routing", "options"])
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
        ({"attachment": True}, "out.mp4", "mp4 cannot hold all of it"),
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
    assert [(frame.width, frame.height) for frame in frames_of(large / "clip.mp4")] == [(256, 128)] * 3
    assert main(["upscale", str(folder), "-o", str(large), "--eta", "5", "--json", "--resume"]) == 0
    assert {json.loads(line)["status"] for line in capsys.readouterr().out.splitlines()} == {"skipped"}
    for size in (["--size", "100x50"], ["--scale", "2"]):
        assert main(["upscale", str(folder / "clip.mp4"), "-o", str(tmp_path / "sized.mkv"), "-q", *size]) == 0
        expected = (100, 50) if size[0] == "--size" else (128, 64)
        assert [(frame.width, frame.height) for frame in frames_of(tmp_path / "sized.mkv")] == [expected] * 3
    assert main(["upscale", str(folder / "clip.mp4"), "-o", str(tmp_path / "x.mkv"), "--strip", "exif"]) == 1
    assert "exit_map, strip: expected none for a video" in capsys.readouterr().err
    assert main(["upscale", str(folder / "clip.mp4"), "-o", str(tmp_path / "x.png")]) == 2
    assert main(["upscale", str(folder / "bars.png"), "-o", str(tmp_path / "x.mkv")]) == 2
    assert not (tmp_path / "x.mkv").exists()


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
