# SPDX-License-Identifier: Apache-2.0
"""A corpus of damaged, lying and hostile files, made here: each is one clear error, none is a picture with holes."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from PIL import Image

from enaf.image_io import ImageError, Metadata, read_image, write_image

RNG = np.random.default_rng(0)
PIXELS = torch.from_numpy(RNG.integers(0, 256, (3, 64, 64), np.uint8))
DEEP = torch.from_numpy(RNG.integers(0, 65536, (3, 64, 64), np.uint16))
SUFFIXES = (".png", ".jpg", ".webp", ".avif", ".tif", ".ppm", ".bmp")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One good file a format, and deep ones."""
    folder = tmp_path_factory.mktemp("whole")
    files = {}
    for suffix in SUFFIXES:
        write_image(folder / f"image{suffix}", PIXELS, metadata=Metadata(icc_profile=b"profile", xmp=b"<x/>"))
        files[suffix] = (folder / f"image{suffix}").read_bytes()
    for suffix in (".png", ".tif"):
        write_image(folder / f"deep{suffix}", DEEP)
        files["deep" + suffix] = (folder / f"deep{suffix}").read_bytes()
    return files


def names(which: str) -> str:
    return which if which.startswith("deep") else "image" + which


@pytest.mark.parametrize("kept", [0, 1, 3, 8, 20, 40, 0.25, 0.5, 0.95, -3])
@pytest.mark.parametrize("which", [*SUFFIXES, "deep.png", "deep.tif"])
def test_truncated(tmp_path: Path, whole: dict[str, bytes], which: str, kept: float) -> None:
    if which.startswith("deep"):
        pytest.importorskip("pyvips")
    data = whole[which]
    torso = tmp_path / names(which)
    torso.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    if kept == -3 and which in (".png", ".jpg", "deep.png"):
        return  # the pixels are whole; only the end mark is missing
    with pytest.raises(ImageError, match=f"{names(which)}: "):
        read_image(torso)


@settings(max_examples=300, deadline=None)
@given(which=st.sampled_from(SUFFIXES), place=st.floats(0, 1), value=st.integers(0, 255), size=st.integers(1, 8))
def test_flipped_bytes_never_do_worse_than_an_error(
    tmp_path_factory: pytest.TempPathFactory, whole: dict[str, bytes], which: str, place: float, value: int, size: int
) -> None:
    data = bytearray(whole[which])
    at = int(place * (len(data) - 1))
    data[at : at + size] = bytes([value]) * len(data[at : at + size])
    path = tmp_path_factory.getbasetemp() / f"flipped{which}"
    path.write_bytes(data)
    try:
        image = read_image(path, max_pixels=10**6)
    except ImageError as error:
        assert f"flipped{which}" in str(error)  # noqa: PT017
    else:
        assert image.pixels.shape[1] * image.pixels.shape[2] <= 10**6


def png(width: int, height: int, rows: bytes, colour: int = 2, depth: int = 8) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("empty.png", b"", "is not a PNG"),
        ("empty.tif", b"", "is not a PNG"),
        ("bomb.png", png(50000, 50000, bytes(1000)), "its header says 50000x50000"),
        ("bomb.ppm", b"P6 99999 99999 255 ", "its header says 99999x99999"),
        ("liar.png", png(100, 100, bytes(301 * 10)), "cannot be read"),
        ("liar16.png", png(100, 100, bytes(601 * 10), depth=16), "cannot be read"),
        ("liar.ppm", b"P6 100 100 255 " + bytes(100), "truncated, expected 100x100 8-bit RGB"),
        ("nothing.ppm", b"P6 0 10 255 ", "expected at least one pixel, got 0x10"),
        ("endless.ppm", b"P6 " + b"1" * 100, "cannot be read: expected width, height"),
        ("odd.ppm", b"P6 1 1 1023 " + bytes(6), "expected a largest value of 255 or 65535, got 1023"),
        ("loop.tif", b"II*\0" + struct.pack("<I", 8) + struct.pack("<HHHII", 1, 0x8769, 4, 1, 8) + bytes(4), "loop"),
        ("far.tif", b"II*\0" + struct.pack("<I", 2**32 - 2), "a directory outside its file"),
        ("long.tif", b"II*\0" + struct.pack("<IH", 8, 65535), "a directory longer than its file"),
        ("huge.tif", b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 2**63), "a directory longer than its file"),
        ("vector.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not a PNG"),
        ("page.png", b"<html>404</html>", "is not a PNG"),
    ],
)
def test_liars(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    if name == "liar16.png":
        pytest.importorskip("pyvips")
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageError, match=words):
        read_image(tmp_path / name)


def test_a_name_does_not_decide_what_a_file_is(tmp_path: Path) -> None:
    Image.fromarray(PIXELS.permute(1, 2, 0).numpy()).save(tmp_path / "image.jpg", format="PNG")
    assert torch.equal(read_image(tmp_path / "image.jpg").pixels, PIXELS)
