# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or not there, and errors that name them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from .report import VideoError


@contextlib.contextmanager
def errors_of(source: Path) -> Iterator[None]:
    """Whatever FFmpeg complains about becomes an error that names the file."""
    import av

    try:
        yield
    except FileNotFoundError as error:
        raise VideoError(f"{error.filename or source}: no such file or folder") from error
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"{getattr(error, 'filename', None) or source}: {error.strerror or error}") from error


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name to write to; the file takes its place once it is whole and on the disk."""
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
