# SPDX-License-Identifier: Apache-2.0
"""Training on tiny images: it learns, it resumes to the same weights, it survives bad data."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from enaf.checkpoint import load_model
from enaf.train.config import TrainConfig
from enaf.train.data import PatchSampler, hold_out, list_images, load_pairs
from enaf.train.run import resume_run, start_run

TINY = TrainConfig(
    patch_size=8,
    backbone_steps=12,
    exits_steps=8,
    estimator_steps=10,
    backbone_batch=2,
    exits_batch=2,
    estimator_batch=4,
    estimator_patches=24,
    validation_images=1,
    log_every=2,
    validate_every=6,
    checkpoint_every=3,
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(0)
    for index in range(4):
        coarse = generator.integers(0, 256, (9 + index, 11, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((88, 72), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def trained(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    start_run(TINY, photographs, run, threads=1, quiet=True)
    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_model(run / "model.safetensors").state_dict()


def test_run_folder_describes_itself(trained: Path) -> None:
    assert {"config.json", "log.jsonl", "curves.png", "checkpoint.pt", "model.safetensors"} == set(os.listdir(trained))
    description = json.loads((trained / "config.json").read_text())
    assert description["config"]["backbone_steps"] == 12
    assert len(description["data_sha256"]) == 64
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["phase"] == "backbone" and "loss" in line] == [2, 4, 6, 8, 10, 12]
    assert {line["phase"] for line in lines if "validation" in line} == {"backbone", "exits", "estimator"}


def test_interrupted_run_ends_in_the_same_weights(photographs: Path, trained: Path, tmp_path: Path) -> None:
    """A run killed (SIGKILL) whenever it has written a new checkpoint, over and over."""
    run = tmp_path / "killed"
    command = [sys.executable, "-m", "enaf", "train", "--threads", "1", "--quiet"]
    begin = [*command, "--data", str(photographs), "--out", str(run)]
    for name in TINY.__dataclass_fields__:
        begin += [f"--{name.replace('_', '-')}", str(getattr(TINY, name))]
    kills = 0
    for attempt in range(20):
        process = subprocess.Popen(begin if attempt == 0 else [*command, "--resume", str(run)])
        checkpoint, seen = run / "checkpoint.pt", None
        seen = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None:
            if kills < 3 and checkpoint.exists() and checkpoint.stat().st_mtime_ns != seen:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                break
            time.sleep(0.002)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert kills >= 1
    expected, result = weights(trained), weights(run)
    for name, tensor in expected.items():
        assert torch.equal(result[name], tensor), name
    steps = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    logged = [(line["phase"], line["step"]) for line in steps if "loss" in line]
    assert logged == sorted(set(logged), key=logged.index), "no line twice"


def test_it_learns(photographs: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        **{**TINY.__dict__, "backbone_steps": 150, "exits_steps": 30, "log_every": 10, "warmup_steps": 5}
    )
    run = tmp_path / "run"
    start_run(config, photographs, run, threads=1, quiet=True)
    losses = [
        entry["loss"]
        for entry in map(json.loads, (run / "log.jsonl").read_text().splitlines())
        if entry["phase"] == "backbone" and "loss" in entry
    ]
    assert np.mean(losses[-3:]) < 0.8 * losses[0]


def test_bad_images_are_named_and_left_out(photographs: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "good.png").write_bytes((photographs / "0.png").read_bytes())
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    pairs = load_pairs(list_images(tmp_path), 4, 8)
    assert [pair.name for pair in pairs] == ["good.png"]
    assert "broken.png" in caplog.text
    assert "small.png" in caplog.text
    (tmp_path / "good.png").unlink()
    with pytest.raises(ValueError, match="data: none of the 2 images is usable"):
        load_pairs(list_images(tmp_path), 4, 8)


def test_patches_match_their_originals(photographs: Path) -> None:
    pairs = load_pairs(list_images(photographs), 4, 8)
    sampler = PatchSampler([pairs[:2], pairs[2:]], [0.5, 0.5], patch_size=8, scale=4, seed=3)
    wide = PatchSampler([pairs[:2], pairs[2:]], [0.5, 0.5], patch_size=8, scale=4, seed=3, margin=4)
    lr, hr = sampler.batch(5, 6)
    wide_lr, wide_hr = wide.batch(5, 6)
    assert torch.equal(wide_lr[..., 4:-4, 4:-4], lr)
    assert torch.equal(wide_hr, hr)
    coarse = torch.nn.functional.avg_pool2d(hr, 4)
    assert float((coarse - lr).abs().mean()) < 0.02, "flips and turns are the same in both"
    assert torch.equal(sampler.batch(5, 6)[0], lr)
    assert not torch.equal(sampler.batch(6, 6)[0], lr)


def test_hold_out() -> None:
    paths = [Path(str(index)) for index in range(10)]
    training, validation = hold_out(paths, 3)
    assert len(validation) == 3
    assert sorted(training + validation) == sorted(paths)


def test_rejects(photographs: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="already holds a run"):
        start_run(TINY, photographs, trained)
    with pytest.raises(FileNotFoundError, match="holds no run"):
        resume_run(tmp_path)
    with pytest.raises(ValueError, match="data: expected a folder, got"):
        list_images(tmp_path / "nothing")
    with pytest.raises(ValueError, match="patch_size: expected at least 4, got 2"):
        TrainConfig(patch_size=2)
