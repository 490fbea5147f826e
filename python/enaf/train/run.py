# SPDX-License-Identifier: Apache-2.0
"""A run folder from beginning to end: config.json, log.jsonl, curves.png, checkpoint.pt, model.safetensors."""

from __future__ import annotations

import json
import logging
import platform
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from enaf.adaptive import AdaptiveNetwork
from enaf.checkpoint import save_model
from enaf.estimator import create_estimator
from enaf.models import channels_last, create_backbone

from . import curves, data
from .config import TrainConfig
from .phases import backbone_phase, estimator_phase, exits_phase
from .trainer import Trainer, atomic_write

log = logging.getLogger(__name__)


def start_run(
    config: TrainConfig,
    folder: Path,
    run: Path,
    validation: Path | None = None,
    threads: int = 0,
    quiet: bool = False,
    device: str = "cpu",
) -> Path:
    """Train from nothing.

    Args:
        config: the numbers.
        folder: training images.
        run: folder of the run; must not hold another one.
        validation: folder of validation images; None = hold out some training images.
        threads: CPU threads, 0 = torch's choice.
        quiet: no progress bar.
        device: where the networks are trained; images stay in the memory of the host.

    Returns:
        The model file.

    Raises:
        FileExistsError: ``run`` already holds a run.
        ValueError: no usable image.
    """
    if (run / "config.json").exists():
        raise FileExistsError(f"out: {run} already holds a run; go on with it by --resume {run}")
    paths = data.list_images(folder)
    run.mkdir(parents=True, exist_ok=True)
    description = {
        "config": asdict(config),
        "data": str(folder.resolve()),
        "validation": None if validation is None else str(validation.resolve()),
        "data_sha256": data.manifest_hash(paths),
        "version": metadata.version("enaf_ext"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    atomic_write((json.dumps(description, indent=2) + "\n").encode(), run / "config.json")
    return resume_run(run, threads, quiet, device)


def resume_run(run: Path, threads: int = 0, quiet: bool = False, device: str = "cpu") -> Path:
    """Train on from the last checkpoint of a run, or from its start.

    Killed at any moment and resumed, a run ends in the weights that it would have reached uninterrupted (on the same
    machine with the same number of threads).

    Raises:
        FileNotFoundError: no run there.
        ValueError: the images of the run are not the ones it began with.
    """
    if not (run / "config.json").is_file():
        raise FileNotFoundError(f"resume: {run} holds no run (config.json is missing)")
    description = json.loads((run / "config.json").read_text())
    config = TrainConfig(**description["config"])
    if threads > 0:
        torch.set_num_threads(threads)
    paths = data.list_images(Path(description["data"]))
    if data.manifest_hash(paths) != description["data_sha256"]:
        raise ValueError(f"data: the images in {description['data']} have changed since the run began")
    if description["validation"] is None:
        training, held_out = data.hold_out(paths, config.validation_images)
    else:
        training, held_out = paths, data.list_images(Path(description["validation"]))
    log.info("reading %d images", len(paths))
    pairs = data.load_pairs(training, config.scale, config.patch_size)
    validation = data.load_pairs(held_out, config.scale, config.patch_size)

    torch.manual_seed(config.seed)
    network = channels_last(create_backbone(config.backbone, config.scale)).to(device)
    estimator = channels_last(create_estimator(config.estimator, network.num_exits)).to(device)
    trainer = Trainer(config, run, {"network": network, "estimator": estimator}, quiet)
    size, scale = config.patch_size, config.scale

    def resampled(prefix: str, seed: int) -> dict[str, Any]:
        """The images and as many resized ones, with the shares that a phase wants of them."""
        low, high, share = (getattr(config, f"{prefix}resample_{name}") for name in ("low", "high", "share"))
        soft = data.resampled(pairs, scale, size, low, high, seed)
        return {"groups": [pairs, soft], "shares": [1 - share, share], "patch_size": size, "scale": scale, "seed": seed}

    if {"backbone", "exits"} - set(trainer.finished):
        sampler = data.PatchSampler(**resampled("", config.seed))
        trainer.run_phase(backbone_phase(config, network, sampler, validation))
        trainer.run_phase(exits_phase(config, network, sampler, validation))
    if "estimator" not in trainer.finished:
        training_patches = data.PatchSampler(**resampled("estimator_", config.seed + 1), margin=estimator.margin)
        unseen = data.PatchSampler([validation], [1.0], size, scale, config.seed + 2, margin=estimator.margin)
        trainer.run_phase(estimator_phase(config, network, estimator, training_patches, unseen, quiet))
    model = run / "model.safetensors"
    save_model(AdaptiveNetwork(network, estimator), model, {"data_sha256": description["data_sha256"]})
    curves.draw(trainer.journal.entries(), run / "curves.png")
    log.info("wrote %s", model)
    return model
