# SPDX-License-Identifier: Apache-2.0
"""Benchmarks built from small images under the names of their collections."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from enaf.cli import main
from enaf.degradation import downsample
from enaf.evaluate.prepare import BENCHMARKS, piece_origins, pixels_sha256, prepare
from enaf.evaluate.sets import find_sets
from enaf.image_io import read_image, write_image


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """Images called like those of DIV8K, two a set, one of them below a sub-folder."""
    generator = torch.Generator().manual_seed(0)
    for number in (1200, 1201, 1300, 1301, 1400, 1401, 1500, 1501):
        folder = tmp_path / "div8k" / ("more" if number % 2 else "")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (3, 150, 211), generator=generator).to(torch.uint8)
        write_image(folder / f"{number}.png", pixels)
    return tmp_path / "div8k"


@pytest.mark.parametrize(
    ("name", "numbers", "hr_size", "lr_size"),
    [
        ("Test2K", ["1201", "1300"], (52, 36), (13, 9)),  # 211x150 reduced four times: 53x38, cut to multiples of four
        ("Test4K", ["1301", "1400"], (104, 72), (26, 18)),
        ("Test8K", ["1401", "1500"], (208, 148), (52, 37)),
    ],
)
def test_sets_of_div8k(
    collection: Path,
    tmp_path: Path,
    name: str,
    numbers: list[str],
    hr_size: tuple[int, int],
    lr_size: tuple[int, int],
) -> None:
    made = prepare(BENCHMARKS[name], collection, tmp_path / "sets")
    folder = tmp_path / "sets" / name
    assert sorted(path.stem for path in (folder / "HR").iterdir()) == numbers
    assert (made.files, made.complete) == (2, False)
    for number in numbers:
        hr = read_image(folder / "HR" / f"{number}.png").pixels
        lr = read_image(folder / "LR" / "x4" / f"{number}.png").pixels
        assert (hr.shape[2], hr.shape[1]) == hr_size
        assert (lr.shape[2], lr.shape[1]) == lr_size
        assert torch.equal(lr, downsample(hr, 4))


def test_reduction_is_antialiased_bicubic(collection: Path, tmp_path: Path) -> None:
    prepare(BENCHMARKS["Test4K"], collection, tmp_path)
    with Image.open(collection / "1400.png") as image:
        half = image.crop((0, 0, 210, 150)).resize((105, 75), Image.Resampling.BICUBIC)
        expected = np.asarray(half).astype(int)[:72, :104]
    hr = read_image(tmp_path / "Test4K" / "HR" / "1400.png").pixels.permute(1, 2, 0).numpy().astype(int)
    assert np.abs(hr - expected)[3:-3, 3:-3].max() <= 1


def test_training_pieces_of_div2k(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (3, 260, 320), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    (tmp_path / "div2k").mkdir()
    write_image(tmp_path / "div2k" / "0001.png", pixels)
    write_image(tmp_path / "div2k" / "0801.png", pixels)
    prepare(BENCHMARKS["DIV2K-sub"], tmp_path / "div2k", tmp_path)
    pieces = sorted((tmp_path / "DIV2K-sub" / "HR").iterdir())
    sizes = {"1": (260, 320), "0.9": (232, 288), "0.8": (208, 256), "0.7": (180, 224), "0.6": (156, 192)}
    expected = {
        scale: len(piece_origins(height)) * len(piece_origins(width)) for scale, (height, width) in sizes.items()
    }
    found = {scale: sum(path.name.startswith(f"{scale}_0001_s") for path in pieces) for scale in sizes}
    assert found == expected
    assert sum(expected.values()) == len(pieces)
    first = read_image(tmp_path / "DIV2K-sub" / "HR" / "1_0001_s002.png").pixels
    assert torch.equal(first, pixels[:, :128, 64:192])
    lr = read_image(tmp_path / "DIV2K-sub" / "LR" / "x4" / "1_0001_s002.png").pixels
    assert torch.equal(lr, downsample(pixels, 4)[:, :32, 16:48])


def test_pieces_reach_the_edge_where_enough_is_left() -> None:
    assert piece_origins(128) == [0]
    assert piece_origins(240) == [0, 64]  # 48 pixels are left: not more than 48
    assert piece_origins(241) == [0, 64, 113]
    assert piece_origins(127) == []


def test_manifest_tells_the_pixels_not_the_files(collection: Path, tmp_path: Path) -> None:
    first = prepare(BENCHMARKS["Test8K"], collection, tmp_path / "a")
    with Image.open(collection / "more" / "1401.png") as image:  # the same pixels in another file
        image.save(tmp_path / "1401.bmp")
    (collection / "more" / "1401.png").unlink()
    (tmp_path / "1401.bmp").rename(collection / "1401.bmp")
    second = prepare(BENCHMARKS["Test8K"], collection, tmp_path / "b")
    assert first.sha256 == second.sha256
    manifest = json.loads((tmp_path / "b" / "Test8K" / "manifest.json").read_text())
    assert (manifest["benchmark"], manifest["originals"], manifest["of"]) == ("Test8K", 2, 100)
    hr = read_image(tmp_path / "b" / "Test8K" / "HR" / "1401.png").pixels
    by_hand = hashlib.sha256(b"208x148 " + hr.permute(1, 2, 0).contiguous().numpy().tobytes()).hexdigest()
    assert manifest["images"]["1401.png"]["hr"] == by_hand
    pixels = torch.zeros(3, 150, 211, dtype=torch.uint8)
    write_image(collection / "1500.png", pixels)
    assert prepare(BENCHMARKS["Test8K"], collection, tmp_path / "c").sha256 != first.sha256


def test_whole_sets_are_known_as_benchmarks(collection: Path, tmp_path: Path) -> None:
    small = replace(BENCHMARKS["Test8K"], count=2)
    assert prepare(small, collection, tmp_path / "whole").complete
    assert find_sets(tmp_path / "whole")[0].benchmark == "Test8K"
    assert [path.parent.name for path in find_sets(tmp_path / "whole")[0].paths] == ["HR", "HR"]
    prepare(BENCHMARKS["Test8K"], collection, tmp_path / "part")
    assert find_sets(tmp_path / "part")[0].benchmark is None


def test_what_is_there_is_not_made_again(collection: Path, tmp_path: Path) -> None:
    prepare(BENCHMARKS["Test2K"], collection, tmp_path)
    target = tmp_path / "Test2K" / "HR" / "1201.png"
    before = target.stat().st_mtime_ns
    (tmp_path / "Test2K" / "HR" / "1300.png").unlink()
    prepare(BENCHMARKS["Test2K"], collection, tmp_path)
    assert target.stat().st_mtime_ns == before
    assert (tmp_path / "Test2K" / "HR" / "1300.png").is_file()


def test_files_follow_changed_originals(collection: Path, tmp_path: Path) -> None:
    prepare(BENCHMARKS["Test8K"], collection, tmp_path)
    write_image(collection / "1500.png", torch.zeros(3, 150, 211, dtype=torch.uint8))
    (tmp_path / "Test8K" / "LR" / "x4" / "1401.png").write_bytes(b"damaged")
    made = prepare(BENCHMARKS["Test8K"], collection, tmp_path)
    images = json.loads((tmp_path / "Test8K" / "manifest.json").read_text())["images"]
    assert len(images) == made.files == 2
    for name, hashes in images.items():
        for kind, part in (("hr", "HR"), ("lr", "LR/x4")):
            assert pixels_sha256(read_image(tmp_path / "Test8K" / part / name).pixels) == hashes[kind]


def test_command(collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (collection / "1250.png").write_bytes(b"damaged")
    write_image(collection / "1251.png", torch.zeros(4, 20, 30, dtype=torch.uint8))
    arguments = ["prepare", str(collection), "--out", str(tmp_path), "--sets"]
    assert main([*arguments, "Test2K", "Test4K"]) == 1
    out, errors = capsys.readouterr()
    assert "INCOMPLETE: the set has 100 originals" in out
    assert "left out: 1250.png: is not a PNG" in errors
    assert "left out: 1251.png: expected 8-bit grey or RGB without alpha, got 4 channels of uint8" in errors
    assert main([*arguments, "Test3K"]) == 2
    assert "--sets: expected some of Test2K, Test4K" in capsys.readouterr().err
    assert main([*arguments, "DIV2K-sub"]) == 2
    assert "source: no image with numbers 1 to 800" in capsys.readouterr().err


def test_names_that_come_twice_are_refused(collection: Path, tmp_path: Path) -> None:
    write_image(collection / "more" / "1300.png", torch.zeros(3, 20, 20, dtype=torch.uint8))
    with pytest.raises(ValueError, match="1300 is there more than once"):
        prepare(BENCHMARKS["Test2K"], collection, tmp_path)
