# SPDX-License-Identifier: Apache-2.0
"""The training loop: one phase after another, resumable at any step to the same weights."""

from __future__ import annotations

import copy
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .config import TrainConfig
from .soap import SOAP

_OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]]], torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "soap": SOAP,
}


@dataclass
class Phase:
    """One phase of training.

    Attributes:
        name: "backbone", "exits" or "estimator".
        steps: number of optimiser steps.
        module: what is trained; its averaged copy is what the phase leaves behind.
        parameter_groups: optimiser groups, each with "params" and its initial "lr".
        loss: step -> scalar loss of that step's batch.
        validate: module -> measured figures.
    """

    name: str
    steps: int
    module: nn.Module
    parameter_groups: list[dict[str, Any]]
    loss: Callable[[int], Tensor]
    validate: Callable[[nn.Module], dict[str, float]]


def atomic_write(content: bytes, path: Path) -> None:
    """Leaves either the old file or the new one, whatever happens."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class Journal:
    """The JSON-lines log of a run; on resuming, lines past the checkpoint are dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, phase: str, step: int, finished: list[str]) -> None:
        """Keep the lines of finished phases and, of ``phase``, those up to ``step``."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # the torn last line of a killed run
            if entry["phase"] in finished or (entry["phase"] == phase and entry["step"] <= step):
                kept.append(line)
        atomic_write("".join(line + "\n" for line in kept).encode(), self.path)

    def write(self, **entry: object) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps(entry) + "\n")

    def entries(self) -> Iterator[dict[str, Any]]:
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                yield json.loads(line)


class Trainer:
    """Runs phases inside a run folder, with an averaged copy of the weights, a log and atomic checkpoints.

    Args:
        config: the numbers of the run.
        run: the folder; ``checkpoint.pt`` and ``log.jsonl`` live there.
        modules: everything that has weights, by name; all of it is in each checkpoint.
        quiet: no progress bar.
    """

    def __init__(self, config: TrainConfig, run: Path, modules: dict[str, nn.Module], quiet: bool = False) -> None:
        self.config, self.run, self.modules, self.quiet = config, run, modules, quiet
        self.journal = Journal(run / "log.jsonl")
        self.finished: list[str] = []
        self.resumed: dict[str, Any] | None = None
        checkpoint = run / "checkpoint.pt"
        if checkpoint.exists():
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
            for name, module in modules.items():
                module.load_state_dict(state["modules"][name])
            self.finished = state["finished"]
            self.resumed = state
            self.journal.rewind(state["phase"], state["step"], self.finished)

    def run_phase(self, phase: Phase) -> None:
        """Train one phase to its end, from where a checkpoint left it; a finished phase is skipped."""
        if phase.name in self.finished:
            return
        config = self.config
        optimizer = _OPTIMIZERS[config.optimizer](phase.parameter_groups)
        initial = [group["lr"] for group in optimizer.param_groups]
        average = copy.deepcopy(phase.module)
        start = 0
        if self.resumed is not None and self.resumed["phase"] == phase.name:
            optimizer.load_state_dict(self.resumed["optimizer"])
            average.load_state_dict(self.resumed["average"])
            start = self.resumed["step"]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        progress = tqdm(total=phase.steps, initial=start, desc=phase.name, disable=self.quiet, mininterval=1.0)
        running, since = 0.0, time.perf_counter()
        for step in range(start, phase.steps):
            for group, rate in zip(optimizer.param_groups, initial, strict=True):
                group["lr"] = self._learning_rate(rate, step, phase.steps)
            loss = phase.loss(step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if config.gradient_clip > 0:
                nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
            optimizer.step()
            self._update_average(average, phase.module, step)
            running += loss.item()
            done = step + 1
            progress.update()
            if done % config.log_every == 0:
                mean, seconds = running / config.log_every, (time.perf_counter() - since) / config.log_every
                rate = optimizer.param_groups[0]["lr"]
                self.journal.write(phase=phase.name, step=done, loss=mean, learning_rate=rate, step_seconds=seconds)
                running, since = 0.0, time.perf_counter()
            if done % config.validate_every == 0 or done == phase.steps:
                figures = phase.validate(average)
                self.journal.write(phase=phase.name, step=done, validation=figures)
                progress.set_postfix({name: f"{value:.2f}" for name, value in figures.items()})
                since = time.perf_counter()
            if done % config.checkpoint_every == 0 and done != phase.steps:
                self._save(phase.name, done, optimizer, average)
        progress.close()
        phase.module.load_state_dict(average.state_dict())
        self.finished.append(phase.name)
        self.resumed = None
        self._save(phase.name, phase.steps, optimizer, average)

    def _learning_rate(self, initial: float, step: int, steps: int) -> float:
        """Linear warm-up, then cosine to ``final_learning_rate``."""
        final = min(self.config.final_learning_rate, initial)
        warmup = min(1.0, (step + 1) / max(1, self.config.warmup_steps))
        return warmup * (final + (initial - final) * 0.5 * (1 + math.cos(math.pi * step / steps)))

    @torch.no_grad()
    def _update_average(self, average: nn.Module, module: nn.Module, step: int) -> None:
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        for kept, current in zip(average.parameters(), module.parameters(), strict=True):
            kept.lerp_(current, 1 - decay)

    def _save(self, phase: str, step: int, optimizer: torch.optim.Optimizer, average: nn.Module) -> None:
        buffer = io.BytesIO()
        torch.save(
            {
                "config": asdict(self.config),
                "phase": phase,
                "step": step,
                "finished": self.finished,
                "modules": {name: module.state_dict() for name, module in self.modules.items()},
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
            },
            buffer,
        )
        atomic_write(buffer.getvalue(), self.run / "checkpoint.pt")
