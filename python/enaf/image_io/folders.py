# SPDX-License-Identifier: Apache-2.0
"""Folders of images: what is in them, and a hash that tells two of them apart."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .formats import READABLE_SUFFIXES


def list_images(folder: Path) -> list[Path]:
    """Image files below ``folder``, sorted by path.

    Raises:
        ValueError: the folder does not exist or holds no image.
    """
    if not folder.is_dir():
        raise ValueError(f"data: expected a folder, got {folder}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in READABLE_SUFFIXES)
    if not paths:
        raise ValueError(f"data: no image ({', '.join(sorted(READABLE_SUFFIXES))}) below {folder}")
    return paths


def manifest_hash(paths: list[Path]) -> str:
    """SHA-256 over the names and contents of the files: tells whether two runs saw the same data."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
