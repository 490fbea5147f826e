# SPDX-License-Identifier: Apache-2.0
"""A run folder from beginning to end: config.json and init.safetensors, which a run starts from; log.jsonl, curves.png,
checkpoint.pt and best.safetensors, which it keeps on the way; model.safetensors, which it ends with."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import platform
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

import enaf
import enaf_ext
from enaf.adaptive import AdaptiveNetwork
from enaf.checkpoint import load_model, load_parts, save_model
from enaf.estimator import create_estimator
from enaf.heap import keep_freed_memory
from enaf.image_io.folders import list_images, manifest_hash
from enaf.models import channels_last, create_backbone
from enaf.version import version
from enaf.whole_file import write_whole

from . import data, parallel
from .config import TrainConfig
from .phases import backbone_phase, estimator_phase, exits_phase
from .teacher import Teacher
from .trainer import Trainer
from .versions import VersionSampler

log = logging.getLogger(__name__)


@torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
def start_run(
    config: TrainConfig,
    folder: Path,
    run: Path,
    validation: Path | None = None,
    init: str | None = None,
    threads: int = 0,
    quiet: bool = False,
    device: torch.device | str = "cpu",
) -> Path:
    """Train a model.

    Args:
        config: the numbers.
        folder: training images.
        run: folder of the run; must not hold another one.
        validation: folder of validation images; None = hold out some training images.
        init: name or file of a model to start from; None = from nothing.
        threads: CPU threads, 0 = torch's choice.
        quiet: no progress bar.
        device: where the networks are trained and the images kept.

    Returns:
        The model file.

    Raises:
        FileExistsError: ``run`` already holds a run.
        ValueError: no usable image, too few to hold some out, or ``init`` is no model of this backbone and scale, or
            ``config.teacher`` none of this scale; nothing is written.
    """
    if parallel.rank() == 0 and (run / "config.json").exists():
        raise FileExistsError(f"out: {run} already holds a run; go on with it by --resume {run}")
    if threads > 0:
        torch.set_num_threads(threads)
    model, paths = _initial_model(config, init), list_images(folder)
    teacher = load_model(config.teacher, config.scale) if config.teacher else None
    pairs = _read_pairs(config, paths, validation, device)  # nothing is written before they are known to be usable
    if parallel.rank() == 0:
        run.mkdir(parents=True, exist_ok=True)
        save_model(model, run / "init.safetensors")
        if teacher is not None:
            save_model(teacher, run / "teacher.safetensors")
        description = {
            "config": asdict(config),
            "init": init,
            "data": str(folder.resolve()),
            "validation": None if validation is None else str(validation.resolve()),
            "data_sha256": manifest_hash(paths),
            "version": version(),
            "sources_sha256": _sources_hash(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        write_whole(run / "config.json", (json.dumps(description, indent=2) + "\n").encode())
    parallel.barrier()
    with _alone(run):
        return _train(config, run, pairs, quiet, device)


def _initial_model(config: TrainConfig, init: str | None) -> AdaptiveNetwork:
    """Random weights, and in their place those of ``init`` as far as it has the same parts."""
    torch.manual_seed(config.seed)
    if init is None:
        if not config.phases.startswith("backbone"):
            raise ValueError(f"phases: expected init where the backbone is not trained, got {config.phases!r} alone")
        network, estimator = create_backbone(config.backbone, config.scale), None
    else:
        network, estimator = load_parts(init, config.scale)
        if network.name != config.backbone:
            raise ValueError(f"init: expected a model of {config.backbone}, got one of {network.name}")
    if estimator is None or estimator.name != config.estimator:
        estimator = create_estimator(config.estimator, network.num_exits)
    return AdaptiveNetwork(network, estimator)


def _sources_hash() -> str:
    """SHA-256 over the Python sources of the package: which code trained a model, with or without version control."""
    folders = [Path(str(package.__file__)).parent for package in (enaf, enaf_ext)]
    return manifest_hash([path for folder in folders for path in sorted(folder.rglob("*.py"))])


@torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
def resume_run(run: Path, threads: int = 0, quiet: bool = False, device: torch.device | str = "cpu") -> Path:
    """Train on from the last checkpoint of a run, or from its start.

    Killed at any moment and resumed, a run ends in the weights that it would have reached uninterrupted (on the same
    device with the same number of threads and processes). What is computed in float32 is: no TensorFloat-32.

    Raises:
        FileNotFoundError: no run there.
        ValueError: the run is not one of this version, its images are not the ones it began with, or another process trains it.
    """
    if not (run / "config.json").is_file():
        raise FileNotFoundError(f"resume: {run} holds no run (config.json is missing)")
    try:
        description = json.loads((run / "config.json").read_text())
        config = TrainConfig(**description["config"])
        same_sources = description["sources_sha256"] == _sources_hash()
    except (TypeError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"resume: {run / 'config.json'} is not of this version of enaf_ext ({error})") from None
    if not same_sources:
        log.warning("the run began with other sources of enaf_ext; it goes on with these")
    if threads > 0:
        torch.set_num_threads(threads)
    paths = list_images(Path(description["data"]))
    if manifest_hash(paths) != description["data_sha256"]:
        raise ValueError(f"data: the images in {description['data']} have changed since the run began")
    validation = None if description["validation"] is None else Path(description["validation"])
    with _alone(run):
        return _train(config, run, _read_pairs(config, paths, validation, device), quiet, device)


@contextlib.contextmanager
def _alone(run: Path) -> Iterator[None]:
    """While it lasts, no other process on this machine trains this run: they would overwrite each other's checkpoints. The lock
    dies with the process, however that ends."""
    with open(run / "config.json", "rb") as file:
        if parallel.rank() == 0:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"resume: another process is training {run}") from None
            except OSError:
                log.warning("%s is on a file system without locks: nothing keeps another process out", run)
        yield


def _read_pairs(
    config: TrainConfig, paths: list[Path], validation: Path | None, device: torch.device | str
) -> tuple[list[data.ImagePair], list[data.ImagePair]]:
    """(training, validation): the images, or of them those that are not held out, and those of ``validation`` or held out."""
    if validation is None:
        training, held_out = data.hold_out(paths, config.validation_images)
    else:
        training, held_out = paths, list_images(validation)
    log.info("reading %d images", len(paths))
    size, scale = config.patch_size, config.scale
    return data.load_pairs(training, scale, size, device), data.load_pairs(held_out, scale, size, device)


def _train(
    config: TrainConfig,
    run: Path,
    images: tuple[list[data.ImagePair], list[data.ImagePair]],
    quiet: bool,
    device: torch.device | str,
) -> Path:
    """The phases that are left of a run, on (training, validation) images."""
    if torch.device(device).type == "cpu":
        keep_freed_memory()
    size, scale, (pairs, validation) = config.patch_size, config.scale, images
    model = channels_last(load_model(run / "init.safetensors", scale)).to(device).train()
    trainer = Trainer(config, run, model, quiet)
    waiting = [name for name in config.phases.split(",") if name not in trainer.finished]

    if {"backbone", "exits"} & set(waiting):
        teacher = None
        if config.teacher:
            taught_by, dtype = load_model(run / "teacher.safetensors", scale), getattr(torch, config.precision)
            teacher = Teacher(taught_by, config.teacher_weight, dtype)
            log.info("making the targets of %s", config.teacher)
        soft = data.Resampled(pairs, scale, size, config.resample_low, config.resample_high, config.seed, device)
        patches = data.PatchSampler(
            [pairs, soft], [1 - config.resample_share, config.resample_share], size, scale, config.seed, device=device,
            target=teacher, mixed=config.mixed_share, recoloured=config.recoloured_share,
        )  # fmt: skip
        for name, phase in (("backbone", backbone_phase), ("exits", exits_phase)):
            if name in waiting:
                trainer.run_phase(phase(config, model, patches, validation))
        del patches  # as large as the next one
    if "estimator" in waiting:
        margin = model.estimator.margin
        share, low, high, sharpness, noise = (
            getattr(config, f"estimator_resample_{name}") for name in ("share", "low", "high", "sharpness", "noise")
        )
        versions = VersionSampler(
            pairs, share, low, high, sharpness, noise, size, scale, margin, config.seed + 1, device
        )
        unseen = data.PatchSampler([validation], [1.0], size, scale, config.seed + 2, margin, device)
        trainer.run_phase(estimator_phase(config, model, versions, unseen, trainer.quiet))
    result = run / "model.safetensors"
    if trainer.writes:
        description = json.loads((run / "config.json").read_text())
        save_model(model, result, {"data_sha256": description["data_sha256"]})
        log.info("wrote %s", result)
    parallel.barrier()
    return result
