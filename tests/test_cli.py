# SPDX-License-Identifier: Apache-2.0
"""The `enaf` command on small images: results, exit statuses, and errors that name the way out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from enaf import calibration
from enaf.adaptive import AdaptiveNetwork
from enaf.checkpoint import save_model
from enaf.cli import main
from enaf.device import usable_device
from enaf.estimator import create_estimator
from enaf.exit_map import draw_exit_map, exit_names
from enaf.image_io import Metadata, read_image, write_image
from enaf.models import create_backbone
from enaf_ext.grid import PatchGrid


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained network in a file, so that nothing here depends on the shipped weights."""
    torch.manual_seed(0)
    network = create_backbone("fsrcnn", 4)
    path = tmp_path_factory.mktemp("model") / "untrained.safetensors"
    save_model(AdaptiveNetwork(network, create_estimator("paper", network.num_exits)), path)
    return str(path)


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "photograph.png"
    ramp = torch.arange(37 * 53, dtype=torch.int64).view(37, 53)
    write_image(
        path,
        torch.stack([ramp % 251, ramp // 11 % 256, ramp // 53 * 6]).to(torch.uint8),
        metadata=Metadata(icc_profile=b"profile"),
    )
    return path


def enaf(*arguments: str | Path) -> int:
    """`enaf ARGUMENTS` in this process; its exit status."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


def test_upscales_a_file_in_a_process_of_its_own(tmp_path: Path, photograph: Path, model: str) -> None:
    command = [sys.executable, "-m", "enaf", "upscale", photograph, "-o", tmp_path / "big.png", "--model", model]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "big.png  212x148" in done.stdout
    assert "bicubic" in done.stdout
    assert "true MACs" in done.stdout
    big = read_image(tmp_path / "big.png")
    assert big.pixels.shape == (3, 148, 212)
    assert big.metadata.icc_profile == b"profile"


def test_is_the_function_of_the_same_name(tmp_path: Path, photograph: Path, model: str) -> None:
    import enaf_ext

    options = {"eta": 0.3, "gamma": 1.5, "patch_size": 16, "overlap": 2}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    assert enaf("upscale", photograph, "-o", tmp_path / "big.png", "--model", model, *flags) == 0
    expected = enaf_ext.upscale(read_image(photograph).pixels, model=model, **options)
    assert torch.equal(read_image(tmp_path / "big.png").pixels, expected)


@pytest.mark.parametrize("flag", ["--budget=0.4", "--force-exit=0", "--force-exit=3", "--eta=0"])
def test_routing_flags(tmp_path: Path, photograph: Path, model: str, flag: str) -> None:
    assert enaf("upscale", photograph, "-o", tmp_path / "big.png", "--model", model, flag, "--quiet") == 0
    assert read_image(tmp_path / "big.png").pixels.shape == (3, 148, 212)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_grey_stays_grey_and_keeps_its_depth(tmp_path: Path, model: str, dtype: torch.dtype) -> None:
    limit = torch.iinfo(dtype).max
    ramp = torch.linspace(0, limit, 40 * 40, dtype=torch.float64).view(1, 40, 40).round().to(torch.int32).to(dtype)
    write_image(tmp_path / "grey.png", ramp)
    out, picture = tmp_path / "big.tif", tmp_path / "map.png"
    assert (
        enaf("upscale", tmp_path / "grey.png", "-o", out, "--model", model, "--force-exit=0", "--exit-map", picture)
        == 0
    )
    big = read_image(out).pixels
    assert big.dtype == dtype
    assert big.shape == (1, 160, 160)
    assert abs(big.double().mean() - ramp.double().mean()) < limit / 100
    assert read_image(picture).pixels.shape[0] == 3


def test_many_inputs_into_a_folder_and_the_rest_goes_on(
    tmp_path: Path, photograph: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "second.jpg", read_image(photograph).pixels)
    (tmp_path / "broken.png").write_bytes(photograph.read_bytes()[:60])
    inputs = [photograph, tmp_path / "broken.png", tmp_path / "second.jpg", tmp_path / "missing.png"]
    assert enaf("upscale", *inputs, "-o", tmp_path / "out", "--model", model) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "enaf-ledger.jsonl",
        "photograph.png",
        "second.jpg",
    ]
    errors = capsys.readouterr().err
    assert "2 of 4 failed" in errors
    assert "broken.png: cannot be read" in errors
    assert "missing.png: no such file" in errors


def test_formats_that_are_only_read_become_png(tmp_path: Path, model: str) -> None:
    from PIL import Image

    Image.new("1", (9, 7), 1).save(tmp_path / "old.pbm")
    assert enaf("upscale", tmp_path / "old.pbm", "-o", tmp_path / "out", "--model", model) == 0
    assert read_image(tmp_path / "out" / "old.png").pixels.shape == (1, 28, 36)


def test_a_target_that_cannot_hold_the_result_is_refused(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "long.png", torch.zeros(3, 1, 4096, dtype=torch.uint8))
    assert enaf("upscale", tmp_path / "long.png", "-o", tmp_path / "big.webp", "--model", model) == 1
    assert "WEBP holds at most 16383 pixels a side, got 16384x4; write PNG or TIFF" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["IN"], "-o/--output"),
        (["IN", "-o", "OUT.gif"], "expected a folder or a name that ends in .png"),
        (["IN", "-o", "."], "is an input itself and would be overwritten"),
        (["IN", "-o", "OUT.png", "--budget=0.5", "--force-exit=1"], "not allowed with argument"),
        (["IN", "IN", "-o", "OUT"], "would both become"),
        (["IN", "IN2", "-o", "IN"], "expected a folder for 2 inputs"),
        (["IN", "-o", "OUT.png", "--exit-map=m.gif"], "exit_map: expected a name that ends in .png, .jpg for"),
        (["IN", "-o", "OUT.png", "--force-exit=7"], "force_exit: expected 0 to 3, got 7"),
        (["IN", "-o", "OUT.png", "--budget=2"], "budget: expected a share between 0 and 1, got 2.0"),
        (["IN", "-o", "OUT.png", "--budget-ms=-1"], "budget_ms: expected a finite number above 0, got -1.0"),
        (["IN", "-o", "OUT.png", "--eta=-1"], "eta: expected a finite number of at least 0, got -1.0"),
        (["IN", "-o", "OUT.png", "--scale=5"], "invalid choice: 5"),
        (["IN", "-o", "OUT.png", "--scale=2", "--size=8x8"], "not allowed with argument"),
        (["IN", "-o", "OUT.png", "--size=8"], "expected WIDTHxHEIGHT, got 8"),
        (["IN", "-o", "OUT.png", "--size=0x8"], "size: expected width and height of at least 1"),
        (["IN", "-o", "OUT.png", "--size=1000001x8"], "at most 1000000, and at most 4294967296 pixels, got 1000001x8"),
        (["IN", "-o", "OUT.png", "--size=100000x100000"], "size: expected width and height of at least 1 and at most"),
        (["IN", "-o", "OUT.png", "--patch-size=1025"], "patch_size: expected at most 1024, got 1025"),
        (["IN", "-o", "OUT.png", "--patch-size=100000000000"], "patch_size: expected at most 1024, got 100000000000"),
        (["IN", "-o", "OUT.png", "--patch-size=0"], "patch_size: expected patch_size >= 1, got 0"),
        (["IN", "-o", "OUT.png", "--format=gif"], "format: expected png"),
        (["IN", "-o", "OUT.png", "--format=jpg"], "format: .jpg contradicts the output OUT.png"),
        (["IN", "-o", "OUT.png", "--strip=exif,gps"], "strip: expected of icc, exif, xmp, resolution, got gps"),
        (["IN", "-o", "OUT.png", "--dtype=int8"], "invalid choice: 'int8'"),
        (["IN", "-o", "OUT.png", "--max-megapixels=0"], "--max-megapixels: expected a number above 0"),
        (["IN", "-o", "OUT.png", "--raw=8x8:rgb24"], "raw: expected - for both the input and the output"),
        (["-", "-o", "-", "--raw=8x8:yuv420p"], "raw: expected WIDTHxHEIGHT: and one of gray"),
        (["-", "-o", "-", "--resume"], "resume: expected an output file or folder"),
        (["*.webp", "-o", "OUT"], "inputs: no images or videos in *.webp"),
        (["IN", "IN2", "-o", "-"], "output: expected a folder for"),
        (["IN", "-o", "OUT.png", "--quality=0"], "quality: expected 1..100, got 0"),
        (["IN", "-o", "OUT.png", "--overlap=20"], "overlap: expected 0 <= overlap <= patch_size // 2, got 20"),
        (["IN", "-o", "OUT.png", "--model=none.safetensors"], "model: no such file: none.safetensors"),
        (["IN", "-o", "OUT.png", "--device=abacus"], "abacus"),
        (["IN", "-o", "OUT.png", "--eta=much"], "invalid float value"),
    ],
)
def test_usage_errors_end_with_2_and_write_nothing(
    tmp_path: Path,
    photograph: Path,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"IN": photograph.name, "IN2": "second.png"}
    command = [names.get(argument, argument) for argument in arguments]
    if not any(argument.startswith("--model") for argument in command):
        command.append(f"--model={model}")
    before = photograph.read_bytes()
    assert enaf("upscale", *command) == 2
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [photograph.name]
    assert photograph.read_bytes() == before


@pytest.mark.parametrize(
    "command",
    [
        ["eval", "--data", "."],
        ["fit", "--data", ".", "--out", "fit.safetensors"],
        ["reproduce", "--data", ".", "--out", "report"],
        ["train", "--data", ".", "--out", "run"],
        ["bench", "photograph.png"],
        ["calibrate"],
    ],
    ids=lambda command: command[0],
)
def test_devices_that_cannot_be_used_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    devices = ["abacus", "cpu:x", f"cuda:{max(1, torch.cuda.device_count())}"]
    for device in devices:
        assert enaf(*command, "--device", device) == 2
        assert f"enaf {command[0]}: error: device: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_automatic_device() -> None:
    assert usable_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert usable_device("cpu") == "cpu"


def test_a_calibration_that_cannot_be_kept_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    setting = calibration.Setting("1.0", "model", "cpu", "float32", 2, 32, 4)
    measured = calibration.Calibration((0.5, 1.5, 2.0, 2.5), 0.1, (0.0, 0.001, 0.001, 0.001))
    setting.path.mkdir(parents=True)  # nothing can take its place
    calibration.keep(setting, measured)
    assert list(setting.path.parent.iterdir()) == [setting.path]
    setting.path.rmdir()
    calibration.keep(setting, measured)
    assert list(setting.path.parent.iterdir()) == [setting.path]
    assert calibration.load(setting) == measured


def test_help_and_version_come_without_torch() -> None:
    code = "import sys\nfrom enaf.cli import main\ntry: main(['--help'])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "upscale" in done.stdout
    assert "doctor" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def test_exit_map_tints_each_patch_in_its_place() -> None:
    grid = PatchGrid(60, 88, 32, 4)
    exits = torch.tensor([[0, 1, 2], [3, 0, 1]])
    picture = torch.full((3, 240, 352), 128, dtype=torch.uint8)
    sheet = draw_exit_map(picture, exits, grid, 4)
    assert sheet.dtype == torch.uint8
    assert sheet.shape[2] == 480
    centres = sheet[:, [60, 180]][:, :, [60, 176, 292]].permute(1, 2, 0).reshape(6, 3)
    same = (centres[:, None] == centres[None]).all(dim=2)
    assert torch.equal(same, exits.flatten()[:, None] == exits.flatten()[None])


def test_exit_map_rejects_another_grid() -> None:
    with pytest.raises(ValueError, match=r"exit_index: expected shape \(2, 3\), got \(1, 3\)"):
        draw_exit_map(torch.zeros(3, 60, 88, dtype=torch.uint8), torch.zeros(1, 3), PatchGrid(60, 88), 4)


def test_exit_names() -> None:
    assert exit_names(4) == ["bicubic", "exit 1", "exit 2", "full network"]
    assert exit_names(2) == ["bicubic", "full network"]
