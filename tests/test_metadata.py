# SPDX-License-Identifier: Apache-2.0
"""Colour profile, EXIF, XMP and resolution: kept to the byte, true for upright pixels, or stripped."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from PIL import Image, ImageCms

from enaf.image_io import ImageError, Layout, Metadata, check_target, ifd, read_image, write_image
from enaf.image_io.metadata import KINDS, orientation, stripped, upright

PIXELS = torch.arange(3 * 20 * 30, dtype=torch.int32).remainder(251).to(torch.uint8).view(3, 20, 30)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/> \xc3\xa9</x:xmpmeta>'


def exif_block(order: str = "<", orientation: int = 6) -> bytes:
    """A camera's: who, when, where, a maker's note and the sides of the picture."""
    text = {0x010F: b"Maker\0", 0x8298: b"\xa9 someone\0"}
    top = ifd.Directory(order, {tag: ifd.Entry(2, len(data), data) for tag, data in text.items()})
    top.put(0x0112, ifd.SHORT, orientation)
    camera, place = ifd.Directory(order), ifd.Directory(order)
    camera.entries[0x9003] = ifd.Entry(2, 20, b"2020:02:03 04:05:06\0")
    camera.entries[0x927C] = ifd.Entry(ifd.UNDEFINED, 301, bytes(range(256)) + b"note" * 11 + b"!")
    camera.put(0xA002, ifd.LONG, 30)
    camera.put(0xA003, ifd.SHORT, 20)
    place.put(0x0002, ifd.RATIONAL, 48, 1, 51, 1, 30, 1)
    top.children = {0x8769: camera, 0x8825: place}
    return ifd.block(top)


def tags(block: bytes | None) -> dict[int, tuple[int, bytes]]:
    """Type and bytes of every tag but the pointers."""
    assert block is not None
    return {
        tag: (entry.kind, entry.data)
        for tag, entry in ifd.positions(ifd.parse(block))
        if tag not in (0x8769, 0x8825)
    }  # fmt: skip


ALL = Metadata(PROFILE, exif_block(orientation=1), XMP.replace(b'"6"', b'"1"'), (300.0, 240.0))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".avif"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_kept_to_the_byte(tmp_path: Path, suffix: str, order: str) -> None:
    written = upright(dataclasses.replace(ALL, exif=exif_block(order, 1)), 20, 30)
    write_image(tmp_path / f"image{suffix}", PIXELS, metadata=written)
    back = read_image(tmp_path / f"image{suffix}").metadata
    assert (back.icc_profile, back.xmp) == (written.icc_profile, written.xmp)
    if suffix == ".avif":  # which knows orientation by other means
        expected = tags(written.exif)
        del expected[0x0112]
        assert tags(back.exif) == expected
        assert back.exif is not None
        assert back.exif[-300:] == (written.exif or b"")[-300:]
    else:
        assert back.exif == written.exif
    if suffix in (".png", ".jpg"):
        assert back.resolution == pytest.approx(written.resolution, abs=0.02)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_tiff_keeps_every_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, big: bool) -> None:
    if big:
        monkeypatch.setattr("enaf.image_io.tiff._CLASSIC_LIMIT", 0)
    written = dataclasses.replace(ALL, exif=exif_block(order, 1))
    write_image(tmp_path / "image.tif", PIXELS, metadata=written)
    back = read_image(tmp_path / "image.tif")
    assert torch.equal(back.pixels, PIXELS)
    assert tags(back.metadata.exif) == tags(written.exif)
    assert (back.metadata.icc_profile, back.metadata.xmp, back.metadata.resolution) == (PROFILE, ALL.xmp, (300, 240))
    again = tmp_path / "again.png"  # and on into another format
    write_image(again, back.pixels, metadata=back.metadata)
    assert tags(read_image(again).metadata.exif) == tags(written.exif)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_pillow_reads_what_we_write(tmp_path: Path, suffix: str) -> None:
    write_image(tmp_path / f"image{suffix}", PIXELS, metadata=ALL)
    with Image.open(tmp_path / f"image{suffix}") as image:
        exif = image.getexif()
        assert exif[0x010F] == "Maker"
        assert exif.get_ifd(0x8769)[0x9003] == "2020:02:03 04:05:06"
        assert exif.get_ifd(0x8825)[0x0002] == (48, 51, 30)
        assert image.info["icc_profile"] == PROFILE
        assert b"xmpmeta" in image.info["xmp"]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation_is_applied_once(tmp_path: Path, turn: int, suffix: str) -> None:
    ramp = np.arange(48, dtype=np.uint8).reshape(6, 8).repeat(8, 0).repeat(8, 1) * 5
    # How a camera stores an upright picture under each value of the tag.
    stored = {
        1: ramp, 2: ramp[:, ::-1], 3: ramp[::-1, ::-1], 4: ramp[::-1],
        5: ramp.T, 6: np.rot90(ramp), 7: ramp[::-1, ::-1].T, 8: np.rot90(ramp, -1),
    }[turn]  # fmt: skip
    path = tmp_path / f"image{suffix}"
    exif = Image.Exif()
    exif[0x0112] = turn
    options = {"lossless": True} if suffix == ".webp" else {"quality": 100} if suffix == ".jpg" else {}
    Image.fromarray(np.ascontiguousarray(stored)).convert("RGB").save(path, exif=exif, **options)
    for _ in range(2):  # what is written is upright, and says so
        back = read_image(path)
        assert back.pixels.shape == (3, 48, 64)
        assert np.abs(back.pixels[0].numpy().astype(int) - ramp).max() <= 3
        path = tmp_path / f"again{suffix}"
        write_image(path, back.pixels, metadata=back.metadata, quality=100)
    with Image.open(path) as image:
        assert image.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("turn", range(2, 9))
def test_orientation_is_applied_in_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turn: int) -> None:
    pytest.importorskip("pyvips")
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(PIXELS.permute(1, 2, 0).numpy()).save(tmp_path / "image.png", exif=exif)
    whole = read_image(tmp_path / "image.png")
    monkeypatch.setattr("enaf.image_io.reading.BANDED_PIXELS", 1)
    banded = read_image(tmp_path / "image.png")
    assert torch.equal(banded.pixels, whole.pixels)
    assert banded.metadata == whole.metadata


@pytest.mark.parametrize("order", ["<", ">"])
def test_only_orientation_and_sides_change_in_the_block(order: str) -> None:
    before = exif_block(order)
    after = upright(Metadata(exif=before, xmp=XMP), 80, 120)
    assert after.exif is not None
    assert len(after.exif) == len(before)
    changed = [place for place in range(len(before)) if before[place] != after.exif[place]]
    places = {tag: entry.position for tag, entry in ifd.positions(ifd.parse(before))}
    for place in changed:
        assert any(places[tag] <= place < places[tag] + 4 for tag in (0x0112, 0xA002, 0xA003))
    values = tags(after.exif)
    assert values[0x0112][1] == struct.pack(order + "H", 1)
    assert values[0xA002][1] == struct.pack(order + "I", 120)
    assert values[0xA003][1] == struct.pack(order + "H", 80)
    assert after.xmp == XMP.replace(b'"6"', b'"1"')


def test_png_metadata_behind_the_pixels(tmp_path: Path) -> None:
    write_image(tmp_path / "image.png", PIXELS, metadata=Metadata(exif=exif_block(), xmp=XMP))
    data = (tmp_path / "image.png").read_bytes()
    exif, text, pixels, end = (data.index(kind) - 4 for kind in (b"eXIf", b"iTXt", b"IDAT", b"IEND"))
    moved = data[:exif] + data[pixels:end] + data[text:pixels] + data[exif:text] + data[end:]
    (tmp_path / "late.png").write_bytes(moved)
    late = read_image(tmp_path / "late.png")
    assert late.metadata == read_image(tmp_path / "image.png").metadata
    assert late.pixels.shape == (3, 30, 20)  # turned by what came last


def test_a_jpeg_without_a_resolution_gets_none(tmp_path: Path) -> None:
    write_image(tmp_path / "image.jpg", PIXELS, metadata=Metadata(exif=exif_block()))
    assert read_image(tmp_path / "image.jpg").metadata.resolution is None


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_can_be_stripped(kind: str) -> None:
    left = stripped(ALL, (kind,))
    field = {"icc": "icc_profile"}.get(kind, kind)
    assert getattr(left, field) is None
    assert dataclasses.replace(left, **{field: getattr(ALL, field)}) == ALL


def test_metadata_too_long_for_the_format_is_refused(tmp_path: Path) -> None:
    long = Metadata(xmp=b"<x>" + b" " * 70000)
    with pytest.raises(
        ImageError, match="JPEG holds at most 65504 bytes of XMP, got 70003; write PNG or TIFF, or strip"
    ):
        write_image(tmp_path / "image.jpg", PIXELS, metadata=long)
    write_image(tmp_path / "image.png", PIXELS, metadata=long)
    assert read_image(tmp_path / "image.png").metadata == long


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 600), value=st.integers(0, 255), keep=st.integers(0, 700))
def test_a_damaged_block_harms_nothing(place: int, value: int, keep: int) -> None:
    damaged = bytearray(exif_block())
    damaged[place % len(damaged)] = value
    block = bytes(damaged[:keep])
    after = upright(Metadata(exif=block), 5, 6).exif or b""
    assert len(after) == len(block)


@example(place=10, value=10, suffix=".tif")  # an orientation that has become an order of bits
@settings(max_examples=60, deadline=None)
@given(
    place=st.integers(0, 120),
    value=st.integers(0, 255),
    suffix=st.sampled_from([".png", ".jpg", ".webp", ".avif", ".tif"]),
)
def test_a_damaged_block_never_costs_the_picture(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int, suffix: str
) -> None:
    """It goes along, or the target is refused before any work."""
    block = bytearray(exif_block(orientation=1))
    block[place] = value
    damaged = Metadata(exif=bytes(block))
    path = tmp_path_factory.mktemp("damaged") / f"image{suffix}"
    try:
        check_target(path, Layout(20, 30, 3, np.dtype(np.uint8)), damaged)
    except ImageError as error:
        assert "the EXIF block is damaged" in str(error)  # noqa: PT017
        assert suffix in (".avif", ".tif")
        return
    write_image(path, PIXELS, metadata=damaged)
    with Image.open(path) as image:
        assert image.size == (30, 20)


def test_a_tag_that_points_nowhere_does_not_hide_the_others() -> None:
    block = bytearray(exif_block(orientation=6))
    (rows,) = [place for place in range(10, 22, 12) if block[place : place + 2] == b"\x0f\x01"]
    block[rows + 8 : rows + 12] = (10**6).to_bytes(4, "little")
    assert orientation(Metadata(exif=bytes(block))) == 6
    assert 0x9003 in tags(bytes(block))
