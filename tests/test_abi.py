# SPDX-License-Identifier: Apache-2.0
"""The operator libraries need nothing of torch but the stable ABI of the oldest version we support."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from enaf_ext import _library

SHIMS = Path(__file__).parent / "data" / "torch-2.10-shims.txt"
SHIM = re.compile(r"^(aoti_torch_|torch_)")
# Names of torch's C++ libraries, mangled: c10, at, torch, caffe2.
UNSTABLE = re.compile(r"^_Z\w*?(3c10|2at|5torch|6caffe2)")


def undefined_symbols(library: Path) -> set[str]:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("no nm: install binutils")
    if not library.exists():
        pytest.skip(f"{library.name} was not built")
    listing = subprocess.run([nm, "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True)
    return {line.split()[-1].split("@")[0] for line in listing.stdout.splitlines()}


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_needs_only_the_stable_abi(backend: str) -> None:
    symbols = undefined_symbols(_library.library_path(backend))
    known = {line for line in SHIMS.read_text().splitlines() if not line.startswith("#")}
    needed = {symbol for symbol in symbols if SHIM.match(symbol)}
    assert needed, "the library registers nothing"
    assert needed <= known
    assert not [symbol for symbol in symbols if UNSTABLE.match(symbol)]


def test_cpu_library_needs_no_cuda() -> None:
    assert not [symbol for symbol in undefined_symbols(_library.library_path("cpu")) if "cuda_" in symbol]


def test_needs_no_python() -> None:
    for backend in ("cpu", "cuda"):
        library = _library.library_path(backend)
        if library.exists():
            assert not [symbol for symbol in undefined_symbols(library) if symbol.startswith("Py")]
