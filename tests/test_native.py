# SPDX-License-Identifier: Apache-2.0
"""The source of every CUDA kernel, run on the CPU under sanitizers: tests/native emulates threads and barriers."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "tests" / "native"
FLAGS = (
    "-std=c++20",
    "-Og",
    "-g1",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-pthread",
)
KERNEL = re.compile(r"__global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(")
SANITIZERS = {
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "thread": ("-fsanitize=thread",),
}


def compiler() -> str:
    found = shutil.which(os.environ.get("CXX", "g++"))
    if found is None:
        pytest.skip("no C++ compiler: set CXX or install g++")
    return found


def build(program: str, sanitizer: str) -> Path:
    """Compiles a test program, once for each state of the sources."""
    torch = importlib.util.find_spec("torch")
    assert torch is not None
    assert torch.submodule_search_locations is not None
    headers = f"{torch.submodule_search_locations[0]}/include"
    command = [
        compiler(),
        *FLAGS,
        *SANITIZERS[sanitizer],
        "-isystem",
        headers,
        f"-I{ROOT / 'csrc'}",
        str(NATIVE / program),
    ]
    sources = sorted([*(ROOT / "csrc").glob("*.h"), *(ROOT / "csrc" / "cuda").glob("*.cuh"), *NATIVE.iterdir()])
    state = hashlib.sha256(" ".join(command).encode())
    for source in sources:
        state.update(source.read_bytes())
    target = ROOT / "build" / "native" / f"{Path(program).stem}-{sanitizer}-{state.hexdigest()[:16]}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        result = subprocess.run([*command, "-o", str(target)], capture_output=True, text=True, check=False)
        if "cannot find -l" in result.stderr or "cannot find lib" in result.stderr:
            pytest.skip(f"the compiler has no {sanitizer} sanitizer: {result.stderr.strip().splitlines()[0]}")
        assert result.returncode == 0, result.stderr
    return target


@pytest.mark.parametrize(
    ("program", "sanitizer"),
    [
        ("test_kernels.cpp", "address"),
        ("test_kernels_with_barriers.cpp", "address"),
        ("test_fsrcnn_patches.cpp", "address"),
        pytest.param("test_kernels_with_barriers.cpp", "thread", marks=pytest.mark.slow),
        pytest.param("test_fsrcnn_patches.cpp", "thread", marks=pytest.mark.slow),
    ],
)
def test_kernels_on_the_cpu(program: str, sanitizer: str) -> None:
    # Some systems scatter addresses too widely for ThreadSanitizer.
    fixed_addresses = ["setarch", "-R"] if sanitizer == "thread" and shutil.which("setarch") else []
    executable = build(program, sanitizer)
    result = subprocess.run(
        [*fixed_addresses, str(executable)], capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.strip() == "0 failures"


def test_every_kernel_runs_here() -> None:
    tests = "\n".join(path.read_text() for path in NATIVE.glob("*.cpp"))
    kernels = {name for path in (ROOT / "csrc" / "cuda").glob("*.cu*") for name in KERNEL.findall(path.read_text())}
    assert len(kernels) >= 9
    assert sorted(name for name in kernels if name not in tests) == []
