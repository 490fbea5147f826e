# SPDX-License-Identifier: Apache-2.0
"""The training loop: one phase after another, resumable at any step to the same weights."""

from __future__ import annotations

import copy
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from enaf.adaptive import AdaptiveNetwork
from enaf.checkpoint import save_model
from enaf.whole_file import write_whole

from . import curves, parallel
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
        parameter_groups: optimiser groups, each with "params" and its initial "lr".
        batch: step -> this process's part of that step's batch.
        loss: (batch, step) -> scalar, a mean over the batch.
        validate: model with averaged weights -> measured figures, equal on all processes.
        selects: the figure whose highest value chooses the weights that the phase leaves behind; None = the last ones.
    """

    name: str
    steps: int
    parameter_groups: list[dict[str, Any]]
    batch: Callable[[int], Any]
    loss: Callable[[Any, int], Tensor]
    validate: Callable[[AdaptiveNetwork], dict[str, float]]
    selects: str | None = None


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
        write_whole(self.path, "".join(line + "\n" for line in kept).encode())

    def write(self, **entry: object) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps(entry) + "\n")

    def entries(self) -> Iterator[dict[str, Any]]:
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                yield json.loads(line)


class DataClock:
    """How long the device waits for its data: on a GPU by events in its stream, so that nothing waits for the clock."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.waits: list[tuple[Any, Any]] = []

    def now(self) -> Any:
        """A moment in the work of the device."""
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self) -> float:
        """Sum of the waits since the last call; on a GPU, all of its work must have ended."""
        total = sum(start.elapsed_time(end) / 1000 if self.cuda else end - start for start, end in self.waits)
        self.waits.clear()
        return total


