# SPDX-License-Identifier: Apache-2.0
"""`enaf.upscale_files`: what becomes of files and folders, in every mode, depth and size; resumable, and never less."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from PIL import Image

import enaf
from enaf.adaptive import AdaptiveNetwork
from enaf.checkpoint import save_model
from enaf.cli import main
from enaf.degradation import resize
from enaf.estimator import create_estimator
from enaf.files import Ledger, resizing
from enaf.files.alpha import REACH, fill_hidden, within_neighbourhood
from enaf.files.plan import find_jobs
from enaf.files.resizing import RowResizer
from enaf.files.standard_output import WholeWriter
from enaf.image_io import ImageError, Metadata, read_image, write_image
from enaf.models import create_backbone
from enaf.upscaler import Upscaler

DTYPES = ("uint8", "uint16", "float32")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained network in a file, so that nothing here depends on the shipped weights."""
    torch.manual_seed(0)
    network = create_backbone("fsrcnn", 4)
    path = tmp_path_factory.mktemp("model") / "untrained.safetensors"
    save_model(AdaptiveNetwork(network, create_estimator("paper", network.num_exits)), path)
    return str(path)


@pytest.fixture(scope="module")
def upscaler(model: str) -> Upscaler:
    return Upscaler(model, 4)


def pixels(channels: int, dtype: str = "uint8", height: int = 20, width: int = 30) -> torch.Tensor:
    """Smooth colours; the last of 2 and 4 channels is a disc of opacity."""
    y, x = np.mgrid[:height, :width]
    planes = np.stack([x / width, y / height, (x + y) / (height + width), np.hypot(y - 9, x - 14) < 7])
    chosen = planes[[0, 3] if channels == 2 else list(range(channels))]
    if dtype == "float32":
        return torch.from_numpy(chosen.astype(np.float32))
    return torch.from_numpy((chosen * np.iinfo(dtype).max).astype(dtype))


def photo(path: Path, channels: int = 3, dtype: str = "uint8", **size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, pixels(channels, dtype, **size))
    return path


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and np.array_equal(a.numpy(), b.numpy())


# --- the pixels ---


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".avif", ".jpg", ".ppm", ".bmp"])
def test_every_format_mode_and_depth(
    tmp_path: Path, model: str, upscaler: Upscaler, suffix: str, channels: int, dtype: str
) -> None:
    """From a TIFF, which holds all of them; the colours are those of the upscaler, the opacity is apart."""
    if channels > 1 and dtype != "uint8":
        pytest.importorskip("pyvips")
    source = photo(tmp_path / "in.tif", channels, dtype)
    (result,) = enaf.upscale_files(source, tmp_path / f"out{suffix}", model=model, force_exit=1)
    if result.status == "failed":
        assert "; write" in (result.error or "")
        assert suffix != ".tif"
        assert tree(tmp_path) == ["in.tif"]
        return
    if suffix in (".webp", ".avif", ".jpg"):
        assert dtype == "uint8"
        return
    lr, sr = pixels(channels, dtype), read_image(tmp_path / f"out{suffix}").pixels
    assert sr.dtype == lr.dtype
    assert sr.shape == (channels, 80, 120)
    colours, opacity = lr, None
    if channels in (2, 4):
        colours, opacity = fill_hidden(lr[:-1], lr[-1:]), lr[-1:]
    assert same(sr[: len(colours)], upscaler(colours, force_exit=1))
    if opacity is not None:
        assert same(sr[-1:], within_neighbourhood(upscaler(opacity, force_exit=1), opacity, 0, 4))


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 90), width=st.integers(1, 90), channels=st.integers(1, 4),
    wanted=st.one_of(st.none(), st.tuples(st.integers(1, 400), st.integers(1, 400))), eta=st.sampled_from([0.0, 0.5, 3.0]),
)  # fmt: skip
def test_any_size_becomes_any_size(
    tmp_path_factory: pytest.TempPathFactory, model: str, height: int, width: int, channels: int,
    wanted: tuple[int, int] | None, eta: float,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("sizes")
    source = photo(folder / "in.png", channels, height=height, width=width)
    (result,) = enaf.upscale_files(source, folder / "out.png", model=model, size=wanted, eta=eta)
    assert result.error is None
    expected = wanted or (4 * width, 4 * height)
    assert (result.width, result.height) == expected
    assert read_image(folder / "out.png").pixels.shape == (channels, expected[1], expected[0])


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_scales_without_a_model_are_reduced_and_say_so(
    tmp_path: Path, model: str, upscaler: Upscaler, scale: int
) -> None:
    source = photo(tmp_path / "in.png")
    (result,) = enaf.upscale_files(source, tmp_path / "out.png", model=model, scale=scale, force_exit=0)
    sr = read_image(tmp_path / "out.png").pixels
    assert sr.shape == (3, scale * 20, scale * 30)
    assert result.notes == ([] if scale == 4 else [f"x4 resized to {scale * 30}x{scale * 20}"])
    expected = resize(upscaler(pixels(3), force_exit=0), scale * 20, scale * 30)
    assert (sr.int() - expected.int()).abs().max() <= 1


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)), new=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    bands=st.lists(st.integers(1, 30), min_size=1, max_size=4), dtype=st.sampled_from(["uint8", "uint16", "float32"]),
)  # fmt: skip
def test_resizing_by_bands_is_resizing(
    size: tuple[int, int], new: tuple[int, int], bands: list[int], dtype: str
) -> None:
    image = pixels(3, dtype, *size)

    def run(heights: list[int]) -> torch.Tensor:
        parts: list[torch.Tensor] = []
        resizer, top = RowResizer(size, new, parts.append), 0
        for height in itertools.cycle(heights):
            if top >= size[0]:
                break
            resizer(image[:, top : top + height])
            top += height
        return torch.cat(parts, dim=1)

    result = run(bands)
    assert result.shape == (3, *new)
    assert same(result, run([1000]))
    limit = 1 if dtype == "float32" else np.iinfo(dtype).max
    expected = resize(image.double() / limit, *new).clamp(0, 1) * limit
    assert (result.double() - expected).abs().max() <= (1e-5 if dtype == "float32" else 0.51 + limit * 1e-6)


