# SPDX-License-Identifier: Apache-2.0
"""A file is the old one or the new one at every moment; what a killed process left is recognised and removed."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from .deflate import crc32

_HEAD = 16
_PART = re.compile(r"^\..+\.enaf-[0-9a-f]{8}\.part$")
_LONGEST = 255 - len("..enaf-01234567.part")  # bytes that a part's name leaves to its target's


class PartialFile:
    """The file that will take a target's place: appended to, except for its head, which may be patched at the end.

    It keeps a checksum of what it was given, to be compared with what the disk gives back.

    Attributes:
        sha256: of the whole file, in hexadecimal; set by `commit`.
    """

    sha256 = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._head = bytearray()
        self._body = 0
        self._file = _create_locked(path)

    def write(self, data: bytes) -> int:
        """Appends."""
        self._file.write(data)
        missing = max(0, _HEAD - self.size)
        self._head += data[:missing]
        self._body = crc32(data[missing:], self._body)
        self.size += len(data)
        return len(data)

    def tell(self) -> int:
        """Bytes so far."""
        return self.size

    def flush(self) -> None:
        """Hands everything to the system."""
        self._file.flush()

    def patch_head(self, data: bytes) -> None:
        """Replaces the first bytes, at most 16."""
        self._head[: len(data)] = data
        self._file.seek(0)
        self._file.write(data)
        self._file.seek(0, os.SEEK_END)

    def commit(self) -> None:
        """Brings everything to the disk and reads it back.

        Raises:
            OSError: the disk is full, or gives back something else.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        with open(self.path, "rb") as file:
            head, body = file.read(_HEAD), 0
            digest = hashlib.sha256(head)
            while block := file.read(1 << 20):
                body = crc32(block, body)
                digest.update(block)
        if head != self._head or body != self._body:
            raise OSError("the disk gave back other bytes than were written")
        self.sha256 = digest.hexdigest()

    def close(self) -> None:
        """Lets go of the file, and of the lock that says that its writer lives."""
        self._file.close()


def _create_locked(path: Path) -> BinaryIO:
    """Creates the file and locks it; the lock dies with the process, however that ends."""
    while True:
        file = open(path, "xb", buffering=1 << 20)  # noqa: SIM115  # closed by its owner
        with contextlib.suppress(OSError):  # a file system without locks: nothing can be swept there, either
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # a sweeper came between creation and lock


def sha256_of(path: Path) -> str:
    """Of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def replacing(path: Path, check: Callable[[Path], None] = lambda path: None) -> Iterator[PartialFile]:
    """A file whose content takes the place of `path` once it is whole, on the disk and checked.

    Args:
        path: the target; a link stays a link, to the new content.
        check: called with the complete temporary file; raises if it is not what it should be.
    """
    path = path.resolve()
    name = path.name
    while len(os.fsencode(name)) > _LONGEST:
        name = name[:-1]
    part = PartialFile(path.with_name(f".{name}.enaf-{secrets.token_hex(4)}.part"))
    try:
        yield part
        part.commit()
        check(part.path)
        os.replace(part.path, path)
    except BaseException:
        part.path.unlink(missing_ok=True)
        raise
    finally:
        part.close()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must survive a power cut
    finally:
        os.close(folder)


def sweep(folder: Path) -> list[Path]:
    """Removes what killed runs left in a folder: files named as ours whose lock nobody holds any more.

    Returns:
        What was removed.
    """
    removed = []
    for entry in os.scandir(folder):
        if not _PART.match(entry.name) or not entry.is_file(follow_symlinks=False):
            continue
        with contextlib.suppress(OSError), open(entry.path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(entry.path)
            removed.append(Path(entry.path))
    return removed