class Trainer:
    """Runs phases inside a run folder, with an averaged copy of the weights, a log and atomic checkpoints.

    Under ``torchrun`` every process trains, and the first one writes.

    Args:
        config: the numbers of the run.
        run: the folder; ``checkpoint.pt``, ``best.safetensors``, ``log.jsonl`` and ``curves.png`` live there.
        model: what is trained.
        quiet: no progress bar.

    Raises:
        ValueError: the checkpoint in the folder is damaged.
    """

    def __init__(self, config: TrainConfig, run: Path, model: AdaptiveNetwork, quiet: bool = False) -> None:
        self.config, self.run, self.model = config, run, model
        self.writes = parallel.rank() == 0
        self.quiet = quiet or not self.writes
        self.device = next(model.parameters()).device
        self.journal = Journal(run / "log.jsonl")
        self.finished: list[str] = []
        self.resumed: dict[str, Any] | None = None
        checkpoint = run / "checkpoint.pt"
        if checkpoint.exists():
            try:
                state = torch.load(checkpoint, map_location="cpu", weights_only=True)
            except Exception as error:  # torch raises many kinds for damaged files
                raise ValueError(f"resume: {checkpoint} is not a readable checkpoint ({error})") from None
            model.load_state_dict(state["model"])
            self.finished = state["finished"]
            self.resumed = state
            if self.writes:
                self.journal.rewind(state["phase"], state["step"], self.finished)

    def run_phase(self, phase: Phase) -> None:
        """Train one phase to its end, from where a checkpoint left it; a finished phase is skipped."""
        if phase.name in self.finished:
            return
        config = self.config
        optimizer = _OPTIMIZERS[config.optimizer](phase.parameter_groups)
        initial = [group["lr"] for group in optimizer.param_groups]
        average = copy.deepcopy(self.model)
        best: dict[str, Any] | None = None
        start, running = 0, torch.zeros((), device=self.device)
        if self.resumed is not None and self.resumed["phase"] == phase.name:
            optimizer.load_state_dict(self.resumed["optimizer"])
            average.load_state_dict(self.resumed["average"])
            best, start = self.resumed["best"], self.resumed["step"]
            running += self.resumed["running_loss"]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        trained = {id(parameter) for parameter in parameters}
        pairs = zip(average.parameters(), self.model.parameters(), strict=True)
        kept, current = zip(*((k, c) for k, c in pairs if id(c) in trained), strict=True)
        progress = tqdm(total=phase.steps, initial=start, desc=phase.name, disable=self.quiet, mininterval=1.0)
        clock = DataClock(self.device)
        timed_from, since = start, time.perf_counter()
        for step in range(start, phase.steps):
            for group, rate in zip(optimizer.param_groups, initial, strict=True):
                group["lr"] = self._learning_rate(rate, step, phase.steps)
            asked = clock.now()
            batch = phase.batch(step)
            clock.waits.append((asked, clock.now()))
            loss = phase.loss(batch, step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            parallel.average([p.grad for p in parameters if p.grad is not None])
            if config.gradient_clip > 0:
                nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(kept, current, 1 - min(config.ema_decay, (1 + step) / (10 + step)))
            running += loss.detach()
            done = step + 1
            progress.update()
            if done % config.log_every == 0:
                parallel.average([running])
                mean = running.item() / config.log_every  # the only moment at which the host waits for the device
                seconds = time.perf_counter() - since
                if not math.isfinite(mean):
                    raise ValueError(f"{phase.name}_learning_rate: the loss is no longer finite at step {done}")
                self._log(
                    phase=phase.name,
                    step=done,
                    loss=mean,
                    learning_rate=optimizer.param_groups[0]["lr"],
                    step_seconds=seconds / (done - timed_from),
                    data_share=clock.seconds() / seconds,
                )
                running.zero_()
                timed_from, since = done, time.perf_counter()
            if done % config.validate_every == 0 or done == phase.steps:
                before = time.perf_counter()
                figures = phase.validate(average)
                self._log(phase=phase.name, step=done, validation=figures)
                progress.set_postfix({name: f"{value:.2f}" for name, value in figures.items()})
                if phase.selects is not None and (best is None or figures[phase.selects] > best["figure"]):
                    best = {"figure": figures[phase.selects], "step": done, "model": _copy(average)}
                    self._keep_best(average, phase.name, done, figures)
                since += time.perf_counter() - before
            if done % config.checkpoint_every == 0 and done != phase.steps:
                parallel.average([running])
                self._save(phase.name, done, optimizer, average, best, running)
        progress.close()
        self.model.load_state_dict(average.state_dict() if best is None else best["model"])
        self.finished.append(phase.name)
        self.resumed = None
        self._save(phase.name, phase.steps, optimizer, average, best, running)

    def _learning_rate(self, initial: float, step: int, steps: int) -> float:
        """Linear warm-up, then cosine to ``final_learning_rate``."""
        final = min(self.config.final_learning_rate, initial)
        warmup = min(1.0, (step + 1) / max(1, self.config.warmup_steps))
        return warmup * (final + (initial - final) * 0.5 * (1 + math.cos(math.pi * step / steps)))

    def _log(self, **entry: object) -> None:
        if self.writes:
            self.journal.write(**entry)
            if "validation" in entry:
                curves.draw(self.journal.entries(), self.run / "curves.png")

    def _keep_best(self, average: AdaptiveNetwork, phase: str, step: int, figures: dict[str, float]) -> None:
        if self.writes:
            notes = {"phase": phase, "step": str(step), **{name: f"{value:.4f}" for name, value in figures.items()}}
            save_model(average, self.run / "best.safetensors", notes)

    def _save(
        self,
        phase: str,
        step: int,
        optimizer: torch.optim.Optimizer,
        average: AdaptiveNetwork,
        best: dict[str, Any] | None,
        running_loss: Tensor,
    ) -> None:
        if not self.writes:
            return
        buffer = io.BytesIO()
        torch.save(
            {
                "phase": phase,
                "step": step,
                "finished": self.finished,
                "model": self.model.state_dict(),
                "average": average.state_dict(),
                "best": best,
                "running_loss": running_loss.item(),
                "optimizer": optimizer.state_dict(),
            },
            buffer,
        )
        write_whole(self.run / "checkpoint.pt", buffer.getvalue())


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