@pytest.mark.parametrize("new", [(400, 300), (45, 500), (17, 11), (1, 90)])
def test_resizing_in_chunks_is_resizing(monkeypatch: pytest.MonkeyPatch, new: tuple[int, int]) -> None:
    """However large the result, no more than a chunk of it is made at once."""
    image = pixels(3, "uint8", 60, 50)

    def run(chunk: int) -> list[torch.Tensor]:
        monkeypatch.setattr(resizing, "CHUNK", chunk)
        parts: list[torch.Tensor] = []
        RowResizer((60, 50), new, parts.append)(image)
        return parts

    (whole,) = run(1 << 30)
    for chunk in (1, 20_000):
        parts = run(chunk)
        assert same(torch.cat(parts, dim=1), whole)
        assert all(part.shape[1] == 1 or 4 * part.numel() <= chunk for part in parts)


# --- opacity ---


@pytest.mark.parametrize("dtype", DTYPES)
def test_hidden_colours_do_not_bleed(tmp_path: Path, model: str, dtype: str) -> None:
    """A white disc on transparent black stays white to its very edge."""
    if dtype != "uint8":
        pytest.importorskip("pyvips")
    picture = pixels(4, dtype, 40, 40)
    limit = picture[3].numpy().max()
    picture[:3] = torch.from_numpy(np.where(picture[3].numpy() > 0, limit, 0).astype(dtype))
    write_image(tmp_path / "in.tif", picture)
    enaf.upscale_files(tmp_path / "in.tif", tmp_path / "out.tif", model=model, force_exit=0)
    sr = read_image(tmp_path / "out.tif").pixels.double() / float(limit)
    assert sr[:3][:, sr[3] > 0].min() > 0.999
    assert 0 < (sr[3] > 0).double().mean() < 0.5


@pytest.mark.parametrize("value", [0, 7, 255])
def test_constant_opacity_stays_what_it_is(tmp_path: Path, model: str, value: int) -> None:
    picture = pixels(4)
    picture[3] = value
    write_image(tmp_path / "in.png", picture)
    enaf.upscale_files(tmp_path / "in.png", tmp_path / "out.png", model=model, eta=0)
    assert read_image(tmp_path / "out.png").pixels[3].unique().tolist() == [value]


def test_opaque_and_transparent_regions_stay_so(tmp_path: Path, model: str) -> None:
    picture = pixels(4, height=40, width=40)
    picture[3] = 0
    picture[3, :, 20:] = 255
    write_image(tmp_path / "in.png", picture)
    enaf.upscale_files(tmp_path / "in.png", tmp_path / "out.png", model=model, force_exit=3)
    opacity = read_image(tmp_path / "out.png").pixels[3]
    assert opacity[:, : 4 * 19].unique().tolist() == [0]
    assert opacity[:, 4 * 21 :].unique().tolist() == [255]


