# SPDX-License-Identifier: Apache-2.0
"""The tags of a file, a stream or a chapter that come along."""

from __future__ import annotations

from collections.abc import Collection, Mapping

_STALE = frozenset([
    "major_brand", "minor_version", "compatible_brands", "encoder", "duration", "bps", "number_of_frames",
    "number_of_bytes", "vendor_id", "handler_name",
])  # fmt: skip
"""Of the old file, or of the old stream in it."""
_LOOK_AND_LANGUAGE = frozenset(["language", "stereo_mode", "alpha_mode"])
_WRITTEN = frozenset([
    "title", "subtitle", "artist", "album", "album_artist", "author", "composer", "writer", "director", "producer",
    "performer", "publisher", "copyright", "comment", "description", "synopsis", "summary", "information", "displayname",
    "keywords", "genre", "lyrics", "grouping", "show", "network", "episode_id", "episode_sort", "season_number", "track",
    "disc", "rating", "xmp",
])  # fmt: skip
"""By people; the rest is what a device or a program noted."""


def kept_tags(tags: Mapping[str, str], strip: Collection[str] = ()) -> dict[str, str]:
    """The tags without those of the old file itself and those that are stripped.

    Args:
        tags: by name, as FFmpeg calls them.
        strip: kinds of metadata, as of images. "xmp": what people wrote, such as titles, names, comments and rights. "exif":
            all else but language and what decides the look: when, where and with what it was taken. The other kinds have
            no counterpart in tags.

    Returns:
        Those that are left.
    """
    return {name: value for name, value in tags.items() if (kind := _kind(name)) != "stale" and kind not in strip}


def _kind(name: str) -> str:
    plain = name.lower().rpartition(".")[2].partition("-")[0]  # com.apple.quicktime.title, title-eng
    if plain in _STALE or plain.startswith("_statistics"):
        return "stale"
    if plain in _LOOK_AND_LANGUAGE:
        return "look"
    return "xmp" if plain in _WRITTEN else "exif"
