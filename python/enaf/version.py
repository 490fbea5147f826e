# SPDX-License-Identifier: Apache-2.0
"""Which enaf_ext this is."""

from __future__ import annotations

from functools import cache
from importlib import metadata


@cache
def version() -> str:
    """The installed version of enaf_ext; from a tree that is not installed, that there is none."""
    try:
        return metadata.version("enaf_ext")
    except metadata.PackageNotFoundError:
        return "unknown (not installed)"