def test_filling_by_bands_is_filling() -> None:
    generator = torch.Generator().manual_seed(1)
    colours = torch.randint(0, 256, (3, 90, 31), generator=generator, dtype=torch.uint8)
    alpha = (torch.rand(1, 90, 31, generator=generator) > 0.97).to(torch.uint8) * 200
    alpha[:, 40:75] = 0
    whole = fill_hidden(colours, alpha)
    assert torch.equal(whole[:, (alpha != 0)[0]], colours[:, (alpha != 0)[0]])
    assert not torch.equal(whole, colours)
    for top in range(0, 90, 13):
        above, below = max(0, top - REACH), min(90, top + 13 + REACH)
        part = fill_hidden(colours[:, above:below], alpha[:, above:below])
        assert torch.equal(part[:, top - above : top - above + 13], whole[:, top : top + 13])


# --- metadata ---


def test_metadata_goes_along_or_is_stripped(tmp_path: Path, model: str) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    Image.fromarray(pixels(3).permute(1, 2, 0).numpy()).save(
        tmp_path / "in.jpg", exif=exif, icc_profile=b"profile", xmp=b"<x/>", dpi=(300, 300), quality=95
    )
    enaf.upscale_files(tmp_path / "in.jpg", tmp_path / "out.png", model=model, force_exit=0)
    back = read_image(tmp_path / "out.png")
    assert back.pixels.shape == (3, 120, 80)  # turned once
    assert back.metadata.icc_profile == b"profile"
    assert back.metadata.xmp == b"<x/>"
    assert back.metadata.resolution == pytest.approx((300, 300), abs=0.02)
    with Image.open(tmp_path / "out.png") as image:
        assert dict(image.getexif()) == {0x0112: 1, 0x010F: "Maker"}
    enaf.upscale_files(tmp_path / "in.jpg", tmp_path / "bare.png", model=model, force_exit=0, strip="exif,xmp")
    bare = read_image(tmp_path / "bare.png")
    assert same(bare.pixels, back.pixels)
    assert (bare.metadata.exif, bare.metadata.xmp, bare.metadata.icc_profile) == (None, None, b"profile")
    enaf.upscale_files(tmp_path / "in.jpg", tmp_path / "bare.png", model=model, force_exit=0, strip="all")
    assert read_image(tmp_path / "bare.png").metadata == Metadata()


# --- folders ---


def test_folders_are_mirrored(tmp_path: Path, model: str) -> None:
    photo(tmp_path / "in/a.png")
    photo(tmp_path / "in/deep/er/b.tif")
    photo(tmp_path / "in/.hidden/c.png")
    (tmp_path / "in/notes.txt").write_text("no picture")
    output = tmp_path / "in/out"  # inside of what is searched
    for _ in range(2):
        results = enaf.upscale_files(tmp_path / "in", output, model=model, force_exit=0, exit_map=tmp_path / "maps")
        assert [result.status for result in results] == ["done", "done"]
        assert tree(output) == ["a.png", "deep/er/b.tif", "enaf-ledger.jsonl"]
        assert tree(tmp_path / "maps") == ["a.png", "deep/er/b.png"]


def test_patterns_and_formats(tmp_path: Path, model: str) -> None:
    for name in ("x/a.png", "x/b.bmp", "y/a.png"):
        photo(tmp_path / name)
    enaf.upscale_files(str(tmp_path / "**/*.png"), tmp_path / "out", model=model, force_exit=0, format="webp")
    assert tree(tmp_path / "out") == ["enaf-ledger.jsonl", "x/a.webp", "y/a.webp"]


@pytest.mark.parametrize(
    ("output", "exit_map", "words"),
    [
        ("out", "x", "a.png is an input itself"),
        ("out", "out", "would both become .*out/a.png"),
        ("out", "maps", "exit_map: .*a.bmp and .*a.png would both become .*maps/a.png"),
        ("out", "map.png", "exit_map: expected a folder for many pictures, got"),
        ("out", "notes", "exit_map: expected a folder for many pictures, got"),
    ],
)
def test_drawings_overwrite_nothing(tmp_path: Path, model: str, output: str, exit_map: str, words: str) -> None:
    photo(tmp_path / "x/a.png")
    if exit_map == "maps":
        photo(tmp_path / "x/a.bmp")
    (tmp_path / "notes").write_text("no folder")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=words):
        enaf.upscale_files(tmp_path / "x", tmp_path / output, model=model, exit_map=tmp_path / exit_map)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_drawings_are_no_inputs_of_the_next_run(tmp_path: Path, model: str) -> None:
    photo(tmp_path / "in/a.png")
    for _ in range(2):
        results = enaf.upscale_files(
            tmp_path / "in", tmp_path / "out", model=model, force_exit=0, exit_map=tmp_path / "in/maps"
        )
        assert len(results) == 1
    assert tree(tmp_path / "in") == ["a.png", "maps/a.png"]


