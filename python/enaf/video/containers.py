# SPDX-License-Identifier: Apache-2.0
"""Which files are videos, and what they can become."""

from __future__ import annotations

import os
from pathlib import Path

READABLE = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".flv")
_CONTAINERS = {".mkv": "matroska", ".mp4": "mp4", ".mov": "mov", ".webm": "webm"}
WRITABLE = tuple(_CONTAINERS)


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether the name is that of a video."""
    return Path(path).suffix.lower() in READABLE


def container_of(suffix: str) -> str:
    """FFmpeg's name of the container that a suffix, one of `WRITABLE`, stands for."""
    return _CONTAINERS[suffix.lower()]
