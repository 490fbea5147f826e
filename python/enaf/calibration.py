# SPDX-License-Identifier: Apache-2.0
"""What every exit takes on this machine in milliseconds: measured once and kept in the user's cache directory."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from .version import version

REPEATS = 5
LAST_CALLS = 5
"""That tell how long calls take over what was expected."""


@dataclass(frozen=True)
class Calibration:
    """Measured time.

    Attributes:
        patch_ms: E milliseconds: what a patch takes that leaves at each exit, its share of scores and blend included.
        score_ms: milliseconds of them that its scores take.
        whole_ms: E milliseconds: what an exit without patches takes for an LR pixel, and for one that it computes twice; 0 for
            bicubic.
    """

    patch_ms: tuple[float, ...]
    score_ms: float
    whole_ms: tuple[float, ...]

    @property
    def relative(self) -> Tensor:
        """c of the fusion rule, (E,) float64: time above that of exit 0, as a share of the full exit's."""
        patch_ms = torch.tensor(self.patch_ms, dtype=torch.float64)
        return (patch_ms - patch_ms[0]).clamp_min(0) / (patch_ms[-1] - patch_ms[0])


class Pace:
    """How long calls take over what was expected, 0.1 to 10: the median of the last few, so that a single slow one changes
    nothing."""

    def __init__(self) -> None:
        self._ratios = deque([1.0] * LAST_CALLS, maxlen=LAST_CALLS)

    def add(self, expected: float, taken: float) -> None:
        """Another call, in milliseconds."""
        self._ratios.append(min(max(taken / expected, 0.1), 10.0))

    @property
    def ratio(self) -> float:
        """1 before there are calls."""
        return statistics.median(self._ratios)


@dataclass(frozen=True)
class Setting:
    """What a calibration holds for.

    Attributes:
        version: of this package.
        model: ``fingerprint`` of the model.
        device: its name.
        dtype: of the network's arithmetic.
        threads: of the CPU.
        patch_size, overlap: of the grid.
    """

    version: str
    model: str
    device: str
    dtype: str
    threads: int
    patch_size: int
    overlap: int

    @classmethod
    def of(cls, model: str, device: torch.device, dtype: torch.dtype, patch_size: int, overlap: int) -> Setting:
        """The setting of this machine."""
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
        return cls(
            version(), model, name, str(dtype).removeprefix("torch."), torch.get_num_threads(), patch_size, overlap
        )

    @property
    def path(self) -> Path:
        """Where its calibration is kept: $XDG_CACHE_HOME/enaf/calibration, by default in ~/.cache."""
        cache = os.environ.get("XDG_CACHE_HOME", "")
        folder = Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache"
        key = hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]
        return folder / "enaf" / "calibration" / f"{key}.json"


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's parameters: two models share a calibration only if they are the same."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def measure(
    exits: Sequence[Callable[[], object]],
    mixed: tuple[Callable[[], object], Sequence[int]],
    scores: Callable[[], object],
    whole: Sequence[Callable[[], object]],
    patches: int,
    pixels: Sequence[float],
) -> Calibration:
    """Times one image through every exit, through a mixture, and as a whole.

    Args:
        exits: runs it through every exit.
        mixed: runs it through a mixture, in which exit j is taken so often as it says.
        scores: scores its patches, which all these do too.
        whole: runs it through every exit but bicubic without patches.
        patches: of the image.
        pixels: of the image, those included that each of ``whole`` computes twice.

    Patches of one exit alone fill their batches; a real image's do not. The mixture tells by how much dearer all
    exits but bicubic are then. The runs take turns, so that a change of the machine's speed meets all of them, and the median
    of each counts, which is what a budget is to be met by.
    """
    runs = [*exits, mixed[0], scores, *whole]
    times: list[list[float]] = [[] for _ in runs]
    for repeat in range(1 + REPEATS):  # the first warms up
        for index, run in enumerate(runs):
            began = time.perf_counter()
            run()
            if repeat > 0:
                times[index].append(1e3 * (time.perf_counter() - began))
    medians = [statistics.median(taken) for taken in times]
    alone, (together, scored, *as_a_whole) = medians[: len(exits)], medians[len(exits) :]
    least = min(alone)
    expected = sum(count * (taken - least) / patches for count, taken in zip(mixed[1], alone, strict=True))
    dearer = max(1.0, (together - least) / expected) if expected > 0 else 1.0
    patch_ms = tuple((least + dearer * (taken - least)) / patches for taken in alone)
    whole_ms = (0.0, *(taken / seen for taken, seen in zip(as_a_whole, pixels, strict=True)))
    return Calibration(patch_ms, min(scored, least) / patches, whole_ms)


def load(setting: Setting) -> Calibration | None:
    """What was kept for this setting; None where there is nothing, or nothing that can be read."""
    try:
        kept = json.loads(setting.path.read_text())
        patch_ms, whole_ms = (tuple(map(float, kept[name])) for name in ("patch_ms", "whole_ms"))
        return Calibration(patch_ms, float(kept["score_ms"]), whole_ms)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(setting: Setting, calibration: Calibration) -> None:
    """Writes a calibration, all of it or nothing. A cache that cannot be written is none: the next run measures again."""
    try:
        setting.path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=setting.path.parent) as folder:
            whole = Path(folder, setting.path.name)
            whole.write_text(json.dumps({**asdict(setting), **asdict(calibration)}, indent=1))
            whole.replace(setting.path)
    except OSError:
        return


@cache
def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
