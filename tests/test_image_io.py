# SPDX-License-Identifier: Apache-2.0
"""Images in and out of files: nothing lost in silence, nothing half written."""

from __future__ import annotations

import io
import os
import stat
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageFile

from enaf.image_io import ImageError, check_target, read_image, write_image


def noise(channels: int, height: int = 13, width: int = 17, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(channels * 100 + height)
    limit = 65536 if dtype == torch.uint16 else 256
    return torch.randint(0, limit, (channels, height, width), generator=generator, dtype=torch.int32).to(dtype)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize(("channels", "dtype"), [(1, torch.uint8), (3, torch.uint8), (1, torch.uint16)])
@pytest.mark.parametrize("size", [(1, 1), (13, 17)])
def test_lossless_round_trip(
    tmp_path: Path, suffix: str, channels: int, dtype: torch.dtype, size: tuple[int, int]
) -> None:
    pixels = noise(channels, *size, dtype=dtype)
    write_image(tmp_path / f"image{suffix}", pixels)
    back = read_image(tmp_path / f"image{suffix}").pixels
    assert back.dtype == dtype
    assert torch.equal(back.int(), pixels.int())


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_formats_stay_close(tmp_path: Path, suffix: str) -> None:
    ramp = torch.arange(64).repeat(3, 48, 1).mul(4).to(torch.uint8)
    write_image(tmp_path / f"image{suffix}", ramp)
    back = read_image(tmp_path / f"image{suffix}").pixels
    assert back.shape == ramp.shape
    assert (back.float() - ramp.float()).abs().max() <= 8


def test_writes_any_layout(tmp_path: Path) -> None:
    pixels = noise(3).permute(0, 2, 1)[:, ::2]
    write_image(tmp_path / "image.png", pixels)
    assert torch.equal(read_image(tmp_path / "image.png").pixels, pixels)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_colour_profile_is_kept_to_the_byte(tmp_path: Path, suffix: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    write_image(tmp_path / f"image{suffix}", noise(3), icc_profile=profile)
    assert read_image(tmp_path / f"image{suffix}").icc_profile == profile


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = noise(1, 3, 5)[0].numpy()
    # How a camera stores an upright picture under each value of the tag.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "image.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "image.png").pixels[0].numpy(), upright)


def test_one_bit_scans_become_grey(tmp_path: Path) -> None:
    Image.new("1", (5, 4), 1).save(tmp_path / "scan.png")
    pixels = read_image(tmp_path / "scan.png").pixels
    assert pixels.shape == (1, 4, 5)
    assert pixels.unique().tolist() == [255]


def test_big_endian_tiff(tmp_path: Path) -> None:
    pixels = noise(1, dtype=torch.uint16)
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "image.tif", pixels[0].numpy(), byteorder=">")
    assert torch.equal(read_image(tmp_path / "image.tif").pixels.int(), pixels.int())


@pytest.mark.parametrize(
    ("mode", "suffix", "words"),
    [
        ("RGBA", ".png", "RGB with an alpha channel; remove or flatten"),
        ("LA", ".png", "grey with an alpha channel; remove or flatten"),
        ("P", ".png", "a palette; convert it first"),
        ("CMYK", ".jpg", "CMYK; convert it first"),
        ("F", ".tif", "floating point grey; convert it first"),
        ("I", ".tif", "integer grey of more than 8 bits; convert it first"),
    ],
)
def test_unsupported_kinds_are_named(tmp_path: Path, mode: str, suffix: str, words: str) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / f"image{suffix}")
    with pytest.raises(ImageError, match=words) as caught:
        read_image(tmp_path / f"image{suffix}")
    assert str(tmp_path / f"image{suffix}") in str(caught.value)


def test_transparent_colour_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "image.png", transparency=(0, 0, 0))
    with pytest.raises(ImageError, match="RGB with a transparent colour"):
        read_image(tmp_path / "image.png")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm"])
