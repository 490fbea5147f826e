# SPDX-License-Identifier: Apache-2.0
"""A result in the making: segments in a folder beside the target, each whole or not there."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from enaf.record import Tally
from enaf.whole_file import whole_file

from .encode import Encoder
from .errors import errors_of
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
        self.whole = next(
            index for index in itertools.count() if not (self.path(index).exists() and self._tally(index).exists())
        )

    def path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.nut"

    def tally(self, index: int) -> Tally:
        """What the frames of a segment took."""
        return Tally(**json.loads(self._tally(index).read_text()))

    def _tally(self, index: int) -> Path:
        return self.folder / f"{index:06d}.json"

    def write(self, index: int, pictures: Iterator[tuple[Any, ...]], encoders: Sequence[Encoder], tally: Tally) -> int:
        """Encodes a segment, which is there afterwards or not at all; no frames, no segment.

        Args:
            index: its place in the result.
            pictures: for every frame one picture an encoder.
            encoders: one a stream of the segment.
            tally: what the pictures took, once all have come.

        Returns:
            Its frames.
        """
        import av

        first = next(pictures, None)
        if first is None:
            return 0
        count = 0
        path = self.path(index)
        # NUT keeps any time base exactly.
        with errors_of(path), whole_file(path) as part, av.open(str(part), "w", format="nut") as container:
            streams = [encoder.add_to(container) for encoder in encoders]
            for at_once in itertools.chain([first], pictures):
                for stream, picture in zip(streams, at_once, strict=True):
                    container.mux(stream.encode(picture))
                count += 1
            for stream in streams:
                container.mux(stream.encode(None))
            with whole_file(self._tally(index)) as beside:
                beside.write_text(json.dumps(asdict(tally)))
        self.whole = index + 1
        return count

    @contextlib.contextmanager
    def template(self, stream: int = 0) -> Iterator[Any]:
        """One of the streams that all segments have."""
        import av

        with av.open(str(self.path(0))) as container:
            yield container.streams.video[stream]

    def packets(self, stream: int = 0) -> Iterator[Any]:
        """All packets of a stream, segment by segment, in order."""
        import av

        for index in range(self.whole):
            with av.open(str(self.path(index))) as container:
                yield from (packet for packet in container.demux(video=stream) if packet.size)

    def remove(self) -> None:
        if self.folder.exists():
            shutil.rmtree(self.folder)
