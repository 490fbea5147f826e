# SPDX-License-Identifier: Apache-2.0
"""Training on tiny images: it learns, it resumes to the same weights, also on two processes, it survives bad data."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from enaf.adaptive import AdaptiveNetwork
from enaf.checkpoint import load_model, model_header
from enaf.cli import main
from enaf.degradation import downsample
from enaf.estimator import create_estimator
from enaf.image_io.folders import list_images
from enaf.models import backbone_names, bicubic, create_backbone
from enaf.train.config import RECIPES, TrainConfig
from enaf.train.data import (
    SMALLEST_ERROR,
    UNIT_ERROR,
    ImagePair,
    PatchSampler,
    hold_out,
    load_pairs,
    make_pair,
    read_rgb,
)
from enaf.train.run import resume_run, start_run
from enaf.train.soap import SOAP
from enaf.train.symmetry import SYMMETRIES, mirrored, upright
from enaf.train.teacher import Teacher
from enaf.train.trainer import Phase, Trainer
from enaf.train.versions import VersionSampler

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


@pytest.fixture
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than a tiny run; others look at the curves."""
    monkeypatch.setattr("enaf.train.curves.draw", lambda entries, path: None)


def weights(run: Path, name: str = "model") -> dict[str, torch.Tensor]:
    return load_model(run / f"{name}.safetensors", int(model_header(run / f"{name}.safetensors")["scale"])).state_dict()


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def flags(config: TrainConfig, photographs: Path, run: Path) -> list[str]:
    """The command line that says ``config``."""
    result = ["--data", str(photographs), "--out", str(run)]
    for name in config.__dataclass_fields__:
        if name not in ("compile", "teacher"):
            result += [f"--{name.replace('_', '-')}", str(getattr(config, name))]
    return result


def test_run_folder_describes_itself(trained: Path) -> None:
    begin = {"config.json", "init.safetensors"}
    assert begin | {"log.jsonl", "curves.png", "checkpoint.pt", "best.safetensors", "model.safetensors"} == set(
        os.listdir(trained)
    )
    description = json.loads((trained / "config.json").read_text())
    assert description["config"]["backbone_steps"] == 12
    assert len(description["data_sha256"]) == len(description["sources_sha256"]) == 64
    lines = log_of(trained)
    assert [line["step"] for line in lines if line["phase"] == "backbone" and "loss" in line] == [2, 4, 6, 8, 10, 12]
    assert all(0 < line["data_share"] < 1 for line in lines if "loss" in line)
    assert {line["phase"] for line in lines if "validation" in line} == {"backbone", "exits", "estimator"}
    best, measured = model_header(trained / "best.safetensors"), [x for x in lines if "validation" in x]
    highest = max(line["validation"]["psnr_exit_3"] for line in measured if line["phase"] == "exits")
    assert best["psnr_exit_3"] == f"{highest:.4f}"
    network = {name: tensor for name, tensor in weights(trained, "best").items() if name.startswith("network.")}
    assert all(torch.equal(tensor, weights(trained)[name]) for name, tensor in network.items()), "handed on"


def test_interrupted_run_ends_in_the_same_weights(photographs: Path, trained: Path, tmp_path: Path) -> None:
    """A run killed (SIGKILL) whenever it has written a new checkpoint, over and over."""
    run = tmp_path / "killed"
    command = [sys.executable, "-m", "enaf", "train", "--threads", "1", "--quiet"]
    begin = [*command, *flags(TINY, photographs, run)]
    kills = 0
    for attempt in range(20):
        process = subprocess.Popen(begin if attempt == 0 else [*command, "--resume", str(run)])
        killed = kills < 3 and wait_for_checkpoint(process, run)
        if killed:
            process.send_signal(signal.SIGKILL)
            kills += 1
        if process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert kills >= 1
    expected, result = weights(trained), weights(run)
    for name, tensor in expected.items():
        assert torch.equal(result[name], tensor), name
    logged, whole = (
        [(line["phase"], line["step"], line["loss"]) for line in log_of(folder) if "loss" in line]
        for folder in (run, trained)
    )
    assert logged == whole


