# SPDX-License-Identifier: Apache-2.0
"""Errors that name their files."""

from __future__ import annotations

import contextlib
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
