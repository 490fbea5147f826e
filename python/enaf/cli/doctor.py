# SPDX-License-Identifier: Apache-2.0
"""`enaf doctor`: what is installed, what works, and what to do about the rest."""

from __future__ import annotations

import argparse
import importlib
import platform
import sys
import time
from dataclasses import dataclass, field
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from enaf.cli import DONE, SOME_FAILED
from enaf.version import version

HELP = "Say what is installed, which operator has which backend, and what to do where something is missing."
BACKENDS = ("CPU", "CUDA")
CPU_ONLY = ("fsrcnn_image",)
_REBUILD = "build it again: `pip install .` (or `make clean test` in a clone) and read the last lines of the build"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`enaf doctor` takes no options."""


@dataclass
class Report:
    """What is printed: sections of (label, text) lines, then what to do.

    Attributes:
        problems: what keeps something from working, each with its way out.
        notes: what could be better.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def section(self, title: str) -> None:
        print(f"\n{title}")

    def line(self, label: str, text: object) -> None:
        print(f"  {label:<24} {text}")


def run(arguments: argparse.Namespace) -> int:
    """Prints the report.

    Returns:
        0 if upscaling works on every device that was found, 1 otherwise.
    """
    report = Report()
    torch = _versions(report)
    _native_library(report)
    loaded = torch is not None and _load_operators(report)
    if torch is not None:
        _devices(report, torch)
    if loaded:
        _operators(report, torch)
    if _weights(report) and loaded:
        _trial(report, torch)
    for title, lines in (("What to do", report.problems), ("Worth knowing", report.notes)):
        if lines:
            report.section(title)
            for text in lines:
                print(f"  - {text}")
    if not report.problems:
        print("\nAll is well.")
    return SOME_FAILED if report.problems else DONE


def _versions(report: Report) -> Any:
    """Versions; returns the torch module, or None."""
    report.section("Versions")
    report.line("enaf_ext", version())
    report.line("python", f"{platform.python_version()} ({sys.executable})")
    for name in ("torch", "numpy", "pillow", "safetensors"):
        try:
            report.line(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            report.line(name, "missing")
            report.problems.append(f"{name} is missing: `pip install {name}`")
    try:
        return importlib.import_module("torch")
    except Exception as error:  # a broken installation raises nearly anything
        report.problems.append(f"torch cannot be imported ({error}): install it again")
        return None


def _native_library(report: Report) -> None:
    report.section("Native build")
    try:
        native = importlib.import_module("enaf_ext._C")
    except Exception as error:  # an ImportError if it is missing, nearly anything if it is broken
        report.line("enaf_ext._C", f"not loaded: {_first_line(error)}")
        report.problems.append(f"the native library was not loaded: {_REBUILD}")
        return
    build = native.build_info()
    for name, value in build.items():
        if value:
            report.line(name.replace("_", " "), value)
    report.line("cpu instructions", native.cpu_instructions())
    if build["cuda_left_out"]:
        report.notes.append(f"built without CUDA operators ({build['cuda_left_out']}); the CPU operators are complete")


def _load_operators(report: Report) -> bool:
    try:
        importlib.import_module("enaf_ext.ops")
        importlib.import_module("enaf_ext._library").load()
    except Exception as error:  # see above: a missing or broken library raises nearly anything
        report.problems.append(f"the operators were not loaded ({_first_line(error)}): {_REBUILD}")
        return False
    return True


def _devices(report: Report, torch: Any) -> None:
    report.section("Devices")
    report.line("cpu", f"{_cpu_name()}, {torch.get_num_threads()} threads")
    if torch.version.cuda is None:
        report.line("cuda", "none: this torch was built without CUDA")
        if Path("/proc/driver/nvidia/version").exists():
            report.notes.append(
                "there is an NVIDIA driver, but this torch cannot use it: install a CUDA build of torch"
            )
    elif not torch.cuda.is_available():
        report.line("cuda", f"none found (torch was built for CUDA {torch.version.cuda})")
    else:
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            size = f"{card.total_memory / 2**30:.1f} GiB, compute capability {card.major}.{card.minor}"
            report.line(f"cuda:{index}", f"{card.name}, {size}")


def _operators(report: Report, torch: Any) -> None:
    report.section("Operators")
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    names = sorted(
        {name.split(".")[0] for name in torch._C._dispatch_get_all_op_names() if name.startswith("enaf_ext::")}
    )
    for name in names:
        backends = [backend for backend in BACKENDS if has_kernel(name, backend)]
        report.line(name.removeprefix("enaf_ext::"), ", ".join(backends) or "no backend")
        if "CPU" not in backends:
            report.problems.append(f"{name} has no CPU kernel: {_REBUILD}")
        wanted = torch.version.cuda is not None and torch.cuda.is_available() and not name.endswith(CPU_ONLY)
        if wanted and "CUDA" not in backends:
            report.problems.append(f"there is a GPU, but {name} has no CUDA kernel: with nvcc on the path, {_REBUILD}")


def _weights(report: Report) -> bool:
    report.section("Weights")
    files = sorted(Path(str(resources.files("enaf") / "weights")).glob("*.safetensors"))
    for path in files:
        report.line(path.stem, f"{path.stat().st_size / 1000:.0f} kB")
    if not files:
        report.line("none", "")
        report.problems.append("no weights are installed: install the package again, or name a file with --model")
    return bool(files)


def _trial(report: Report, torch: Any) -> None:
    """A small image through the whole, on every device."""
    report.section("Trial")
    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    for device in devices:
        try:
            upscale = importlib.import_module("enaf.upscaler").upscale
            image = torch.linspace(0, 1, 3 * 37 * 53, device=device).view(3, 37, 53)
            upscale(image)
            started = time.perf_counter()
            upscale(image).cpu()
            report.line(device, f"works: 53x37 upscaled in {1000 * (time.perf_counter() - started):.0f} ms")
        except Exception as error:  # whatever goes wrong is what is to be reported
            report.line(device, f"fails: {_first_line(error)}")
            report.problems.append(f"upscaling on {device} fails ({_first_line(error)})")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
