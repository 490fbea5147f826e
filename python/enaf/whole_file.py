# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name to write to; the file takes the place of ``path`` once it is whole and on the disk. For one writer at a time."""
    path = path.resolve()
    part = path.with_name(f".{path.name}.part" if path.suffix != ".nut" else f"{path.name}.part")
    try:
        yield part
        with open(part, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must survive a power cut
    finally:
        os.close(folder)


def write_whole(path: Path, content: bytes) -> None:
    """Leaves either the old file or the new one, whatever happens.

    Raises:
        OSError: it cannot be written; says why.
    """
    try:
        with whole_file(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise OSError(f"{path}: cannot be written: {error.strerror or error}") from error
