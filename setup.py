# SPDX-License-Identifier: Apache-2.0
"""Builds the native libraries with CMake and ninja; CMakeLists.txt is the build description, pyproject.toml the metadata.

`pip install .` compiles against the torch of the environment it installs into, also from pip's isolated build environment:
there, sysconfig still names the target's site-packages. Only where that holds no torch is torch a build requirement.
`pip install . --no-build-isolation` needs setuptools, ninja, cmake and pybind11 installed, and no network.

Environment: ENAF_WITHOUT_CUDA=1 leaves the CUDA operators out; TORCH_CUDA_ARCH_LIST, CMAKE_BUILD_PARALLEL_LEVEL, CMAKE_ARGS, CXX
and CUDACXX are honoured.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
REPORTED = ("error", "undefined reference", "fatal")


def find_torch() -> Path | None:
    """The torch package of the environment that is being installed into, else the one that can be imported."""
    folders = [Path(sysconfig.get_path(name)) / "torch" for name in ("platlib", "purelib")]
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.submodule_search_locations:
        folders.append(Path(spec.submodule_search_locations[0]))
    return next((folder for folder in folders if (folder / "include" / "torch").is_dir()), None)


def find_tool(name: str) -> str:
    """A build tool: of the environment's scripts, else of PATH."""
    beside = shutil.which(name, path=str(Path(sys.executable).parent))
    tool = beside or shutil.which(name)
    if tool is None:
        raise SystemExit(f"enaf_ext: {name} was not found: pip install {name}")
    return tool


def run(command: list[str]) -> None:
    """Runs a command, passing its output on; on failure ends with the lines that name the cause."""
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            print(lines[-1], flush=True)
    if process.returncode:
        first = next(
            (i for i, line in enumerate(lines) if any(word in line.lower() for word in REPORTED)), len(lines) - 8
        )
        cause = "\n".join(lines[max(first, 0) :][:12])
        raise SystemExit(f"\nenaf_ext: the native build failed. `{' '.join(command[:3])} ...` said first:\n{cause}")


class CMakeBuild(build_ext):
    """Configures, builds and puts the libraries into enaf_ext/: of the build tree, or of the sources if in place."""

    def run(self) -> None:
        torch = find_torch()
        if torch is None:
            raise SystemExit("enaf_ext: torch >= 2.10 was not found in this environment: pip install torch")
        pybind11 = importlib.util.find_spec("pybind11")
        if pybind11 is None or not pybind11.submodule_search_locations:
            raise SystemExit("enaf_ext: pybind11 was not found: pip install pybind11")
        # In place, the build tree stays for the next time, and its compiler logs for the tests.
        build = ROOT / ("build/inplace" if self.inplace else self.build_temp)
        cmake = find_tool("cmake")
        run(
            [
                *(cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja"),
                # Said anew each time: an isolated build's tools are gone when the next one starts.
                f"-DCMAKE_MAKE_PROGRAM={find_tool('ninja')}",
                f"-DPython3_EXECUTABLE={sys.executable}",
                f"-DPYTHON_EXECUTABLE={sys.executable}",
                f"-Dpybind11_DIR={pybind11.submodule_search_locations[0]}/share/cmake/pybind11",
                f"-DENAF_TORCH_DIR={torch}",
                f"-DENAF_CUDA={'OFF' if os.environ.get('ENAF_WITHOUT_CUDA', '0') not in ('', '0') else 'AUTO'}",
                *os.environ.get("CMAKE_ARGS", "").split(),
            ]
        )
        run([cmake, "--build", str(build)])
        for stale in self.destination().glob("_operators_*.so"):
            stale.unlink()
        run([cmake, "--install", str(build), "--prefix", str(self.destination())])

    def destination(self) -> Path:
        return ROOT / "enaf_ext" if self.inplace else ROOT / self.build_lib / "enaf_ext"

    def get_outputs(self) -> list[str]:
        return [str(path) for path in sorted(self.destination().glob("_*.so"))]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


setup(
    ext_modules=[Extension("enaf_ext._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    setup_requires=[] if find_torch() else ["torch>=2.10"],
)