def wait_for_checkpoint(process: subprocess.Popen[bytes], run: Path) -> bool:
    """Whether ``process`` wrote a checkpoint before it ended."""
    checkpoint = run / "checkpoint.pt"
    seen = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    while process.poll() is None:
        if checkpoint.exists() and checkpoint.stat().st_mtime_ns != seen:
            return True
        time.sleep(0.002)
    return False


def test_two_processes_train_what_one_does(photographs: Path, tmp_path: Path) -> None:
    """``torchrun`` with gloo, stopped once and resumed, against one process with the same batches.

    In float32 with Adam only the order of summation differs: weights move by up to 3e-3 a step here, and differ by less
    than a thirtieth of that in the end. bfloat16 would round each process's gradients, and SOAP's first eigenbases have
    directions without any gradient yet, which rounding turns.
    """
    config = replace(TINY, optimizer="adam", precision="float32", backbone_steps=6, exits_steps=6, warmup_steps=2)
    alone, together = tmp_path / "alone", tmp_path / "together"
    start_run(config, photographs, alone, threads=1, quiet=True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "enaf"]
    command = [*launch, "train", "--threads", "1", "--quiet"]
    process = subprocess.Popen([*command, *flags(config, photographs, together)], stderr=subprocess.DEVNULL)
    assert wait_for_checkpoint(process, together)
    process.terminate()
    assert process.wait() != 0
    subprocess.run([*command, "--resume", str(together)], check=True)
    expected, result, initial = weights(alone), weights(together), weights(alone, "init")
    assert max(float((expected[name] - initial[name]).abs().max()) for name in expected) > 1e-3
    for name, tensor in expected.items():
        torch.testing.assert_close(result[name], tensor, rtol=0, atol=1e-4, msg=lambda text, name=name: name + text)
    for one, two in zip(log_of(alone), log_of(together), strict=True):
        assert (one["phase"], one["step"]) == (two["phase"], two["step"]), "one process writes"
        for figure in ("loss", "validation"):
            assert figure not in one or one[figure] == pytest.approx(two[figure], rel=1e-4)


def test_it_learns(photographs: Path, tmp_path: Path) -> None:
    config = replace(TINY, phases="backbone", backbone_steps=150, log_every=10, warmup_steps=5, validate_every=150)
    run = tmp_path / "run"
    start_run(config, photographs, run, threads=1, quiet=True)
    losses = [line["loss"] for line in log_of(run) if line["phase"] == "backbone" and "loss" in line]
    assert np.mean(losses[-3:]) < 0.8 * losses[0]


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("backbone", backbone_names())
def test_every_backbone_trains_at_every_scale(
    backbone: str, scale: int, photographs: Path, tmp_path: Path, no_curves: None
) -> None:
    steps = {"backbone_steps": 2, "exits_steps": 2, "estimator_steps": 4, "estimator_patches": 4, "warmup_steps": 1}
    config = replace(TINY, backbone=backbone, scale=scale, **steps)
    model = load_model(start_run(config, photographs, tmp_path / "run", threads=1, quiet=True), scale)
    assert (model.network.name, model.network.scale) == (backbone, scale)
    assert all(np.isfinite(line.get("loss", 0)) for line in log_of(tmp_path / "run"))
    initial = weights(tmp_path / "run", "init")
    unmoved = [name for name, parameter in model.named_parameters() if torch.equal(parameter, initial[name])]
    assert unmoved == []


def test_a_phase_alone_on_a_given_model(photographs: Path, trained: Path, tmp_path: Path) -> None:
    config = replace(TINY, phases="estimator")
    run = tmp_path / "estimator"
    start_run(config, photographs, run, init=str(trained / "model.safetensors"), threads=1, quiet=True)
    before, after = weights(trained), weights(run)
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"estimator"}
    assert {line["phase"] for line in log_of(run)} == {"estimator"}
    with pytest.raises(ValueError, match="phases: expected init where the backbone is not trained, got 'estimator'"):
        start_run(config, photographs, tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"scale: .* upscales by 4, asked for 2"):
        start_run(replace(config, scale=2), photographs, tmp_path / "nothing", init=str(trained / "model.safetensors"))
    assert not (tmp_path / "nothing").exists()


