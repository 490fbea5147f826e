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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .version import version

REPEATS = 5


@dataclass(frozen=True)
class Calibration:
    """Measured time.

    Attributes:
        patch_ms: E milliseconds: what a patch takes that leaves at each exit, its share of scores and blend included.
        static_ms: milliseconds that the full network without routing takes for one LR pixel, and for one that it computes twice.
    """

    patch_ms: tuple[float, ...]
    static_ms: float

    @property
    def relative(self) -> Tensor:
        """c of the fusion rule, (E,) float64: time above that of exit 0, as a share of the full exit's."""
        patch_ms = torch.tensor(self.patch_ms, dtype=torch.float64)
        return (patch_ms - patch_ms[0]).clamp_min(0) / (patch_ms[-1] - patch_ms[0])

    def routed(self, counts: Tensor) -> float:
        """Milliseconds of an image whose patches take exits so often, (E,)."""
        return float(counts.double() @ torch.tensor(self.patch_ms, dtype=torch.float64))

    def share(self, milliseconds: float) -> float:
        """The mean of ``relative`` that a patch's mean time buys, 0 to 1."""
        return min(max((milliseconds - self.patch_ms[0]) / (self.patch_ms[-1] - self.patch_ms[0]), 0.0), 1.0)


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
    static: Callable[[], object],
    patches: int,
    pixels: float,
) -> Calibration:
    """Times one image through every exit, through a mixture, and as a whole.

    Args:
        exits: runs it through every exit.
        mixed: runs it through a mixture, in which exit j is taken so often as it says.
        static: runs it through the full network as a whole.
        patches: of the image.
        pixels: of the image, those included that ``static`` computes twice.

    Patches of one exit alone fill their batches; a real image's do not. The mixture tells by how much dearer all
    exits but bicubic are then. The runs take turns, so that a change of the machine's speed meets all of them, and the median
    of each counts, which is what a budget is to be met by.
    """
    runs = [*exits, mixed[0], static]
    times: list[list[float]] = [[] for _ in runs]
    for repeat in range(1 + REPEATS):  # the first warms up
        for index, run in enumerate(runs):
            began = time.perf_counter()
            run()
            if repeat > 0:
                times[index].append(1e3 * (time.perf_counter() - began))
    *alone, together, whole = (statistics.median(taken) for taken in times)
    least = min(alone)
    expected = sum(count * (taken - least) / patches for count, taken in zip(mixed[1], alone, strict=True))
    dearer = max(1.0, (together - least) / expected) if expected > 0 else 1.0
    return Calibration(tuple((least + dearer * (taken - least)) / patches for taken in alone), whole / pixels)


def load(setting: Setting) -> Calibration | None:
    """What was kept for this setting; None where there is nothing, or nothing that can be read."""
    try:
        kept = json.loads(setting.path.read_text())
        return Calibration(tuple(map(float, kept["patch_ms"])), float(kept["static_ms"]))
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


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