@pytest.mark.parametrize(
    ("inputs", "output", "words"),
    [
        (["x"], "x", "is an input itself"),
        (["x/a.png", "y/a.png"], "out", "would both become"),
        (["x", "y"], "out", "would both become"),
        (["x", "y"], "a.png", "expected a folder for 2 inputs, got the file"),
        (["x/a.png", "y/a.png"], "new.png", "expected a folder for 2 inputs, got the file .*new.png"),
        (["x"], "new.mkv", "expected a folder for .*x, got the file .*new.mkv"),
        (["x/*.png"], "new.png", r"expected a folder for .*x/\*.png, got the file .*new.png"),
        (["x"], "a.png/b/out", "output: expected a folder on the way to .*a.png/b/out, got the file .*a.png"),
        (["pipe"], "out", "inputs: expected a file, a folder or - .the standard input., got .*pipe"),
        (["empty"], "out", "no images or videos in"),
        (["x"], "-", "expected a folder"),
    ],
)
def test_plans_that_make_no_sense(tmp_path: Path, inputs: list[str], output: str, words: str) -> None:
    for name in ("x/a.png", "y/a.png", "a.png"):
        photo(tmp_path / name)
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    target = output if output == "-" else tmp_path / output
    with pytest.raises(ValueError, match=words):
        find_jobs([tmp_path / name for name in inputs], target, None)


def test_names_that_look_like_others(tmp_path: Path) -> None:
    """A file whose name is a pattern, too, is a file; a folder that is called like a picture is a folder."""
    source = photo(tmp_path / "photo [1].png")
    (job,) = find_jobs([source], tmp_path / "x.png", None)
    assert (job.source, job.target) == (source, tmp_path / "x.png")
    (tmp_path / "folder.png").mkdir()
    jobs = find_jobs([source, photo(tmp_path / "b.png")], tmp_path / "folder.png", None)
    assert [job.target.parent for job in jobs] == [tmp_path / "folder.png"] * 2


def test_a_file_where_a_folder_is_needed(tmp_path: Path, model: str) -> None:
    photo(tmp_path / "in/a/x.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a").write_text("mine")
    (result,) = enaf.upscale_files(tmp_path / "in", tmp_path / "out", model=model, force_exit=0)
    assert result.error == f"{tmp_path / 'out/a'}: no folder can be made: File exists"