def test_a_phase_leaves_its_best_weights(tmp_path: Path, no_curves: None) -> None:
    model = AdaptiveNetwork(create_backbone("fsrcnn"), create_estimator("gain"))
    bias = model.network.get_parameter("head.0.bias")
    figures = iter([1.0, 3.0, 2.0])
    seen: list[float] = []

    def validate(average: AdaptiveNetwork) -> dict[str, float]:
        seen.append(float(average.network.get_parameter("head.0.bias").detach()[0]))
        return {"psnr": next(figures)}

    phase = Phase(
        name="backbone",
        steps=6,
        parameter_groups=[{"params": [bias], "lr": 1e-2}],
        batch=lambda step: None,
        loss=lambda batch, step: (1 + bias).sum(),
        validate=validate,
        selects="psnr",
    )
    Trainer(replace(TINY, validate_every=2), tmp_path, model, quiet=True).run_phase(phase)
    assert seen[0] > seen[1] > seen[2]
    assert float(bias[0].detach()) == seen[1]
    phase.name, phase.loss = "exits", lambda batch, step: bias.sum() * float("nan")
    with pytest.raises(ValueError, match="exits_learning_rate: the loss is no longer finite at step 2"):
        Trainer(TINY, tmp_path, model, quiet=True).run_phase(phase)


@pytest.mark.slow
def test_compiled_training_is_the_same(photographs: Path, tmp_path: Path) -> None:
    config = replace(TINY, phases="backbone", precision="float32", backbone_steps=4, warmup_steps=1)
    start_run(config, photographs, tmp_path / "eager", threads=1, quiet=True)
    start_run(replace(config, compile=True), photographs, tmp_path / "compiled", threads=1, quiet=True)
    for name, tensor in weights(tmp_path / "eager").items():
        torch.testing.assert_close(weights(tmp_path / "compiled")[name], tensor, rtol=0, atol=1e-5)


