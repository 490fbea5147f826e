# SPDX-License-Identifier: Apache-2.0
"""Images in and out of files: formats, modes and depths; nothing lost in silence."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from PIL import Image, ImageCms

from enaf.image_io import (
    WRITABLE,
    ImageError,
    Layout,
    Metadata,
    check_target,
    create_image,
    deflate,
    open_image,
    read_image,
    reading,
    write_image,
)  # fmt: skip

DTYPES = {"uint8": torch.uint8, "uint16": torch.uint16, "float32": torch.float32}
LOSSLESS = (".png", ".tif", ".TIFF", ".ppm", ".pgm", ".bmp")


def noise(channels: int, height: int = 13, width: int = 17, dtype: str = "uint8", seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng((channels, height, width, seed))
    if dtype == "float32":
        return torch.from_numpy(rng.random((channels, height, width), np.float32))
    return torch.from_numpy(rng.integers(0, np.iinfo(dtype).max + 1, (channels, height, width), dtype))


def smooth(channels: int, dtype: str = "uint8") -> torch.Tensor:
    ramp = torch.linspace(0, 1, 64).repeat(channels, 48, 1)
    if dtype == "float32":
        return ramp
    return torch.from_numpy((ramp.numpy() * np.iinfo(dtype).max).astype(dtype))


def needs_vips(channels: int, dtype: str, suffix: str) -> bool:
    """What Pillow cannot hold; PPM is read by us."""
    return suffix not in (".ppm", ".pgm") and dtype != "uint8" and channels > 1


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and np.array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("suffix", WRITABLE)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_round_trip_of_every_format_mode_and_depth(tmp_path: Path, suffix: str, channels: int, dtype: str) -> None:
    """Every combination comes back in its dtype, or is refused before a file appears."""
    path = tmp_path / f"image{suffix}"
    target = WRITABLE[suffix]
    holds = dtype in target.depths and (target.alpha or channels in (1, 3)) and not (suffix == ".pgm" and channels > 1)
    pixels = smooth(channels, dtype)
    if not holds:
        with pytest.raises(ImageError, match="; write "):
            write_image(path, pixels)
        assert list(tmp_path.iterdir()) == []
        return
    if needs_vips(channels, dtype, suffix):
        pytest.importorskip("pyvips")
    write_image(path, pixels)
    back = read_image(path).pixels
    assert back.dtype == DTYPES[dtype]
    if suffix in LOSSLESS:
        assert same(back, pixels)
    else:
        colours = pixels if back.shape[0] == channels else pixels[[0, 0, 0, 1][: back.shape[0]]]  # they know no grey
        assert (back.int() - colours.int()).abs().max() <= 8


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 70), width=st.integers(1, 70), channels=st.integers(1, 4), dtype=st.sampled_from(list(DTYPES)),
    suffix=st.sampled_from([".png", ".tif"]), seed=st.integers(0, 9), band=st.integers(1, 40),
)  # fmt: skip
def test_any_size_in_any_bands(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, channels: int, dtype: str, suffix: str,
    seed: int, band: int,
) -> None:  # fmt: skip
    if dtype == "float32" and suffix == ".png":
        suffix = ".tif"
    if needs_vips(channels, dtype, suffix):
        pytest.importorskip("pyvips")
    path = tmp_path_factory.mktemp("any") / f"image{suffix}"
    pixels = noise(channels, height, width, dtype, seed)
    array = pixels.permute(1, 2, 0).numpy()
    with create_image(path, Layout(height, width, channels, array.dtype)) as writer:
        for top in range(0, height, band):
            writer.write(array[top : top + band])
    with open_image(path) as reader:
        assert reader.layout == Layout(height, width, channels, array.dtype)
        for top in range(0, height, band):
            assert np.array_equal(
                reader.rows(max(0, top - 3), min(top + band, height)), array[max(0, top - 3) : top + band]
            )
    assert same(read_image(path).pixels, pixels)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_other_libraries_read_the_same(tmp_path: Path, suffix: str, dtype: str) -> None:
    """Several strips and several compressed blocks."""
    cv2 = pytest.importorskip("cv2")
    pixels = noise(3, 700, 900, dtype)
    write_image(tmp_path / f"image{suffix}", pixels)
    other = cv2.imread(str(tmp_path / f"image{suffix}"), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert np.array_equal(other, pixels.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("engine", ["zlib", "zlib_ng.zlib_ng"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_either_compressor_by_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, suffix: str, engine: str
) -> None:
    monkeypatch.setattr(deflate, "ENGINE", pytest.importorskip(engine))
    array = np.linspace(0, np.iinfo(dtype).max, 700 * 900 * 3).astype(dtype).reshape(700, 900, 3)
    files = []
    for threads in (1, 3):
        monkeypatch.setattr(deflate.os, "cpu_count", lambda count=threads: count)
        path = tmp_path / f"{threads}{suffix}"
        with create_image(path, Layout(700, 900, 3, array.dtype)) as writer:
            for top in range(0, 700, 112):
                writer.write(array[top : top + 112])
        files.append(path.read_bytes())
        assert np.array_equal(read_image(path).pixels.permute(1, 2, 0).numpy(), array)
    assert files[0] == files[1]
    assert len(files[0]) < array.nbytes / 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_bigtiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("pyvips")
    monkeypatch.setattr("enaf.image_io.tiff._CLASSIC_LIMIT", 1000)
    pixels = noise(3, 700, 900, dtype)
    write_image(tmp_path / "image.tif", pixels, metadata=Metadata(icc_profile=b"profile", xmp=b"<x/>"))
    assert (tmp_path / "image.tif").read_bytes()[:4] == b"II+\0"
    with tifffile.TiffFile(tmp_path / "image.tif") as file:
        assert file.is_bigtiff
        assert file.pages[0].tags[34675].value == b"profile"
    back = read_image(tmp_path / "image.tif")
    assert same(back.pixels, pixels)
    assert back.metadata.icc_profile == b"profile"


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_large_files_are_decoded_in_bands_to_the_same_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    pytest.importorskip("pyvips")
    write_image(tmp_path / f"image{suffix}", smooth(3))
    whole = read_image(tmp_path / f"image{suffix}").pixels
    monkeypatch.setattr(reading, "BANDED_PIXELS", 10)
    with open_image(tmp_path / f"image{suffix}") as reader:
        for _ in range(2):  # a second pass starts again at the top
            for top in range(0, 48, 7):
                first = max(0, top - 4)
                expected = whole[:, first : top + 7].permute(1, 2, 0).numpy()
                assert np.array_equal(reader.rows(first, min(top + 7, 48)), expected)


def test_a_replaced_file_is_read_anew(tmp_path: Path) -> None:
    """libvips remembers what it opened by name."""
    pytest.importorskip("pyvips")
    for seed in (1, 2):
        pixels = noise(3, dtype="uint16", seed=seed)
        write_image(tmp_path / "image.png", pixels)
        assert same(read_image(tmp_path / "image.png").pixels, pixels)


def test_writes_any_layout(tmp_path: Path) -> None:
    pixels = noise(3).permute(0, 2, 1)[:, ::2]
    write_image(tmp_path / "image.png", pixels)
    assert torch.equal(read_image(tmp_path / "image.png").pixels, pixels)


def test_dark_sixteen_bit_images_stay_sixteen_bit(tmp_path: Path) -> None:
    """Depth by declaration: no value here is above 200."""
    pixels = torch.arange(200, dtype=torch.int32).view(1, 10, 20).to(torch.uint16)
    write_image(tmp_path / "image.png", pixels)
    assert same(read_image(tmp_path / "image.png").pixels, pixels)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiffs_of_others(tmp_path: Path, big_endian: bool, channels: int) -> None:
    tifffile = pytest.importorskip("tifffile")
    if channels == 3:
        pytest.importorskip("pyvips")
    pixels = noise(channels, dtype="uint16")
    array = pixels.permute(1, 2, 0).numpy().squeeze()
    kind = "rgb" if channels == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "image.tif", array, byteorder=">" if big_endian else "<", photometric=kind)
    assert same(read_image(tmp_path / "image.tif").pixels, pixels)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_white_is_zero(tmp_path: Path, dtype: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    if dtype == "uint16":
        pytest.importorskip("pyvips")
    pixels = noise(1, dtype=dtype)
    tifffile.imwrite(tmp_path / "image.tif", np.iinfo(dtype).max - pixels[0].numpy(), photometric="miniswhite")
    assert same(read_image(tmp_path / "image.tif").pixels, pixels)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_premultiplied_alpha_is_read_as_straight(tmp_path: Path, dtype: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("pyvips")
    limit = np.iinfo(dtype).max
    straight = np.full((9, 9, 4), limit // 2, dtype)
    straight[..., 3] = np.linspace(limit // 4, limit, 81).reshape(9, 9)
    stored = straight.copy()
    stored[..., :3] = np.rint(straight[..., :3] * (straight[..., 3:] / limit))
    tifffile.imwrite(tmp_path / "image.tif", stored, photometric="rgb", extrasamples=["assocalpha"])
    back = read_image(tmp_path / "image.tif").pixels.permute(1, 2, 0).numpy()
    assert back.dtype == dtype
    assert np.abs(back.astype(int) - straight).max() <= 4


def test_half_precision_tiff(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("pyvips")
    array = noise(3, dtype="float32").permute(1, 2, 0).numpy().astype(np.float16)
    tifffile.imwrite(tmp_path / "image.tif", array, photometric="rgb")
    back = read_image(tmp_path / "image.tif").pixels
    assert back.dtype == torch.float32
    assert np.array_equal(back.permute(1, 2, 0).numpy(), array.astype(np.float32))


def test_palette_becomes_colour(tmp_path: Path) -> None:
    rgb = Image.fromarray(noise(3, 4, 4).permute(1, 2, 0).numpy())
    rgb.quantize(16).save(tmp_path / "image.png")
    assert same(read_image(tmp_path / "image.png").pixels, torch.from_numpy(np.array(rgb)).permute(2, 0, 1))
    Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).convert("P").save(
        tmp_path / "clear.png", transparency=3
    )
    pixels = read_image(tmp_path / "clear.png").pixels
    assert pixels.shape == (4, 4, 4)
    assert (pixels[3] == 0).sum() == 1


def test_transparent_colour_becomes_alpha(tmp_path: Path) -> None:
    rgb = noise(3)
    Image.fromarray(rgb.permute(1, 2, 0).numpy()).save(
        tmp_path / "image.png", transparency=tuple(int(value) for value in rgb[:, 2, 3])
    )
    pixels = read_image(tmp_path / "image.png").pixels
    assert same(pixels[:3], rgb)
    assert (pixels[3] == 0).nonzero().tolist() == [[2, 3]]


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_goes_through_its_profile(tmp_path: Path, suffix: str) -> None:
    pyvips = pytest.importorskip("pyvips")
    profile = pyvips.Image.profile_load("cmyk")
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    image.save(tmp_path / f"cyan{suffix}", icc_profile=profile)
    back = read_image(tmp_path / f"cyan{suffix}")
    red, green, blue = back.pixels[:, 4, 4].tolist()
    assert red < 60 < 120 < green < blue  # printing cyan, not (0, 255, 255)
    assert "sRGB" in ImageCms.getProfileDescription(io.BytesIO(back.metadata.icc_profile))
    assert read_image(tmp_path / f"cyan{suffix}").metadata == back.metadata


def test_cmyk_without_a_profile_that_fits_is_refused(tmp_path: Path) -> None:
    image = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    image.save(tmp_path / "bare.jpg")
    with pytest.raises(ImageError, match="expected a colour profile with CMYK, got none"):
        read_image(tmp_path / "bare.jpg")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.save(tmp_path / "wrong.jpg", icc_profile=srgb)  # a profile for RGB does not fit four inks
    with pytest.raises(ImageError, match=r"wrong\.jpg: cannot be read"):
        read_image(tmp_path / "wrong.jpg")


def test_one_bit_scans_become_grey(tmp_path: Path) -> None:
    Image.new("1", (5, 4), 1).save(tmp_path / "scan.png")
    pixels = read_image(tmp_path / "scan.png").pixels
    assert pixels.shape == (1, 4, 5)
    assert pixels.unique().tolist() == [255]


@pytest.mark.parametrize(("mode", "words"), [("I", "32-bit signed integer"), ("LAB", "mode LAB; convert it first")])
def test_unsupported_kinds_are_named(tmp_path: Path, mode: str, words: str) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "image.tif")
    with pytest.raises(ImageError, match=words) as caught:
        read_image(tmp_path / "image.tif")
    assert str(tmp_path / "image.tif") in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5, 1.5])
def test_floats_outside_the_range_are_refused(tmp_path: Path, value: float) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "image.tif", np.array([[0.5, value]], np.float32), photometric="minisblack")
    with pytest.raises(ImageError, match=r"expected floating values in \[0, 1\], got"):
        read_image(tmp_path / "image.tif")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_never_reach_a_file(tmp_path: Path, value: float) -> None:
    with pytest.raises(ImageError, match="not finite"):
        write_image(tmp_path / "image.tif", torch.tensor([[[0.5, value]]]))
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_deep_colour_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    write_image(tmp_path / "image.png", noise(3, dtype="uint16"))
    monkeypatch.setitem(sys.modules, "enaf.image_io.vips", None)
    with pytest.raises(ImageError, match=r"got a 16-bit PNG; install enaf_ext\[images\] to read it"):
        read_image(tmp_path / "image.png")


@pytest.mark.parametrize("suffix", [".tif", ".webp", ".png"])
def test_animations_are_refused(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(noise(3, 9, 9, seed=seed).permute(1, 2, 0).numpy()) for seed in (8, 9)]
    frames[0].save(tmp_path / f"image{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="expected one image, got 2 frames"):
        read_image(tmp_path / f"image{suffix}")


def test_missing_folder_and_text(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("not a picture")
    for name, words in (("none.png", "no such file"), (".", "is a folder"), ("notes.png", "is not a PNG, JPEG")):
        with pytest.raises(ImageError, match=words):
            read_image(tmp_path / name)


def bomb() -> bytes:
    """A PNG of 67 bytes whose header says 60000x60000."""
    stream = io.BytesIO()
    Image.new("L", (1, 1)).save(stream, "PNG")
    data = bytearray(stream.getvalue())
    data[16:24] = (60000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(bomb())
    with pytest.raises(ImageError, match=r"expected at most 178.957 megapixels, its header says 60000x60000"):
        read_image(tmp_path / "bomb.png")


def test_the_limit_is_raised_by_asking(tmp_path: Path) -> None:
    write_image(tmp_path / "image.png", noise(1, 30, 40))
    with pytest.raises(ImageError, match=r"expected at most 0.0011 megapixels"):
        read_image(tmp_path / "image.png", max_pixels=1100)
    assert read_image(tmp_path / "image.png", max_pixels=1200).pixels.shape == (1, 30, 40)


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "words"),
    [
        ("image.gif", (4, 4, 3), "uint8", "expected a name that ends in .png"),
        ("image", (4, 4, 3), "uint8", "expected a name that ends in .png"),
        (
            "image.webp",
            (4, 16384, 3),
            "uint8",
            "WEBP holds at most 16383 pixels a side, got 16384x4; write PNG or TIFF",
        ),
        ("image.jpg", (65501, 4, 3), "uint8", "JPEG holds at most 65500"),
        ("image.avif", (32769, 4, 3), "uint8", "AVIF holds at most 32768"),
        ("image.bmp", (40000, 40000, 3), "uint8", "BMP holds at most 4 GiB"),
        ("image.jpg", (4, 4, 4), "uint8", "JPEG holds no alpha, got 4x4 8-bit RGB with alpha; write PNG, WebP"),
        ("image.jpg", (4, 4, 1), "uint16", "got 4x4 16-bit grey; write PNG or TIFF"),
        ("image.png", (4, 4, 3), "float32", "got 4x4 floating point RGB; write TIFF"),
        ("image.pgm", (4, 4, 3), "uint8", "PGM is grey"),
    ],
)
def test_targets_are_refused_before_work(name: str, shape: tuple[int, int, int], dtype: str, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        check_target(name, Layout(*shape, np.dtype(dtype)))


def test_pixels_of_another_shape_or_dtype_are_refused(tmp_path: Path) -> None:
    for pixels, words in (
        (torch.zeros(5, 4, 4, dtype=torch.uint8), r"shape \(1 to 4, H, W\), got \(5, 4, 4\)"),
        (torch.zeros(4, 4, dtype=torch.uint8), r"shape \(1 to 4, H, W\), got \(4, 4\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "expected uint8, uint16 or float32 pixels, got torch.int64"),
    ):
        with pytest.raises(ImageError, match=words):
            write_image(tmp_path / "image.png", pixels)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", [b"P6\n# made by hand\n2 # two\n1\n255\n", b"P6 2 1 255 "])
def test_ppm_headers_of_others(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "image.ppm").write_bytes(text + bytes(range(6)))
    assert read_image(tmp_path / "image.ppm").pixels.permute(1, 2, 0).flatten().tolist() == list(range(6))


@pytest.mark.parametrize("width", range(1, 10))
def test_interlaced_png(tmp_path: Path, width: int) -> None:
    pyvips = pytest.importorskip("pyvips")
    for height in (1, 5, 9):
        pixels = noise(3, height, width)
        image = pyvips.Image.new_from_array(pixels.permute(1, 2, 0).numpy())
        image.pngsave(str(tmp_path / "image.png"), interlace=True)
        assert same(read_image(tmp_path / "image.png").pixels, pixels)


def test_deep_animations_are_refused(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("pyvips")
    tifffile.imwrite(tmp_path / "image.tif", np.zeros((2, 9, 9, 3), np.uint16), photometric="rgb")
    with pytest.raises(ImageError, match="expected one image, got 2 frames"):
        read_image(tmp_path / "image.tif")
