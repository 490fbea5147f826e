# SPDX-License-Identifier: Apache-2.0
"""What the build says of itself, and that it names the cause when it fails."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from enaf_ext import _C, _library

ROOT = Path(__file__).resolve().parent.parent


def tool(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}")
    return found


def tracked(*paths: str) -> set[str]:
    """Files of the checkout that are under version control."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    run = subprocess.run(["git", "ls-files", *paths], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines())


def configure(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    pybind11 = pytest.importorskip("pybind11")
    command = [
        *(tool("cmake"), "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"),
        *(f"-DPython3_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", *options),
    ]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def test_build_info() -> None:
    info = _C.build_info()
    assert info["torch_target"] == "2.10"
    assert info["torch_built_against"].startswith("2.")
    assert info["compiler"]
    # Either CUDA was built, for architectures, or there is a reason why not.
    assert bool(info["cuda_version"]) == bool(info["cuda_architectures"]) == (not info["cuda_left_out"])
    assert _library.library_path("cuda").exists() == bool(info["cuda_version"])


def test_cpu_instructions_can_be_chosen() -> None:
    program = "from enaf_ext import _C; print(_C.cpu_instructions())"
    environment = {**os.environ, "ENAF_CPU": "baseline"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert run.stdout.strip() == "baseline"


def test_importing_the_package_is_light() -> None:
    program = "import sys, enaf_ext; print('torch' in sys.modules, enaf_ext.__version__)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("False 0.")


def test_cuda_can_be_left_out(tmp_path: Path) -> None:
    run = configure(tmp_path, "-DENAF_CUDA=OFF")
    assert run.returncode == 0, run.stderr
    assert "CUDA operators are left out: the build was asked to leave CUDA out" in run.stdout


def test_missing_compiler_for_cuda(tmp_path: Path) -> None:
    environment = {"CUDACXX": "/nonexistent/nvcc"}
    run = configure(tmp_path / "auto", **environment)
    assert run.returncode == 0, run.stderr
    assert "CUDA operators are left out: no working CUDA compiler" in run.stdout
    run = configure(tmp_path / "on", "-DENAF_CUDA=ON", **environment)
    assert run.returncode != 0
    assert "CUDA operators were asked for, but no working CUDA compiler" in " ".join(run.stderr.split())


def test_missing_torch(tmp_path: Path) -> None:
    run = configure(tmp_path, "-DENAF_TORCH_DIR=/nonexistent")
    assert run.returncode != 0
    assert "torch >= 2.10 was not found: install torch first" in " ".join(run.stderr.split())


def test_architecture_list_is_checked(tmp_path: Path) -> None:
    tool("nvcc")
    run = configure(tmp_path, TORCH_CUDA_ARCH_LIST="8.0;Hopper")
    assert run.returncode != 0
    assert "expected entries such as 8.6 or 9.0+PTX, got 'Hopper'" in " ".join(run.stderr.split())


def test_failed_build_names_its_cause_last(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    pytest.importorskip("pybind11")
    tool("cmake")
    tool("ninja")
    command = [sys.executable, "setup.py", "build_ext", "--build-temp", str(tmp_path), "--build-lib", str(tmp_path)]
    environment = {**os.environ, "CXX": "/nonexistent/c++", "ENAF_WITHOUT_CUDA": "1"}
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode != 0
    last = run.stderr[-1500:]
    assert "enaf_ext: the native build failed" in last
    assert "/nonexistent/c++" in last


def test_source_distribution_holds_what_the_build_needs(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    listed = set((tmp_path / "enaf_ext.egg-info" / "SOURCES.txt").read_text().splitlines())
    alone = {"CMakeLists.txt", "setup.py", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"}
    needed = tracked("csrc", "enaf_ext", "python", *alone)
    assert "csrc/library.cpp" in needed
    assert alone <= needed
    assert sorted(needed - listed) == []


def test_tools_of_the_environment_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setuptools = pytest.importorskip("setuptools")
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    find_tool = runpy.run_path(str(ROOT / "setup.py"))["find_tool"]
    for folder, names in (("environment", ["one"]), ("path", ["one", "two"])):
        for name in names:
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / name).touch(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "environment" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert find_tool("one") == str(tmp_path / "environment" / "one")
    assert find_tool("two") == str(tmp_path / "path" / "two")
    with pytest.raises(SystemExit, match="three was not found: pip install three"):
        find_tool("three")


def test_cmake_is_asked_for_in_one_version() -> None:
    required = re.search(r"cmake_minimum_required\(VERSION ([0-9.]+)\)", (ROOT / "CMakeLists.txt").read_text())
    assert required is not None
    assert f'"cmake>={required[1]}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.slow
def test_wheel(tmp_path: Path) -> None:
    """A wheel holds the libraries of this build alone."""
    for module in ("setuptools", "pybind11", "pip"):
        pytest.importorskip(module)
    tool("cmake")
    tool("ninja")
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    run = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "ENAF_WITHOUT_CUDA": "1"}, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (wheel,) = tmp_path.glob("enaf_ext-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    libraries = sorted(name for name in names if name.endswith(".so"))
    assert [name.split(".")[0] for name in libraries] == ["enaf_ext/_C", "enaf_ext/_operators_cpu"]
    assert "enaf/__init__.py" in names
