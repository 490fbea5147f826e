# SPDX-License-Identifier: Apache-2.0
"""Text subtitles in the one format that a container knows: FFmpeg converts them, and no word is lost on the way."""

from __future__ import annotations

import html
import re
from typing import Any

_TEXTS = {"matroska": "subrip", "mp4": "mov_text", "mov": "mov_text", "webm": "webvtt"}
_NAMES = {"srt": "subrip"}
_CONVERTIBLE = frozenset(["subrip", "mov_text", "webvtt"])
_HELD = {"matroska": {"subrip", "webvtt"}, "mp4": {"mov_text"}, "mov": {"mov_text"}, "webm": {"webvtt"}}
_SUBRIP_TAGS = re.compile(r"</?(?:[bius]|font(?:\s[^<>]*)?)>|\{\\[^{}]*\}", re.IGNORECASE)
_WEBVTT_TAGS = re.compile(r"<[^<>]*>")


def converted_codec(stream: Any, container: str) -> str | None:
    """FFmpeg's name of the format that the subtitles must become in a container; None if they stay as they are, or cannot."""
    codec = _name(stream)
    if codec not in _CONVERTIBLE or codec in _HELD[container] or not hasattr(stream.codec_context, "encode_subtitle"):
        return None
    return _TEXTS[container]


class Converter:
    """Makes packets of another format, at the times of the old.

    Italics, bold and underlining stay; places and colours only where both formats have them.

    Args:
        source: a stream of text subtitles.
        output: a container to write to.
        codec: as `converted_codec` says.

    Attributes:
        stream: the new one, in the output.
    """

    def __init__(self, source: Any, output: Any, codec: str) -> None:
        self._source, self._from, self._to = source, _name(source), codec
        self.stream = output.add_stream(codec)
        context = self.stream.codec_context
        self.stream.time_base = context.time_base = source.time_base
        if not source.codec_context.is_open:
            source.codec_context.open(strict=False)
        context.subtitle_header = source.codec_context.subtitle_header

    def __call__(self, packet: Any) -> Any:
        """The packet in the new format."""
        import av

        words = _words(bytes(packet), self._from)
        decoded = self._source.codec_context.decode2(packet)
        made = None if decoded is None else self.stream.codec_context.encode_subtitle(decoded)
        if made is None or _letters(_words(bytes(made), self._to)) != _letters(words):
            made = av.Packet(_plain(words, self._to))  # what looks like a tag and is none, and blank lines
        made.pts, made.dts, made.duration, made.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
        return made


def _name(stream: Any) -> str:
    name = stream.codec_context.name
    return _NAMES.get(name, name)


def _words(data: bytes, codec: str) -> str:
    """A packet's text without any styles."""
    if codec == "mov_text":
        return data[2 : 2 + int.from_bytes(data[:2], "big")].decode(errors="replace")
    text = data.decode(errors="replace")
    return _SUBRIP_TAGS.sub("", text) if codec == "subrip" else html.unescape(_WEBVTT_TAGS.sub("", text))


def _letters(text: str) -> str:
    return "".join(text.split())


def _plain(words: str, codec: str) -> bytes:
    """A packet of text without any styles."""
    if codec == "webvtt":
        return html.escape(words, quote=False).encode()
    data = words.encode()
    return len(data).to_bytes(2, "big") + data if codec == "mov_text" else data
