# SPDX-License-Identifier: Apache-2.0
"""`enaf doctor` tells what works, and explains what does not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OPERATORS = (
    "edge_score",
    "cell_details",
    "unfold_patches",
    "gather_patches",
    "bicubic_patches",
    "route_exits",
    "fold_patches",
)


def doctor(folder: Path, *, before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """`enaf doctor` in a fresh process that starts in `folder`, after the statement `before`."""
    code = f"import sys; {before or 'pass'}\nfrom enaf.cli import main; sys.exit(main(['doctor']))"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )


def test_reports_a_working_installation(tmp_path: Path) -> None:
    done = doctor(tmp_path)
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    for name in ("enaf_ext", "python", "torch", "numpy", "pillow", "safetensors", "compiler", "cpu"):
        assert name in lines, f"{name} is not in\n{done.stdout}"
    for name in OPERATORS:
        assert "CPU" in lines[name]
    assert "Traceback" not in done.stdout + done.stderr
    assert (done.returncode == 0) == ("All is well." in done.stdout)


@pytest.fixture
def without_native_library(tmp_path: Path) -> Path:
    """The Python sources alone, as in an installation whose build went wrong."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "*.safetensors")
    shutil.copytree(ROOT / "enaf_ext", tmp_path / "enaf_ext", ignore=ignored)
    shutil.copytree(ROOT / "python" / "enaf", tmp_path / "enaf", ignore=ignored)
    return tmp_path


def test_explains_a_missing_native_library(without_native_library: Path) -> None:
    # an editable installation would find the missing library in the source tree
    alone = "sys.meta_path[:] = [finder for finder in sys.meta_path if 'editable' not in str(finder)]"
    done = doctor(without_native_library, before=alone, PYTHONPATH=str(without_native_library))
    assert done.returncode == 1
    assert "the native library was not loaded: build it again" in done.stdout
    assert "the operators were not loaded" in done.stdout
    assert "no weights are installed" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_explains_a_broken_native_library(without_native_library: Path) -> None:
    (without_native_library / "enaf_ext" / "_operators_cpu.so").write_bytes(b"no library")
    done = doctor(without_native_library, PYTHONPATH=str(without_native_library))
    assert done.returncode == 1
    assert "the operators were not loaded" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_explains_a_missing_torch(tmp_path: Path) -> None:
    done = doctor(tmp_path, before="sys.modules['torch'] = None")
    assert done.returncode == 1
    assert "torch cannot be imported" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_says_nothing_when_its_reader_has_seen_enough(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code = "import sys; from enaf.cli import main; sys.exit(main(['doctor']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr == ""
