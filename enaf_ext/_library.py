# SPDX-License-Identifier: Apache-2.0
"""Loads the operator libraries into torch."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

FOLDER = Path(__file__).parent


def library_path(backend: str) -> Path:
    """Where the operators of "cpu" or "cuda" lie if they were built."""
    return FOLDER / f"_operators_{backend}.so"


@cache
def load() -> None:
    """Registers the operators. Those for CUDA need the CUDA shims that only a CUDA build of torch exports.

    Raises:
        ImportError: the CPU operators were not built.
    """
    cpu, cuda = library_path("cpu"), library_path("cuda")
    if not cpu.exists():
        raise ImportError(
            f"{cpu.name} is missing beside {__name__}: build it with `pip install .` or `pip install -e .`"
        )
    torch.ops.load_library(str(cpu))
    if torch.version.cuda is not None and cuda.exists():
        torch.ops.load_library(str(cuda))
