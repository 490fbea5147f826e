# SPDX-License-Identifier: Apache-2.0
"""Compression by several threads (zlib lets go of the interpreter while it works), results in their order."""

from __future__ import annotations

import importlib
import os
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast


def _engine() -> tuple[Any, int]:
    """zlib-ng where it is installed (extra `images`), else zlib, and the level: files at most as large."""
    try:
        return importlib.import_module("zlib_ng.zlib_ng"), 4
    except ImportError:
        return zlib, 5


ENGINE, LEVEL = _engine()
crc32 = cast(Callable[..., int], ENGINE.crc32)
_BLOCK = 1 << 20
_WINDOW = 1 << 15


class InOrder:
    """Runs functions on threads; a bounded number wait, and their results come in the order of submission."""

    def __init__(self) -> None:
        self._threads = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._threads)
        self._waiting: deque[Future[bytes]] = deque()

    def submit(self, function: Callable[..., bytes], *arguments: Any) -> list[bytes]:
        """Takes one more; returns the results that make room for it."""
        self._waiting.append(self._pool.submit(function, *arguments))
        return self._take(2 * self._threads)

    def finish(self) -> list[bytes]:
        """The remaining results."""
        results = self._take(0)
        self._pool.shutdown()
        return results

    def _take(self, leave: int) -> list[bytes]:
        return [self._waiting.popleft().result() for _ in range(len(self._waiting) - leave)]


class ParallelDeflate:
    """Bytes in, finished pieces of one zlib stream out (the way of pigz); the same for any number of threads."""

    def __init__(self) -> None:
        self._pool = InOrder()
        self._rest = bytearray()
        self._window = b""
        self._adler = 1

    def feed(self, data: bytes) -> list[bytes]:
        """Takes more bytes; returns the pieces that are ready."""
        self._adler = ENGINE.adler32(data, self._adler)
        self._rest += data
        pieces: list[bytes] = []
        start = 0
        while len(self._rest) - start >= _BLOCK:
            pieces += self._submit(bytes(self._rest[start : start + _BLOCK]), last=False)
            start += _BLOCK
        del self._rest[:start]
        return pieces

    def finish(self) -> list[bytes]:
        """The remaining pieces."""
        pieces = self._submit(bytes(self._rest), last=True)
        return [*pieces, *self._pool.finish(), self._adler.to_bytes(4, "big")]

    def _submit(self, block: bytes, *, last: bool) -> list[bytes]:
        head = b"" if self._window else b"\x78\x9c"
        window, self._window = self._window, block[-_WINDOW:]
        return self._pool.submit(_compress, head, block, window, last)


def compress(data: bytes) -> bytes:
    """One whole zlib stream."""
    return ENGINE.compress(data, LEVEL)


def _compress(head: bytes, block: bytes, window: bytes, last: bool) -> bytes:
    """A piece of a raw deflate stream that ends on a byte and may refer to the 32 KiB before it."""
    worker = ENGINE.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=window)
    return head + worker.compress(block) + worker.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)