def test_bad_images_are_named_and_left_out(photographs: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Also what has more than 8 bits, which Pillow would clip to white."""
    good = (photographs / "0.png").read_bytes()
    (tmp_path / "noimage.png").write_bytes(b"no picture")
    (tmp_path / "truncated.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "good.png").write_bytes(good)
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    Image.fromarray(np.full((72, 88), 9000, dtype=np.uint16)).save(tmp_path / "deep.png")
    pairs = load_pairs(list_images(tmp_path), 4, 8)
    assert [pair.name for pair in pairs] == ["good.png"]
    for name in ("noimage.png", "truncated.png", "small.png", "deep.png"):
        assert name in caplog.text
    assert "deep.png: expected 8 bits a channel, got uint16" in caplog.text
    (tmp_path / "good.png").unlink()
    with pytest.raises(ValueError, match="data: none of the 4 images is usable"):
        load_pairs(list_images(tmp_path), 4, 8)


def test_every_kind_of_8_bits_becomes_rgb(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for channels, name in ((1, "grey"), (2, "grey-alpha"), (3, "rgb"), (4, "rgb-alpha")):
        pixels = generator.integers(0, 256, (6, 5, channels), dtype=np.uint8)
        Image.fromarray(pixels.squeeze()).save(tmp_path / f"{name}.png")
        read = read_rgb(tmp_path / f"{name}.png").permute(1, 2, 0).numpy()
        assert np.array_equal(read, np.broadcast_to(pixels[:, :, : 3 if channels > 2 else 1], (6, 5, 3)))


def test_patches_match_their_originals(photographs: Path, device: torch.device) -> None:
    pairs = load_pairs(list_images(photographs), 4, 8)
    sampler, wide = (
        PatchSampler([pairs[:2], pairs[2:]], [0.5, 0.5], patch_size=8, scale=4, seed=3, margin=margin, device=device)
        for margin in (0, 4)
    )
    batch, wider = sampler.batch(5, 6), wide.batch(5, 6)
    assert torch.equal(wider.lr[..., 4:-4, 4:-4], batch.lr)
    assert torch.equal(wider.hr, batch.hr)
    assert batch.hr.is_contiguous(memory_format=torch.channels_last)
    coarse = torch.nn.functional.avg_pool2d(batch.hr, 4)
    assert float((coarse - batch.lr).abs().mean()) < 0.02, "flips and turns are the same in both"
    on_host = PatchSampler([pairs[:2], pairs[2:]], [0.5, 0.5], patch_size=8, scale=4, seed=3).batch(5, 6)
    assert torch.equal(on_host.hr, batch.hr.cpu()), "the same on every device"
    assert not torch.equal(sampler.batch(6, 6).lr, batch.lr)
    halves = [sampler.batch(5, 6, slice(0, 3)), sampler.batch(5, 6, slice(3, 6))]
    assert torch.equal(torch.cat([half.lr for half in halves]), batch.lr), "parts make up the whole"
    assert torch.equal(torch.cat([half.image for half in halves]), batch.image)


def test_errors_weigh_by_what_bicubic_leaves_of_their_image() -> None:
    torch.manual_seed(0)
    rough = make_pair("rough", torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8), 4)
    flat = make_pair("flat", torch.full((3, 64, 64), 90, dtype=torch.uint8), 4)
    batch = PatchSampler([[rough, flat]], [1.0], patch_size=8, scale=4, seed=0).batch(0, 40)
    error = (bicubic(rough.lr[None].float() / 255, 4)[0] - rough.hr.float() / 255).square().mean()
    expected = UNIT_ERROR / (torch.tensor([float(error), 0.0]) + SMALLEST_ERROR)
    torch.testing.assert_close(batch.weight, expected[batch.image])
    assert set(batch.image.tolist()) == {0, 1}


def versions(hr: torch.Tensor, share: float, **settings: float) -> VersionSampler:
    settings = {"low": 0.6, "high": 2.5, "sharpness": 0.8, "noise": 2.5} | settings
    pairs = [make_pair("small", hr[:, :40, :60], 4), make_pair("large", hr, 4)]
    return VersionSampler(pairs, share, **settings, patch_size=16, scale=4, margin=12, seed=1)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_versions_are_reduced_after_they_are_made(share: float) -> None:
    """Also of a photograph smaller than what a patch and its surroundings take."""
    hr = torch.randint(0, 256, (3, 300, 400), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sampler, groups = versions(hr, share), set()
    for step in range(6):
        batch = sampler.batch(step, 40)
        assert (batch.lr.shape, batch.hr.shape) == ((40, 3, 40, 40), (40, 3, 64, 64))
        reduced = downsample((batch.hr * 255).round().to(torch.uint8), 4)
        assert torch.equal(reduced[..., 2:-2, 2:-2], (batch.lr[..., 14:-14, 14:-14] * 255).round().to(torch.uint8))
        groups |= set(batch.image.tolist())
        again = sampler.batch(step, 40)
        assert torch.equal(batch.lr, again.lr)
        assert torch.equal(batch.hr, again.hr)
    assert not torch.equal(batch.hr, sampler.batch(0, 40).hr)
    assert {group // 5 for group in groups} == {0, 1}
    assert ({group % 5 for group in groups} == {0}) == (share == 0)


def test_versions_are_noisy_and_sharpened_where_asked() -> None:
    flat = torch.full((3, 300, 300), 90, dtype=torch.uint8)
    patches = [versions(flat, 1.0, noise=0.0).batch(step, 8).hr for step in range(4)]
    assert all(bool((patch == 90 / 255).all()) for patch in patches)
    noisy = torch.cat([versions(flat, 1.0, noise=5.0).batch(step, 50).hr for step in range(6)])
    spread = 255 * noisy.std(dim=(1, 2, 3))
    assert 0.5 < (spread > 0.3).float().mean() < 0.9, "most, not all"
    assert spread.max() < 5.5
    steps = torch.arange(300)[:, None].expand(3, 300, 300) // 3 % 2
    edges = (100 + 50 * steps).to(torch.uint8)
    plain, sharpened = (
        torch.cat(
            [versions(edges, 1.0, noise=0.0, sharpness=by, low=1.0, high=1.0).batch(step, 8).hr for step in range(8)]
        )
        for by in (0.0, 0.8)
    )
    gain = (sharpened.std(dim=(1, 2, 3)) + 1e-6) / (plain.std(dim=(1, 2, 3)) + 1e-6)  # some patches have no edge
    assert gain.min() < 0.9
    assert gain.max() > 1.1
    assert ((gain - 1).abs() < 1e-3).any(), "not all"


def test_samples_are_all_crops_in_all_symmetries() -> None:
    """A 3x2 image whose pixels are numbered has two crops of 2x2, each in eight symmetries, and no other patches."""
    lr = torch.arange(6, dtype=torch.uint8).view(1, 3, 2).repeat(3, 1, 1)
    pair = ImagePair("numbers", lr.repeat_interleave(2, 1).repeat_interleave(2, 2), lr)
    batch = PatchSampler([[pair]], [1.0], patch_size=2, scale=2, seed=0).batch(0, 400)
    drawn = {tuple((patch[0] * 255).round().int().flatten().tolist()) for patch in batch.lr}
    expected = set()
    for crop in (lr[0, :2], lr[0, 1:]):
        for turns in range(4):
            turned = crop.rot90(turns)
            expected |= {tuple(turned.flatten().tolist()), tuple(turned.flip(1).flatten().tolist())}
    assert drawn == expected
    assert torch.equal(batch.hr[:, :, ::2, ::2], batch.lr)
    edges = PatchSampler([[pair]], [1.0], patch_size=2, scale=2, seed=0, margin=1).batch(0, 1).lr
    assert edges.shape[-2:] == (4, 4)
    assert set((edges * 255).round().int().flatten().tolist()) <= set(range(6))


def test_mirrored_patches_reach_what_was_measured() -> None:
    lr, hr = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 32, 32)

    def cell_error(lr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d((bicubic(lr, 4) - hr).square().mean(dim=1, keepdim=True), 16)

    views = [mirrored(lr, symmetry) for symmetry in range(SYMMETRIES)]
    for symmetry, view in enumerate(views):
        torch.testing.assert_close(mirrored(cell_error(lr, hr), symmetry), cell_error(view, mirrored(hr, symmetry)))
        assert torch.equal(upright(view, symmetry), lr)
    assert len(torch.stack(views).unique(dim=0)) == SYMMETRIES


def test_targets_of_a_teacher() -> None:
    """Every view counts alike, and the photograph has the rest of the weight."""
    model = AdaptiveNetwork(create_backbone("fsrcnn"), create_estimator("paper"))
    lr = torch.randint(256, (3, 8, 11), dtype=torch.uint8)
    hr = torch.randint(256, (3, 32, 44), dtype=torch.uint8)
    lr_views = [mirrored(lr[None] / 255, symmetry) for symmetry in range(SYMMETRIES)]
    with torch.no_grad():
        views = [upright(model.network(view)[-1].clamp(0, 1), symmetry)[0] for symmetry, view in enumerate(lr_views)]
    assert (views[1] - views[0]).abs().max() > 1e-3
    target = Teacher(model, 0.75, torch.float32)(lr, hr)
    assert target.dtype == torch.uint8
    torch.testing.assert_close(
        target.float(), 0.25 * hr + 0.75 * 255 * torch.stack(views).mean(dim=0), atol=0.51, rtol=0
    )


def test_targets_take_the_place_of_photographs_in_batches_only() -> None:
    """What an error weighs is what the photograph says."""
    pairs = [make_pair("a", torch.randint(256, (3, 64, 64), dtype=torch.uint8), 4)]
    plain, taught = (PatchSampler([pairs], [1.0], 8, 4, 0, target=target) for target in (None, lambda lr, hr: 255 - hr))
    before, after = plain.batch(0, 4), taught.batch(0, 4)
    assert torch.equal(before.lr, after.lr)
    assert torch.equal(before.weight, after.weight)
    torch.testing.assert_close(after.hr, 1 - before.hr)


def varied(count: int = 1, **shares: float) -> PatchSampler:
    hr = torch.randint(256, (count, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return PatchSampler([[make_pair("a", image, 4) for image in hr]], [1.0], 8, 4, 0, **shares)  # type: ignore[arg-type]


def test_channels_change_places_in_lr_and_hr_alike() -> None:
    plain, shuffled = varied().batch(0, 24), varied(recoloured=1.0).batch(0, 24)
    seen = set()
    for number in range(24):
        places = [
            next(p for p in range(3) if torch.equal(shuffled.hr[number, c], plain.hr[number, p])) for c in range(3)
        ]
        assert torch.equal(shuffled.lr[number], plain.lr[number, places])
        seen.add(tuple(places))
    assert len(seen) == 6
    some = varied(recoloured=0.5).batch(0, 64)
    same = (some.hr == varied().batch(0, 64).hr).flatten(1).all(dim=1)
    assert 24 < same.sum() < 56  # half of them, and a sixth of the other half


def test_mixed_patches_are_what_the_mixed_images_give() -> None:
    """Reducing an image is linear, so the LR of a mean is the mean of the LRs up to rounding; some stay as they are."""
    plain, mixed = varied(2).batch(0, 64), varied(2, mixed=0.5).batch(0, 64)
    same = (mixed.hr == plain.hr).flatten(1).all(dim=1)
    assert 16 < same.sum() < 48
    assert torch.equal(mixed.lr[same], plain.lr[same])
    for number in (~same).nonzero().flatten().tolist():
        reduced = make_pair("mean", (mixed.hr[number] * 255).round().to(torch.uint8), 4).lr.float() / 255
        inner = (..., slice(2, -2), slice(2, -2))  # the surroundings of a patch are part of its image's LR
        assert (mixed.lr[number][inner] - reduced[inner]).abs().max() < 2.1 / 255


def test_parts_of_a_varied_batch_are_parts_of_it() -> None:
    sampler = varied(2, mixed=0.5, recoloured=0.5)
    whole, part = sampler.batch(5, 8), sampler.batch(5, 8, slice(2, 4))
    for name in ("lr", "hr", "image", "weight"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[2:4])


def test_a_taught_run_is_resumed_with_its_own_teacher(photographs: Path, trained: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.safetensors"
    shutil.copy(trained / "model.safetensors", teacher)
    config = replace(TINY, phases="backbone", teacher=str(teacher), log_every=1)
    run, whole = tmp_path / "run", tmp_path / "whole"
    start_run(config, photographs, whole, threads=1, quiet=True)
    with pytest.MonkeyPatch.context() as patched:

        def stop(self: Trainer, phase: str, step: int, *rest: Any) -> None:
            save(self, phase, step, *rest)
            raise KeyboardInterrupt

        save = Trainer._save
        patched.setattr(Trainer, "_save", stop)
        with pytest.raises(KeyboardInterrupt):
            start_run(config, photographs, run, threads=1, quiet=True)
    teacher.unlink()
    resume_run(run, threads=1, quiet=True)
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(run)[name], tensor), name
    losses = [[line["loss"] for line in log_of(folder) if line.get("step") == 1] for folder in (whole, trained)]
    assert losses[0] != losses[1]
    with pytest.raises(FileNotFoundError):
        start_run(config, photographs, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_run_is_trained_by_one_process_at_a_time(photographs: Path, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    with open(run / "config.json", "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        before = {path: path.read_bytes() for path in run.iterdir()}
        with pytest.raises(ValueError, match="resume: another process is training"):
            resume_run(run, threads=1, quiet=True)
        assert {path: path.read_bytes() for path in run.iterdir()} == before
    resume_run(run, threads=1, quiet=True)


def test_equal_layers_are_updated_as_each_alone() -> None:
    """Shapes whose first gradient has full rank: directions without a gradient have no definite basis yet."""
    shapes = [(27, 3, 3, 3), (27, 3, 3, 3), (8, 40, 3, 3), (8, 40, 3, 3), (8,), (8,), (1,), (32, 32), (300, 4)]
    together = [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes]
    alone = [torch.nn.Parameter(parameter.detach().clone()) for parameter in together]
    one, each = SOAP(together), [SOAP([parameter]) for parameter in alone]
    for step in range(12):
        if step == 6:  # through a checkpoint
            state, one = one.state_dict(), SOAP(together)
            one.load_state_dict(state)
        for parameter, twin in zip(together, alone, strict=True):
            parameter.grad = torch.randn_like(parameter)
            twin.grad = parameter.grad.clone()
        one.step()
        for optimizer in each:
            optimizer.step()
    for parameter, twin in zip(together, alone, strict=True):
        torch.testing.assert_close(parameter, twin, rtol=0, atol=1e-9)


def test_recipes_of_backbones() -> None:
    for name, recipe in RECIPES.items():
        assert TrainConfig.of(name) == TrainConfig(backbone=name, **recipe) != TrainConfig(backbone=name)
    assert TrainConfig.of("fsrcnn", backbone_steps=7) == TrainConfig(backbone_steps=7)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"patch_size": 10}, "patch_size: expected a multiple of 4 for the estimator, got 10"),
        ({"log_every": 0}, "log_every: expected at least 1, got 0"),
        ({"validate_every": 0}, "validate_every: expected at least 1, got 0"),
        ({"checkpoint_every": -1}, "checkpoint_every: expected at least 1, got -1"),
        ({"exits_steps": -1}, "exits_steps: expected at least 0, got -1"),
        ({"exits_batch": 0}, "exits_batch: expected at least 1, got 0"),
        ({"estimator_patches": 0}, "estimator_patches: expected at least 1, got 0"),
        ({"resample_share": 1.5}, "resample_share: expected a share between 0 and 1, got 1.5"),
        (
            {"estimator_resample_share": float("nan")},
            "estimator_resample_share: expected a share between 0 and 1, got nan",
        ),
        ({"teacher_weight": 2.0}, "teacher_weight: expected a share between 0 and 1, got 2.0"),
        ({"ema_decay": 1.0}, "ema_decay: expected 0 <= ema_decay < 1, got 1.0"),
    ],
)
def test_numbers_that_would_fail_late_are_refused(numbers: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        TrainConfig(**numbers)


def test_numbers_at_their_limits() -> None:
    TrainConfig(backbone_steps=0, exits_steps=0, estimator_steps=0, resample_share=0, ema_decay=0, log_every=1)
    for fine in ({"estimator": "paper"}, {"phases": "backbone,exits"}):  # where cells play no part
        assert TrainConfig(patch_size=10, **fine).patch_size == 10


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
    with pytest.raises(ValueError, match="phases: expected some of backbone,exits,estimator in this order, got 'exit'"):
        TrainConfig(phases="exit")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"config": {"learnign_rate": 1}}')
    with pytest.raises(ValueError, match=r"config.json is not of this version of enaf_ext \(.*learnign_rate"):
        resume_run(other)
    damaged = tmp_path / "damaged"
    shutil.copytree(trained, damaged)
    (damaged / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"checkpoint\.pt is not a readable checkpoint"):
        resume_run(damaged, quiet=True)


def test_nothing_is_written_before_the_images_are_known_to_be_usable(photographs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = tmp_path / "small"
    small.mkdir()
    for index in range(2):
        Image.new("RGB", (8, 8)).save(small / f"{index}.png")
    for config, folder, validation, message in (
        (
            replace(TINY, validation_images=12),
            photographs,
            None,
            "validation_images: expected 1 to 3 of 4 images, got 12",
        ),
        (TINY, small, None, "data: none of the 1 images is usable"),
        (TINY, photographs, small, "data: none of the 2 images is usable"),
        (TINY, photographs, tmp_path / "nothing", "data: expected a folder, got"),
    ):
        with pytest.raises(ValueError, match=message):
            start_run(config, folder, run, validation, threads=1, quiet=True)
        assert not run.exists()


def test_a_run_folder_that_cannot_be_made(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    run = tmp_path / "file" / "run"
    assert main(["train", *flags(TINY, photographs, run), "--threads", "1", "--quiet"]) == 2
    assert f"enaf train: error: {run}: Not a directory" in capsys.readouterr().err
