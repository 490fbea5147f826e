# SPDX-License-Identifier: Apache-2.0
"""Every CUDA source compiles, on machines without a GPU too, and no kernel spills registers or needs a stack."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
ARCHITECTURES = ("75", "80", "86", "89", "90")  # the default of CMakeLists.txt
REPORT = re.compile(
    r"Compiling entry function '(\w+)' for '(\w+)'.*?"
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads",
    re.DOTALL,
)


def build_log(source: Path) -> str | None:
    """What the compiler said when the project was built in this tree, unless the sources are newer."""
    newest = max(path.stat().st_mtime for path in (ROOT / "csrc").rglob("*") if path.suffix in (".h", ".cuh", ".cu"))
    logs = (ROOT / "build").glob(f"**/enaf_operators_cuda.dir/**/{source.name}.o.log")
    current = [log for log in logs if log.stat().st_mtime >= newest and log.with_suffix("").exists()]
    return max(current, key=lambda log: log.stat().st_mtime).read_text() if current else None


def compile_log(source: Path, architectures: tuple[str, ...], folder: Path) -> str:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc, and no log of a build with CUDA: install the CUDA toolkit")
    torch = importlib.util.find_spec("torch")
    assert torch is not None
    assert torch.submodule_search_locations is not None
    command = [
        *(
            nvcc,
            "-std=c++17",
            "-O3",
            "-DNDEBUG",
            "-DUSE_CUDA",
            "-DTORCH_TARGET_VERSION=0x020a000000000000",
            "--fmad=false",
        ),
        *(f"-gencode=arch=compute_{name},code=sm_{name}" for name in architectures),
        *("-isystem", f"{torch.submodule_search_locations[0]}/include", f"-I{ROOT / 'csrc'}"),
        *("-Xcompiler=-fPIC", "-Xptxas=-v", "-c", str(source), "-o", str(folder / "object.o")),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def check(log: str) -> None:
    reports = REPORT.findall(log)
    assert len(reports) >= 2, f"no kernels in the compiler's report:\n{log[:2000]}"
    spilling = [f"{name} ({architecture})" for name, architecture, *bytes_used in reports if set(bytes_used) != {"0"}]
    assert spilling == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_no_spills(source: Path, tmp_path: Path) -> None:
    check(build_log(source) or compile_log(source, ("80",), tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_no_spills_on_every_architecture(source: Path, tmp_path: Path) -> None:
    log = compile_log(source, ARCHITECTURES, tmp_path)
    check(log)
    assert {architecture for _, architecture, *_ in REPORT.findall(log)} == {f"sm_{name}" for name in ARCHITECTURES}