def test_a_folder_with_every_misfortune_in_it(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What can be done is done; the rest is reported, in the ledger too."""
    folder = tmp_path / "in"
    good = photo(folder / "good.png")
    (folder / "empty.png").write_bytes(b"")
    (folder / "torso.png").write_bytes(good.read_bytes()[:80])
    (folder / "text.jpg").write_text("no picture")
    photo(folder / "long.webp", height=1, width=5000)
    photo(folder / "line.png", height=1, width=5000)
    Image.new("CMYK", (4, 4)).save(folder / "ink.jpg")
    (folder / "folder.png").mkdir()
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    status = main(["upscale", str(folder), "-o", str(tmp_path / "out"), "--model", model, "--force-exit=0", "-q"])
    assert status == 1
    assert tree(tmp_path / "out") == ["enaf-ledger.jsonl", "good.png", "line.png"]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "6 of 8 failed" in captured.err
    entries = [json.loads(line) for line in (tmp_path / "out/enaf-ledger.jsonl").read_text().splitlines()]
    failed = {Path(entry["source"]).name: entry["error"] for entry in entries if entry["status"] == "failed"}
    assert set(failed) == {"empty.png", "torso.png", "text.jpg", "long.webp", "ink.jpg", "gone.png"}
    assert "WEBP holds at most 16383 pixels a side, got 20000x4; write PNG or TIFF" in failed["long.webp"]


# --- resuming ---


def statuses(*arguments: Any, **options: Any) -> dict[str, str]:
    results = enaf.upscale_files(*arguments, force_exit=0, resume=True, **options)
    return {Path(result.source).name: result.status for result in results}


def test_resume_goes_by_content_not_by_name(tmp_path: Path, model: str) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    photo(folder / "a.png")
    photo(folder / "b.png", 1)
    assert statuses(folder, output, model=model) == {"a.png": "done", "b.png": "done"}
    before = {path: path.stat().st_mtime_ns for path in output.glob("*.png")}
    assert statuses(folder, output, model=model) == {"a.png": "skipped", "b.png": "skipped"}
    assert before == {path: path.stat().st_mtime_ns for path in output.glob("*.png")}

    photo(folder / "a.png", height=21)  # the same name, other content
    os.utime(folder / "a.png", (0, 0))  # and older than the result
    assert statuses(folder, output, model=model) == {"a.png": "done", "b.png": "skipped"}
    assert read_image(output / "a.png").pixels.shape == (3, 84, 120)

    (folder / "b.png").rename(folder / "c.png")  # another name, the same content
    (output / "b.png").rename(output / "c.png")
    assert statuses(folder, output, model=model) == {"a.png": "skipped", "c.png": "skipped"}

    (output / "c.png").write_bytes(b"tampered with")
    (output / "a.png").unlink()
    assert statuses(folder, output, model=model) == {"a.png": "done", "c.png": "done"}


@pytest.mark.parametrize(
    "change", [{"eta": 0.7}, {"size": (9, 9)}, {"scale": 2}, {"quality": 50}, {"strip": "exif"}, {"dtype": "bfloat16"}]
)
def test_resume_goes_by_settings(tmp_path: Path, model: str, change: dict[str, Any]) -> None:
    source, output = photo(tmp_path / "a.png"), tmp_path / "out"
    assert statuses(source, output, model=model) == {"a.png": "done"}
    assert statuses(source, output, model=model, **change) == {"a.png": "done"}
    assert statuses(source, output, model=model, **change) == {"a.png": "skipped"}


def test_resume_goes_by_weights(tmp_path: Path, model: str) -> None:
    source, output, copy = photo(tmp_path / "a.png"), tmp_path / "out", tmp_path / "model.safetensors"
    copy.write_bytes(Path(model).read_bytes())
    assert statuses(source, output, model=model) == {"a.png": "done"}
    assert statuses(source, output, model=copy) == {"a.png": "skipped"}  # the same weights by another name
    network = create_backbone("fsrcnn", 4)
    save_model(AdaptiveNetwork(network, create_estimator("paper", network.num_exits)), copy)
    assert statuses(source, output, model=copy) == {"a.png": "done"}


def test_a_ledger_that_was_cut_short_is_read_and_continued(tmp_path: Path, model: str) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    photo(folder / "a.png")
    photo(folder / "b.png", 1)
    statuses(folder, output, model=model)
    ledger = output / "enaf-ledger.jsonl"
    first, second = ledger.read_bytes().splitlines()
    for kept in (0, 1, len(second) // 2, len(second) - 1):
        ledger.write_bytes(b'{"odd": 1}\n[]\nnoise\xff\n' + first + b"\n" + second[:kept])
        assert statuses(folder, output, model=model) == {"a.png": "skipped", "b.png": "done"}
        assert len(Ledger(ledger).done()) == 2


def test_a_full_disk_under_the_ledger_is_reported(tmp_path: Path, model: str) -> None:
    source = photo(tmp_path / "a.png")
    (result,) = enaf.upscale_files(source, tmp_path / "out.png", model=model, force_exit=0, ledger="/dev/full")
    assert result.status == "failed"
    assert result.error == "/dev/full: cannot be written: No space left on device"


def test_a_run_killed_again_and_again_comes_to_the_same_end(tmp_path: Path, model: str) -> None:
    """SIGKILL at every seventh step that touches the disk, in a child that resumes; at the end nothing tells."""
    from test_atomic import Steps, die

    folder = tmp_path / "in"
    for index in range(3):
        photo(folder / f"{index}.png", height=10 + index)
    enaf.upscale_files(folder, tmp_path / "whole", model=model, force_exit=0)
    kills = 0
    for _ in range(60):
        child = os.fork()
        if child == 0:
            try:
                torch.set_num_threads(1)
                with pytest.MonkeyPatch.context() as monkeypatch:
                    Steps(monkeypatch, 17, die)
                    statuses(folder, tmp_path / "out", model=model)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        for path in (tmp_path / "out").glob("*.png"):
            assert path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes()
        if not os.WIFSIGNALED(status):
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        kills += 1
    assert 2 <= kills < 60
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert set(statuses(folder, tmp_path / "out", model=model).values()) == {"skipped"}


# --- what is said, and pipes ---


def test_json_report_and_lines_agree(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    photo(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_bytes(b"")
    arguments = ["upscale", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", model, "--json"]
    assert main([*arguments, "--report", str(tmp_path / "report.json")]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["files"] == lines
    assert (report["done"], report["skipped"], report["failed"]) == (1, 0, 1)
    assert report["megapixels"] == pytest.approx(0.0096, abs=1e-3)
    assert lines[0]["width"] == 120
    assert sum(lines[0]["exits"]) == 1
    assert {"paper", "macs"} <= set(lines[0]["cost"])
    assert "b.png" in lines[1]["error"]


def test_names_that_are_no_text(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"in-\xff.png")
    photo(tmp_path / "plain.png").rename(tmp_path / name)
    report = tmp_path / "report.json"
    arguments = ["upscale", str(tmp_path / name), "-o", str(tmp_path / "out"), "--model", model, f"--report={report}"]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["source"] == str(tmp_path / name)
    assert json.loads(report.read_text())["files"][0]["source"] == str(tmp_path / name)
    done = enaf_process(*arguments[1:], "--resume")
    assert (done.returncode, done.stdout.count(b"skipped"), done.stderr) == (0, 1, b"")


def test_a_report_that_cannot_be_written(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = photo(tmp_path / "in.png")
    before = source.read_bytes()
    arguments = ["upscale", str(source), "-o", str(tmp_path / "out.png"), "--model", model]
    for option, path, words in (
        ("report", tmp_path / "missing/report.json", "report: expected a file in a folder that exists"),
        ("report", tmp_path, "report: expected a file in a folder that exists"),
        ("report", source, "report: .*in.png is an input itself"),
        ("ledger", source, "ledger: .*in.png is an input itself"),
    ):
        assert main([*arguments, f"--{option}={path}"]) == 2
        assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "out.png").exists()
    assert source.read_bytes() == before
    assert main([*arguments, "--report=/dev/full"]) == 1
    assert "/dev/full: cannot be written: No space left on device" in capsys.readouterr().err


def test_reports_and_ledgers_overwrite_nothing(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = photo(tmp_path / "in.png")
    arguments = ["upscale", str(source), "-o", str(tmp_path / "z.png"), "--model", model, "--force-exit=0"]
    ledger, report, notes = tmp_path / "ledger.jsonl", tmp_path / "report.json", tmp_path / "notes.txt"
    notes.write_text("mine")

    def refused(*options: str) -> str:
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        assert main([*arguments, *options]) == 2
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
        return capsys.readouterr().err

    for option in ("report", "ledger"):
        for name in ("z.png", "keep.jpg", "film.mkv"):
            words = f"{option}: expected a name that is not that of an image or video, got {tmp_path / name}"
            assert words in refused(f"--{option}={tmp_path / name}")
        words = f"{option}: expected a new file or the {option} of an earlier run, got {notes}"
        assert words in refused(f"--{option}={notes}")
    assert "report: expected another file than the ledger" in refused(f"--report={report}", f"--ledger={report}")
    for _ in range(2):  # new, and those of an earlier run
        assert main([*arguments, f"--report={report}", f"--ledger={ledger}"]) == 0
    assert "report: expected a new file" in refused(f"--report={ledger}")
    assert "ledger: expected a new file" in refused(f"--ledger={report}")
    frames = ["upscale", "-", "-o", "-", "--raw=8x8:gray", "--model", model]
    assert main([*frames, f"--ledger={notes}", f"--exit-map={tmp_path / 'maps'}"]) == 2
    assert "ledger: expected a new file" in capsys.readouterr().err
    assert not (tmp_path / "maps").exists()


class Hesitant(io.RawIOBase):
    """Takes a thousand bytes at a time, until it is full."""

    def __init__(self, room: int) -> None:
        self.room, self.taken = room, b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if len(self.taken) == self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        some = bytes(data[: min(1000, self.room - len(self.taken))])
        self.taken += some
        return len(some)


def test_streams_that_take_a_part_get_the_rest() -> None:
    data = bytes(range(256)) * 20
    stream = Hesitant(len(data))
    assert WholeWriter(stream).write(data) == len(data)
    assert stream.taken == data
    with pytest.raises(ImageError, match="-: cannot be written: No space left on device"):
        WholeWriter(Hesitant(1500)).write(data)
    ends = os.pipe()
    os.set_blocking(ends[1], False)
    full = pytest.raises(ImageError, match="-: cannot be written: Resource temporarily unavailable")
    with open(ends[0], "rb"), open(ends[1], "wb", buffering=0) as pipe, full:
        WholeWriter(pipe).write(bytes(1 << 24))


@pytest.mark.parametrize("raw", ["30x20:rgb24", None])
def test_frames_into_a_stream_that_takes_a_part(model: str, raw: str | None) -> None:
    frame = pixels(3).permute(1, 2, 0).numpy().tobytes()
    data = frame if raw else b"P6 30 20 255\n" + frame
    whole, parts = io.BytesIO(), Hesitant(1 << 20)
    for target in (whole, parts):
        # a stream by what it can do, not by its type
        result = enaf.upscale_frames(io.BytesIO(data), target, raw=raw, model=model, force_exit=0)  # type: ignore[arg-type]
        assert result.status == "done"
    assert parts.taken == whole.getvalue()
    full = Hesitant(5000)
    result = enaf.upscale_frames(io.BytesIO(data), full, raw=raw, model=model, force_exit=0)  # type: ignore[arg-type]
    assert result.error == "frame 0: -: cannot be written: No space left on device"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_image_into_a_full_standard_output(tmp_path: Path, model: str, unbuffered: str) -> None:
    command = [sys.executable, "-m", "enaf", "upscale", str(photo(tmp_path / "in.png")), "-o", "-", "--model", model]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, timeout=300, check=False, env=environment
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[0] == "failed: -: cannot be written: No space left on device"


def test_a_full_standard_output_is_a_failure(tmp_path: Path, model: str) -> None:
    source = photo(tmp_path / "in.png")
    command = [sys.executable, "-m", "enaf", "upscale", str(source), "-o", str(tmp_path / "o.png"), "--model", model]
    with open("/dev/full", "w") as full:
        done = subprocess.run([*command, "--json"], stdout=full, stderr=subprocess.PIPE, timeout=300, check=False)
    assert done.returncode == 1
    assert b"No space left on device" in done.stderr


def enaf_process(*arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "enaf", "upscale", *arguments]
    return subprocess.run(command, input=data, capture_output=True, timeout=300, check=False)


def test_an_image_through_a_pipe(tmp_path: Path, model: str, upscaler: Upscaler) -> None:
    photo(tmp_path / "in.png")
    data = (tmp_path / "in.png").read_bytes()
    done = enaf_process("-", "-o", "-", "--model", model, "--format=tif", "--force-exit=1", data=data)
    assert done.returncode == 0, done.stderr
    (tmp_path / "out.tif").write_bytes(done.stdout)
    assert same(read_image(tmp_path / "out.tif").pixels, upscaler(pixels(3), force_exit=1))
    assert b"120x80" in done.stderr


def frames_in_process(monkeypatch: pytest.MonkeyPatch, data: bytes, *arguments: str) -> tuple[int, bytes]:
    """The command with these standard streams, without a process of its own."""

    class Streams:
        def __init__(self, data: bytes = b"") -> None:
            self.buffer = io.BytesIO(data)

        def isatty(self) -> bool:
            return False

        def write(self, text: str) -> int:
            return len(text)

        def flush(self) -> None:
            pass

    out = Streams()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", Streams(data))
        patched.setattr(sys, "stdout", out)
        return main(["upscale", "-", "-o", "-", *arguments]), out.buffer.getvalue()


@pytest.mark.parametrize("form", ["gray", "gray16le", "rgb24", "rgb48le"])
def test_bare_frames(monkeypatch: pytest.MonkeyPatch, model: str, upscaler: Upscaler, form: str) -> None:
    dtype = "uint16" if "16" in form or "48" in form else "uint8"
    channels = 1 if form.startswith("gray") else 3
    frames = [pixels(channels, dtype), pixels(channels, dtype)[:, torch.arange(19, -1, -1)]]
    data = b"".join(frame.permute(1, 2, 0).numpy().astype(dtype).tobytes() for frame in frames)
    options = (f"--raw=30x20:{form}", "--model", model, "--force-exit=1")
    status, out = frames_in_process(monkeypatch, data, *options)
    assert status == 0
    expected = b"".join(upscaler(frame, force_exit=1).permute(1, 2, 0).numpy().tobytes() for frame in frames)
    assert out == expected
    status, out = frames_in_process(monkeypatch, data[:-1], *options)
    assert status == 1
    assert out == expected[: len(expected) // 2]


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_ppm_frames_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, upscaler: Upscaler, dtype: str
) -> None:
    data = b""
    for height in (20, 11):
        data += photo(tmp_path / "frame.ppm", 3, dtype, height=height).read_bytes()
    status, out = frames_in_process(monkeypatch, data, "--format=ppm", "--model", model, "--force-exit=1")
    assert status == 0
    expected = b""
    for height in (20, 11):
        write_image(tmp_path / "frame.ppm", upscaler(pixels(3, dtype, height), force_exit=1))
        expected += (tmp_path / "frame.ppm").read_bytes()
    assert out == expected


@pytest.mark.parametrize("form", ["--raw=30x20:rgb24", "--format=ppm"])
def test_exits_of_frames_are_drawn_into_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, form: str
) -> None:
    frames = [pixels(3), pixels(3)[:, torch.arange(19, -1, -1)]]
    data = b""
    for index, frame in enumerate(frames):
        write_image(tmp_path / f"{index}.png", frame)
        header = b"P6 30 20 255\n" if "ppm" in form else b""
        data += header + frame.permute(1, 2, 0).numpy().tobytes()
    maps, ledger = tmp_path / "maps", tmp_path / "ledger.jsonl"
    options = (form, "--model", model, f"--exit-map={maps}", f"--ledger={ledger}")
    status, _ = frames_in_process(monkeypatch, data, *options)
    assert status == 0
    assert tree(maps) == ["00000000.png", "00000001.png"]
    for index in range(2):
        drawn = tmp_path / f"map-{index}.png"
        enaf.upscale_files(tmp_path / f"{index}.png", tmp_path / "out.png", model=model, exit_map=drawn)
        assert (maps / f"0000000{index}.png").read_bytes() == drawn.read_bytes()
    (entry,) = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert (entry["status"], entry["notes"]) == ("done", ["2 frames"])
    for place in ("map.png", "ledger.jsonl"):
        status, out = frames_in_process(monkeypatch, data, form, "--model", model, f"--exit-map={tmp_path / place}")
        assert (status, out) == (2, b"")


@pytest.mark.parametrize("form", [None, "30x20:rgb24"])
def test_frames_by_the_function_and_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: str, form: str | None
) -> None:
    header = b"" if form else b"P6 30 20 255\n"
    frames = [pixels(3), pixels(3)[:, torch.arange(19, -1, -1)]]
    data = b"".join(header + frame.permute(1, 2, 0).numpy().tobytes() for frame in frames)
    options: dict[str, Any] = {
        "model": model, "size": (77, 55), "gamma": 1.2, "budget": 0.5, "patch_size": 16, "overlap": 2, "device": "cpu",
        "dtype": "bfloat16",
    }  # fmt: skip
    out = io.BytesIO()
    result = enaf.upscale_frames(io.BytesIO(data), out, raw=form, ledger=tmp_path / "function.jsonl", **options)
    assert (result.status, result.notes, result.width, result.height) == ("done", ["2 frames"], 77, 55)
    parts = []
    for frame in frames:
        write_image(tmp_path / "one.png", frame)
        parts += enaf.upscale_files(tmp_path / "one.png", tmp_path / "large.png", **options)
    assert result.exits == [sum(counts) for counts in zip(*(part.exits for part in parts), strict=True)]
    for fact in ("paper", "macs"):
        assert result.cost[fact] == pytest.approx(sum(part.cost[fact] for part in parts) / 2)
    flags = [
        f"--{name.replace('_', '-')}={'x'.join(map(str, value)) if name == 'size' else value}"
        for name, value in options.items()
    ]
    flags += [f"--raw={form}" if form else "--format=ppm", f"--ledger={tmp_path / 'command.jsonl'}"]
    assert frames_in_process(monkeypatch, data, *flags) == (0, out.getvalue())
    entries = [json.loads((tmp_path / f"{name}.jsonl").read_text()) for name in ("function", "command")]
    assert entries[0]["exits"] == entries[1]["exits"] == result.exits
    with pytest.raises(ValueError, match="raw: expected WIDTHxHEIGHT"):
        enaf.upscale_frames(io.BytesIO(data), out, raw="30x20:rgb", **options)


def test_the_command_and_the_function_make_the_same_file(tmp_path: Path, model: str) -> None:
    """Every option, in both."""
    source = photo(tmp_path / "in.png", 4)
    options: dict[str, Any] = {
        "model": model, "size": (77, 55), "gamma": 1.2, "budget": 0.5, "patch_size": 16, "overlap": 2, "device": "cpu",
        "dtype": "bfloat16", "quality": 80, "strip": "exif", "exit_map": tmp_path / "map.png",
        "ledger": tmp_path / "ledger.jsonl", "resume": True,
    }  # fmt: skip
    enaf.upscale_files(source, tmp_path / "function.webp", **options)
    flags = [
        f"--{name.replace('_', '-')}"
        + ("" if value is True else f"={'x'.join(map(str, value)) if name == 'size' else value}")
        for name, value in options.items()
    ]
    assert main(["upscale", str(source), "-o", str(tmp_path / "command.webp"), "--max-megapixels=1", *flags]) == 0
    assert (tmp_path / "function.webp").read_bytes() == (tmp_path / "command.webp").read_bytes()
