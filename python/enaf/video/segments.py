# SPDX-License-Identifier: Apache-2.0
"""A result in the making: segments in a folder beside the target, each whole or not there."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .encode import Encoder
from .files import errors_of, whole_file
from .report import VideoError


class Segments:
    """The files of a result in the making, in a folder beside the target.

    Attributes:
        whole: segments that are finished.
    """

    def __init__(self, target: Path, settings: str, resume: bool) -> None:
        target = target.resolve()
        self.folder = target.with_name(f".{target.name}.segments")
        record = self.folder / "settings.json"
        known = record.read_text() if record.exists() else None
        if resume and known is not None and known != settings:
            raise VideoError(
                f"{target}: the segments of the earlier run are of another source or other settings; "
                "repeat those, or start anew without resuming"
            )
        if not resume or known is None:
            self.remove()
            self.folder.mkdir()
            with whole_file(record) as part:
                part.write_text(settings)
        for part in self.folder.glob("*.part"):
            part.unlink()
        self.whole = next(index for index in itertools.count() if not self.path(index).exists())

    def path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.nut"

    def write(self, index: int, frames: Iterator[Any], encoder: Encoder) -> int:
        """Encodes frames into a segment, which is there afterwards or not at all; no frames, no segment."""
        import av

        first = next(frames, None)
        if first is None:
            return 0
        count = 0
        path = self.path(index)
        # NUT keeps any time base exactly.
        with errors_of(path), whole_file(path) as part, av.open(str(part), "w", format="nut") as container:
            stream = encoder.add_to(container)
            for frame in itertools.chain([first], frames):
                container.mux(stream.encode(frame))
                count += 1
            container.mux(stream.encode(None))
        self.whole = index + 1
        return count

    def packets(self) -> Iterator[Any]:
        """All packets of all segments, in order."""
        import av

        for index in range(self.whole):
            with av.open(str(self.path(index))) as container:
                yield from (packet for packet in container.demux(video=0) if packet.size)

    def remove(self) -> None:
        if self.folder.exists():
            shutil.rmtree(self.folder)
