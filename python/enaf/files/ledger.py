# SPDX-License-Identifier: Apache-2.0
"""What was done and what failed: one JSON object a line, appended, surviving a kill at any moment."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

NAME = "enaf-ledger.jsonl"
"""Of the ledger in an output folder."""

BEGINS = b'{"'
"""A ledger, whatever a kill cut off of its end."""


@dataclass(frozen=True)
class FileResult:
    """What became of one input.

    Attributes:
        source, target: as they were named; `-` is the standard stream.
        status: "done", "skipped" (done before: same input, settings and output), or "failed".
        error: why it failed.
        input_sha256, settings_sha256, output_sha256: of the input's bytes, of everything that decides the result (weights
            and version included), and of the output's bytes.
        width, height: of the result in pixels.
        seconds: wall time.
        exits: patches an exit, shallowest first; of a video or of frames, those of all.
        eta: the eta that was used; None where a budget gave the frames different ones.
        cost: as in `UpscaleInfo.cost`; of a video or of frames, the mean share, and all milliseconds.
        notes: what was converted on the way.
    """

    source: str
    target: str
    status: Literal["done", "skipped", "failed"]
    error: str | None = None
    input_sha256: str | None = None
    settings_sha256: str | None = None
    output_sha256: str | None = None
    width: int | None = None
    height: int | None = None
    seconds: float | None = None
    exits: list[int] = field(default_factory=list)
    eta: float | None = None
    cost: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def json(self) -> str:
        """One line of ASCII, for names that are no UTF-8; what is not known is left out."""
        known = {key: value for key, value in asdict(self).items() if value not in (None, [], {})}
        return json.dumps(known)


class Ledger:
    """An append-only file of results.

    Args:
        path: created with the first entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def done(self) -> dict[tuple[str | None, str | None], set[str]]:
        """SHA-256 of the outputs that came of an input's and settings' SHA-256; lines that a kill cut short are passed over."""
        outputs: dict[tuple[str | None, str | None], set[str]] = {}
        for entry in self._entries():
            key = entry.get("input_sha256"), entry.get("settings_sha256")
            if entry.get("status") == "done" and all(isinstance(part, str) for part in key):
                outputs.setdefault(key, set()).add(str(entry.get("output_sha256")))
        return outputs

    def _entries(self) -> Iterator[dict[str, Any]]:
        try:
            lines = self.path.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                yield entry

    def append(self, result: FileResult) -> None:
        """Writes one line in one go and brings it to the disk, behind what another run may have appended meanwhile."""
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            end = os.lseek(handle, 0, os.SEEK_END)
            torn = end > 0 and os.pread(handle, 1, end - 1) != b"\n"
            line = (("\n" if torn else "") + result.json() + "\n").encode()
            if os.write(handle, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
        finally:
            os.close(handle)
