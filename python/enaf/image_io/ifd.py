# SPDX-License-Identifier: Apache-2.0
"""The directories of tags that TIFF, BigTIFF and EXIF are made of (TIFF 6.0 section 2; BigTIFF of libtiff)."""

from __future__ import annotations

import contextlib
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Literal, NamedTuple, TypeAlias

Order: TypeAlias = 'Literal["<", ">"]'
SHORT, LONG, RATIONAL, UNDEFINED, _IFD, LONG8 = 3, 4, 5, 7, 13, 16
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_FORMATS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_SUBDIRECTORIES = (0x8769, 0x8825, 0xA005)  # EXIF, GPS, interoperability


class Entry(NamedTuple):
    """One tag: its type, the number of values, their bytes, and where in the file these lie."""

    kind: int
    number: int
    data: bytes
    position: int = 0


@dataclass
class Directory:
    """Tags of one directory and of those below it; values keep the byte order ("<" or ">") of their file."""

    order: Order
    entries: dict[int, Entry] = field(default_factory=dict)
    children: dict[int, Directory] = field(default_factory=dict)

    def integers(self, tag: int) -> list[int]:
        """The values of an integer tag; none if it is missing or of another type."""
        entry = self.entries.get(tag)
        if entry is None or entry.kind not in _FORMATS:
            return []
        return list(struct.unpack(f"{self.order}{entry.number}{_FORMATS[entry.kind]}", entry.data))

    def rational(self, tag: int) -> float | None:
        """The value of a fraction."""
        entry = self.entries.get(tag)
        if entry is None or entry.kind != RATIONAL or entry.number != 1:
            return None
        numerator, denominator = struct.unpack(f"{self.order}2I", entry.data)
        return numerator / denominator if denominator else None

    def put(self, tag: int, kind: int, *values: int) -> None:
        """Sets an integer tag, or a fraction from a numerator and a denominator."""
        form, count = ("I", len(values) // 2) if kind == RATIONAL else (_FORMATS[kind], len(values))
        self.entries[tag] = Entry(kind, count, struct.pack(f"{self.order}{len(values)}{form}", *values))


def parse(data: bytes | mmap.mmap, *, strict: bool = False) -> Directory:
    """Reads the first directory of a TIFF, BigTIFF or EXIF block, and the EXIF, GPS and interoperability ones below it.

    Args:
        data: the whole of it.
        strict: whether a tag of the first directory that points outside the data is an error, as in a picture that was cut
            short. Otherwise, and below, such tags are left out: cameras and editors leave them.

    Raises:
        ValueError: a header that is none, or a first directory outside the data.
    """
    orders: dict[bytes, Order] = {b"II": "<", b"MM": ">"}
    order = orders.get(bytes(data[:2]))
    if order is None or len(data) < 8:
        raise ValueError("not a TIFF header")
    magic = struct.unpack(order + "H", data[2:4])[0]
    if magic not in (42, 43):
        raise ValueError("not a TIFF header")
    big = magic == 43
    start = _unpack(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    return _parse(data, order, big, start, depth=0, strict=strict)


def parse_file(stream: BinaryIO) -> Directory:
    """The same of an open file, strictly; only the tags are read."""
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return parse(data, strict=True)


def _parse(data: bytes | mmap.mmap, order: Order, big: bool, start: int, depth: int, strict: bool) -> Directory:
    directory = Directory(order)
    count = _unpack(order + ("Q" if big else "H"), data, start)[0]
    row = order + ("HHQ" if big else "HHI")
    position, size, inline = start + (8 if big else 2), (20 if big else 12), (8 if big else 4)
    if count * size > len(data):
        raise ValueError("a directory longer than its file")
    for _ in range(count):
        tag, kind, number = _unpack(row, data, position)
        at = position + size - inline
        position += size
        if kind not in _SIZES:
            continue
        length = number * _SIZES[kind]
        if length > inline:
            at = _unpack(order + ("Q" if big else "I"), data, at)[0]
        if at + length > len(data):
            if strict:
                raise ValueError(f"tag {tag} points outside the file")
            continue
        entry = Entry(kind, number, bytes(data[at : at + length]), at)
        if tag not in _SUBDIRECTORIES:
            directory.entries[tag] = entry
        elif kind in (LONG, LONG8, _IFD) and number == 1 and depth < 2:
            with contextlib.suppress(ValueError):
                start = int.from_bytes(entry.data, "little" if order == "<" else "big")
                directory.children[tag] = _parse(data, order, big, start, depth + 1, strict=False)
    return directory


def _unpack(form: str, data: bytes | mmap.mmap, position: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(form, data, position)
    except struct.error:
        raise ValueError("a directory outside its file") from None


def header(order: Order, big: bool, first_directory: int) -> bytes:
    """The head of a TIFF (8 bytes) or BigTIFF (16 bytes) whose first directory lies at `first_directory`."""
    mark = b"II" if order == "<" else b"MM"
    if big:
        return mark + struct.pack(order + "HHHQ", 43, 8, 0, first_directory)
    return mark + struct.pack(order + "HI", 42, first_directory)


def serialise(directory: Directory, big: bool, base: int) -> bytes:
    """The directory, its values and the directories below it, to be put at byte `base` (even) of a file."""
    entries = dict(directory.entries)
    pointer = LONG8 if big else LONG
    for tag in directory.children:
        entries[tag] = Entry(pointer, 1, bytes(8 if big else 4))
    size, inline = (20, 8) if big else (12, 4)
    table = (8 if big else 2) + size * len(entries) + inline
    values = bytearray()
    rows = bytearray(struct.pack(directory.order + ("Q" if big else "H"), len(entries)))
    for tag, entry in sorted(entries.items()):
        data = entry.data
        if tag in directory.children:
            place = base + table + len(values)
            values += serialise(directory.children[tag], big, place)
            data = struct.pack(directory.order + ("Q" if big else "I"), place)
        elif len(data) > inline:
            place = base + table + len(values)
            values += data + bytes(len(data) % 2)
            data = struct.pack(directory.order + ("Q" if big else "I"), place)
        rows += struct.pack(directory.order + ("HHQ" if big else "HHI"), tag, entry.kind, entry.number)
        rows += data.ljust(inline, b"\0")
    return bytes(rows + bytes(inline) + values)


def block(directory: Directory) -> bytes:
    """The directory as an EXIF block of its own."""
    return header(directory.order, False, 8) + serialise(directory, False, 8)


def positions(directory: Directory) -> Iterator[tuple[int, Entry]]:
    """Every tag of the directory and of those below it."""
    yield from directory.entries.items()
    for child in directory.children.values():
        yield from positions(child)
