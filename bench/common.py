# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: how time is taken, what the floor is, how the machine is described. See README.md."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass
class Timing:
    """Milliseconds of one call."""

    median: float
    q1: float
    q3: float
    fastest: float
    repeats: int

    @classmethod
    def of(cls, times: Sequence[float]) -> Timing:
        """At least two calls."""
        q1, median, q3 = statistics.quantiles(times, n=4, method="inclusive")
        return cls(median, q1, q3, min(times), len(times))


@dataclass
class Row:
    """One implementation of one case."""

    case: str
    name: str
    timing: Timing | None
    """None where it could not run; then `note` says why."""
    bytes_moved: int | None = None
    """What it must at least read and write; None where no such count makes sense."""
    note: str = ""


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def cache_bytes(device: torch.device) -> int:
    """Size of the last cache before memory."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    known = [int(size[:-1]) * {"K": 1 << 10, "M": 1 << 20}[size[-1]] for size in sizes if size[-1:] in ("K", "M")]
    return max(known, default=32 << 20)


def copies_beyond_cache(bytes_each: int, device: torch.device) -> int:
    """How many input sets to rotate among, so that none is still in the cache when its turn comes again."""
    return max(1, min(64, -(-2 * cache_bytes(device) // max(1, bytes_each))))


def measure(call: Callable[[int], Any], device: torch.device, *, seconds: float = 1.0, least: int = 7) -> Timing:
    """Times call(i), i = 0, 1, ...: three calls to warm up, then at least `least` calls and about `seconds`. Slow calls are
    fewer: one warms up where it takes longer than `seconds`, and three are enough where they take ten times as long.

    CPU: wall clock around each call. CUDA: a pair of events around each call, enqueued behind a write that clears the
    cache and keeps the device busy, so that launch latency hides as in a pipeline; one synchronisation a call, inside.
    """
    began = time.perf_counter()
    for i in range(3):
        call(i)
        synchronize(device)
        if time.perf_counter() - began > seconds:
            break
    times: list[float] = []
    sweep = torch.empty(2 * cache_bytes(device), dtype=torch.uint8, device=device) if device.type == "cuda" else None
    began = time.perf_counter()
    while len(times) < least or (time.perf_counter() - began < seconds and len(times) < 1000):
        if sweep is not None:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            sweep.zero_()
            start.record()
            call(len(times))
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        else:
            start_time = time.perf_counter()
            call(len(times))
            times.append(1e3 * (time.perf_counter() - start_time))
        if len(times) >= 3 and time.perf_counter() - began > 10 * seconds:
            break
    return Timing.of(times)


def attempt(case: str, name: str, call: Callable[[int], Any], device: torch.device, **about: Any) -> Row:
    """A row; one without a time where the call fails (memory, a missing dtype, a missing package)."""
    seconds = about.pop("seconds", 1.0)
    try:
        return Row(case, name, measure(call, device, seconds=seconds), **about)
    # what a peer raises where it cannot take the device, the dtype or the size; its row stays, with the reason
    except (RuntimeError, NotImplementedError, ValueError, TypeError, MemoryError, ImportError) as error:
        lines = str(error).strip().splitlines()
        return Row(case, name, None, note=f"{type(error).__name__}: {lines[0][:160] if lines else ''}")
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second, read and written together, of the fastest large copy on the device: the floor of all rows."""
    size = 1 << 30 if device.type == "cuda" else max(1 << 26, 2 * cache_bytes(device))
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / (measure(lambda _: target.copy_(source), device).fastest / 1e3)


def nbytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def commit() -> str:
    """The commit that is checked out, marked where the tree differs from it in more than results."""
    root = RESULTS.parent.parent
    try:
        name = subprocess.run(
            ["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout
        changed = subprocess.run(
            ["git", "-C", root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return name.strip() + ("+changes" if changed.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def device_name(device: torch.device) -> str:
    """Of the GPU or, from the kernel's tables, of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def machine(device: torch.device) -> dict[str, Any]:
    """What a reader needs to judge or repeat the figures."""
    facts: dict[str, Any] = {
        "device": device_name(device),
        "cache_bytes": cache_bytes(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if device.type == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem", "--format=csv,noheader"]
        try:
            facts["driver_and_clocks"] = subprocess.run(
                query, capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            facts["driver_and_clocks"] = "unknown"
    return facts


@dataclass
class Report:
    """Rows in the order they were taken, printed as they come, written as one JSON file. `header` comes first: it takes what
    is told of the machine, whose load is not the benchmark's own then."""

    name: str
    device: torch.device
    settings: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=dict)
    bandwidth: float = 0.0
    rows: list[Row] = field(default_factory=list)

    def header(self) -> None:
        self.machine = facts = machine(self.device)
        print(
            f"{facts['device']}, {facts['threads']} CPU threads, torch {facts['torch']}, commit {facts['commit'][:12]}"
        )
        if facts["load_average"] and facts["load_average"][0] > 1:
            print(f"other work was running: load average {facts['load_average'][0]:.1f}")
        self.bandwidth = copy_bandwidth(self.device)
        print(f"large copy: {self.bandwidth / 1e9:.1f} GB/s, read and written\n")

    def add(self, rows: Sequence[Row]) -> None:
        """Rows of one case; the first is ours, the others are told as multiples of its time."""
        ours = rows[0].timing
        print(f"{rows[0].case}")
        for row in rows:
            if row.timing is None:
                print(f"  {row.name:<46} {'-':>10}   {row.note}")
                continue
            t = row.timing
            ratio = f"{t.median / ours.median:7.2f}x" if ours else ""
            floor = ""
            if row.bytes_moved:
                floor = f"  {row.bytes_moved / (t.median / 1e3) / self.bandwidth:6.0%} of copy"
            spread = f"[{t.q1:.3f}, {t.q3:.3f}]"
            print(f"  {row.name:<46} {t.median:10.3f} ms {spread:<22} {ratio}{floor}  {row.note}".rstrip())
        print(flush=True)
        self.rows.extend(rows)

    def write(self, path: Path | None) -> Path:
        """Below bench/results/<device>/ unless said otherwise."""
        if path is None:
            folder = re.sub(r"[^a-z0-9]+", "-", device_name(self.device).lower()).strip("-")
            path = RESULTS / folder / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "benchmark": self.name,
            "settings": self.settings,
            "machine": self.machine,
            "copy_bytes_per_second": self.bandwidth,
            "rows": [asdict(row) for row in self.rows],
        }
        path.write_text(json.dumps(document, indent=1) + "\n")
        print(f"written: {path}")
        return path
