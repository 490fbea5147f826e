# SPDX-License-Identifier: Apache-2.0
"""What became of a video, and the error of one that cannot be done."""

from __future__ import annotations

from dataclasses import dataclass, field

from enaf.record import Tally


class VideoError(Exception):
    """A video that cannot be read, held or written; the message names the file, the frame where there is one, and what to do."""


@dataclass
class VideoReport:
    """What became of a video.

    Attributes:
        height, width: of the result.
        frames: in the result.
        reused: of them, made by an earlier run.
        damaged: what was wrong with the source, where `on_damage` let it pass.
        dropped: streams that the result does not carry (timecode and other data).
        converted: subtitles that are in another format, because the container knows no other.
        tally: exits and cost of all frames, also of those that an earlier run made.
    """

    height: int = 0
    width: int = 0
    frames: int = 0
    reused: int = 0
    damaged: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    converted: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
