# SPDX-License-Identifier: Apache-2.0
"""Results into a pipe or the standard output, all of each or an error."""

from __future__ import annotations

import errno
import io
import os
from typing import BinaryIO

from enaf.image_io import ImageError


class WholeWriter:
    """Writes everything, without a buffer: what is refused must not stay in one, to fail again when the process ends.

    A stream without a buffer, as also the standard output of `PYTHONUNBUFFERED=1` is, may take a part at a time.

    Args:
        stream: a binary file or pipe; it is not closed.
    """

    def __init__(self, stream: BinaryIO | io.RawIOBase) -> None:
        stream.flush()
        self._stream = stream.raw if isinstance(stream, io.BufferedWriter) else stream

    def write(self, data: bytes) -> int:
        """Appends.

        Raises:
            ImageError: the stream does not take it.
        """
        rest = memoryview(data)
        try:
            while rest:
                count = self._stream.write(rest)
                if count is None:  # it does not block, and is full
                    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                rest = rest[count:]
        except OSError as error:
            raise _refused(error) from error
        return len(data)

    def flush(self) -> None:
        """Hands everything to the system.

        Raises:
            ImageError: it does not take it.
        """
        try:
            self._stream.flush()
        except OSError as error:
            raise _refused(error) from error


def _refused(error: OSError) -> ImageError:
    return ImageError(f"-: cannot be written: {error.strerror or error}")
