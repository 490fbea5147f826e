# SPDX-License-Identifier: Apache-2.0
"""Which files are videos, and what they can become."""

from __future__ import annotations

import os
from pathlib import Path

READABLE = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".flv")
CONTAINERS = {".mkv": "matroska", ".mp4": "mp4", ".mov": "mov", ".webm": "webm"}
WRITABLE = tuple(CONTAINERS)


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether the name is that of a video."""
    return Path(path).suffix.lower() in READABLE