def test_sixteen_bit_colour_is_refused_not_truncated(tmp_path: Path, suffix: str) -> None:
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / f"image{suffix}"), np.full((4, 5, 3), 4321, np.uint16))
    with pytest.raises(ImageError, match="16-bit RGB"):
        read_image(tmp_path / f"image{suffix}")


def test_animations_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(noise(3, seed)[0].numpy()) for seed in (8, 9)]
    frames[0].resize((9, 9)).save(tmp_path / "image.tif", save_all=True, append_images=[frames[1].resize((9, 9))])
    with pytest.raises(ImageError, match="expected one image, got 2 frames"):
        read_image(tmp_path / "image.tif")


@pytest.mark.parametrize("kept", [0, 1, 8, 40, 0.5, 0.95])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_damaged_files_are_one_clear_error(tmp_path: Path, suffix: str, kept: float) -> None:
    whole = tmp_path / f"whole{suffix}"
    write_image(whole, noise(3, 64, 64))
    data = whole.read_bytes()
    torso = tmp_path / f"torso{suffix}"
    torso.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(ImageError, match="torso"):
        read_image(torso)


def test_missing_folder_and_text(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("not a picture")
    for name, words in (("none.png", "no such file"), (".", "is a folder"), ("notes.png", "is not a PNG, JPEG")):
        with pytest.raises(ImageError, match=words):
            read_image(tmp_path / name)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("L", (1, 1)).save(stream, "PNG")
    data = bytearray(stream.getvalue())
    data[16:24] = (60000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize(
    ("name", "height", "width", "pixels", "words"),
    [
        ("image.gif", 4, 4, None, "expected a name that ends in .png"),
        ("image", 4, 4, None, "expected a name that ends in .png"),
        ("image.webp", 4, 16384, None, "WEBP holds at most 16383 pixels a side, got 16384x4; write PNG or TIFF"),
        ("image.jpg", 65501, 4, None, "JPEG holds at most 65500"),
        ("image.png", 4, 4, torch.zeros(2, 4, 4, dtype=torch.uint8), r"shape \(1 or 3, H, W\), got \(2, 4, 4\)"),
        ("image.png", 4, 4, torch.zeros(4, 4, dtype=torch.uint8), r"shape \(1 or 3, H, W\), got \(4, 4\)"),
        ("image.png", 4, 4, torch.zeros(3, 4, 4), "expected uint8 or uint16 pixels, got torch.float32"),
        ("image.png", 4, 4, torch.zeros(3, 4, 4, dtype=torch.uint16), "got RGB for PNG"),
        ("image.jpg", 4, 4, torch.zeros(1, 4, 4, dtype=torch.uint16), "got grey for JPEG"),
    ],
)
def test_targets_are_refused_before_work(
    tmp_path: Path, name: str, height: int, width: int, pixels: torch.Tensor | None, words: str
) -> None:
    with pytest.raises(ImageError, match=words):
        check_target(tmp_path / name, height, width, pixels)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_a_failing_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"image{suffix}"
    write_image(path, noise(3))
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ImageError, match="cannot be written: No space left on device"):
        write_image(path, noise(3, 40, 40))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_encoder_leaves_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageFile, "_save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_image(tmp_path / "image.png", noise(3))
    assert list(tmp_path.iterdir()) == []


def test_the_target_appears_by_renaming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []
    replace = os.replace

    def watched(source: str, target: str) -> None:
        seen.append((os.path.dirname(source), os.path.exists(target)))
        Image.open(source).load()  # whole before it gets its name
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    write_image(tmp_path / "image.png", noise(3))
    assert seen == [(str(tmp_path), False)]


def test_permissions_follow_the_umask_and_links_stay_links(tmp_path: Path) -> None:
    target = tmp_path / "real.png"
    link = tmp_path / "link.png"
    link.symlink_to(target)
    mask = os.umask(0o027)
    try:
        write_image(link, noise(3))
    finally:
        os.umask(mask)
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be written: No such file or directory"):
        write_image(tmp_path / "none" / "image.png", noise(3))
