# SPDX-License-Identifier: Apache-2.0
"""`enaf compare`: a page that needs nothing but itself, shows the very pixels, and works by mouse, keyboard and touch."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser
from PIL import Image
from skimage.metrics import structural_similarity

from enaf.cli import main
from enaf.exit_map import draw_exit_map, exit_colours, exit_names, read_legend
from enaf.image_io import Metadata, write_image
from enaf.metrics import SSIM_SETTINGS
from enaf.viewer.quality import compare_quality
from enaf_ext.grid import PatchGrid

WIDTH, HEIGHT = 640, 400
NEEDS_BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")


class Page(HTMLParser):
    """Elements with their attributes, and the text inside them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def images(self) -> dict[str, Image.Image]:
        found = [attributes for tag, attributes in self.elements if tag == "img"]
        return {image["alt"]: Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1]))) for image in found}


def noise(height: int = HEIGHT, width: int = WIDTH, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (channels, height, width), dtype=torch.uint8)


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, torch.Tensor]:
    """Two images and their original, in the folder of the test."""
    torch.manual_seed(0)
    original = noise()
    pictures = {"hr": original, "a": (original * 0.9).byte(), "b": (original.int() + 3).clamp(0, 255).byte()}
    for name, pixels in pictures.items():
        write_image(
            tmp_path / f"{name}.png", pixels, metadata=Metadata(icc_profile=b"profile" if name == "a" else None)
        )
    return pictures


def compare(*arguments: str | Path) -> int:
    return main(["compare", *map(str, arguments)])


def page_of(*arguments: str | Path) -> Page:
    target = Path(arguments[0]).with_name("page.html")
    assert compare(*arguments, "-o", target) == 0
    return Page(target.read_text(encoding="utf-8"))


def test_the_page_holds_the_very_pixels_and_their_profile(tmp_path: Path, pictures: dict[str, torch.Tensor]) -> None:
    images = page_of(tmp_path / "a.png", tmp_path / "b.png", "--reference", tmp_path / "hr.png").images()
    assert list(images) == ["a.png", "b.png", "hr.png (reference)"]
    for name, image in zip(["a", "b", "hr"], images.values(), strict=True):
        assert np.array_equal(np.asarray(image), pictures[name].permute(1, 2, 0).numpy())
    assert [image.info.get("icc_profile") for image in images.values()] == [b"profile", None, None]


def test_the_page_loads_nothing(tmp_path: Path, pictures: dict[str, torch.Tensor]) -> None:
    page = page_of(tmp_path / "a.png", tmp_path / "b.png")
    text = (tmp_path / "page.html").read_text()
    assert not re.search(r"https?:|//\w+\.\w|@import|url\(", text)
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(name, "data:").startswith("data:")
    policy = next(attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes)
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy


def test_every_control_has_a_name(tmp_path: Path, pictures: dict[str, torch.Tensor]) -> None:
    grid = PatchGrid(HEIGHT // 4, WIDTH // 4)
    exits = torch.zeros(grid.rows, grid.cols, dtype=torch.int64)
    write_image(tmp_path / "map.png", draw_exit_map(pictures["a"], exits, grid, 4))
    page = page_of(tmp_path / "a.png", tmp_path / "b.png", "--exit-map", tmp_path / "map.png")
    labelled = {attributes.get("for") for tag, attributes in page.elements if tag == "label"}
    text = (tmp_path / "page.html").read_text()
    for tag, attributes in page.elements:
        if tag in ("input", "canvas") or attributes.get("role") == "slider":
            assert "aria-label" in attributes or attributes["id"] in labelled
    assert re.search(r"<label>Left <select", text)
    assert next(attributes for tag, attributes in page.elements if tag == "html") == {"lang": "en"}


def test_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    evil = tmp_path / "<script>alert(1)<" / "{{config}}&amp;\"'.png"
    evil.parent.mkdir()
    write_image(evil, noise(20, 20))
    write_image(tmp_path / "b.png", noise(20, 20))
    page = page_of(tmp_path / "b.png", evil, evil)
    assert evil.name in "".join(page.texts)
    assert evil.name in page.images()
    assert [tag for tag, _ in page.elements].count("script") == 2


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("left", "right"):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / "x.png", noise(20, 20))
    assert list(page_of(tmp_path / "left" / "x.png", tmp_path / "right" / "x.png").images()) == [
        "left/x.png",
        "right/x.png",
    ]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_figures_are_those_of_their_definition(channels: int, dtype: torch.dtype) -> None:
    if dtype == torch.uint16:
        pair = [torch.randint(0, 65536, (channels, 30, 4000), dtype=torch.int32).to(dtype) for _ in range(2)]
    else:
        pair = [noise(30, 4000, channels), noise(30, 4000, channels)]
    peak = 255 if dtype == torch.uint8 else 65535
    ours, theirs = (np.broadcast_to(pixels.numpy().astype(float) / peak, (3, 30, 4000)) for pixels in pair)
    luma = [(16 + 65.481 * image[0] + 128.553 * image[1] + 24.966 * image[2]) / 255 for image in (ours, theirs)]
    measured = compare_quality(*pair)
    assert measured.psnr_rgb_db == pytest.approx(-10 * math.log10(((ours - theirs) ** 2).mean()))
    assert measured.psnr_y_db == pytest.approx(-10 * math.log10(((luma[0] - luma[1]) ** 2).mean()))
    assert measured.ssim_y == pytest.approx(structural_similarity(*luma, **SSIM_SETTINGS), abs=1e-5)


def test_equal_images_and_images_below_the_window() -> None:
    tiny = noise(5, 5)
    measured = compare_quality(tiny, tiny)
    assert math.isinf(measured.psnr_rgb_db)
    assert math.isinf(measured.psnr_y_db)
    assert math.isnan(measured.ssim_y)
    with pytest.raises(ValueError, match="image: expected the size of the reference 5x5, got 6x5"):
        compare_quality(noise(5, 6), tiny)


def test_the_page_shows_the_figures_and_names_the_settings(tmp_path: Path, pictures: dict[str, torch.Tensor]) -> None:
    page = page_of(tmp_path / "a.png", tmp_path / "hr.png", "--reference", tmp_path / "hr.png")
    expected = compare_quality(pictures["a"], pictures["hr"])
    assert f"{expected.psnr_rgb_db:.2f}" in page.texts
    assert f"{expected.psnr_y_db:.2f}" in page.texts
    assert f"{expected.ssim_y:.4f}" in page.texts
    assert page.texts.count("equal") == 2
    words = " ".join(page.texts)
    assert "data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False" in words
    assert "different colour profiles" in words


def test_a_smaller_image_is_enlarged_and_says_so(tmp_path: Path) -> None:
    write_image(tmp_path / "large.png", noise(81, 121))
    small = noise(20, 30) // 2 + 64  # far from 0 and 255: Pillow clips 8 bits between its two passes
    write_image(tmp_path / "small.png", small)
    images = page_of(tmp_path / "small.png", tmp_path / "large.png").images()
    assert list(images) == ["small.png (bicubic ×4.05)", "large.png"]
    enlarged = Image.fromarray(small.permute(1, 2, 0).numpy()).resize((121, 81), Image.Resampling.BICUBIC)
    difference = np.asarray(images["small.png (bicubic ×4.05)"]).astype(int) - np.asarray(enlarged).astype(int)
    assert abs(difference).max() <= 1


def test_16_bits_are_shown_as_8_and_measured_as_16(tmp_path: Path) -> None:
    deep = torch.arange(40 * 50, dtype=torch.int32).view(1, 40, 50) * 32
    write_image(tmp_path / "deep.png", deep.to(torch.uint16))
    write_image(tmp_path / "near.png", (deep + 1).to(torch.uint16))
    page = page_of(tmp_path / "near.png", tmp_path / "deep.png", "--reference", tmp_path / "deep.png")
    assert f"{20 * math.log10(65535):.2f}" in page.texts
    shown = np.asarray(page.images()["deep.png"])
    assert np.array_equal(shown, np.rint(np.repeat(deep[0, :, :, None].numpy(), 3, 2) / 257))


@pytest.mark.parametrize(
    ("sizes", "options", "words"),
    [
        ([(20, 30)], [], "expected two or three images, got 1"),
        ([(20, 30)] * 4, [], "expected two or three images, got 4"),
        ([(20, 30), (20, 31), (40, 50)], [], "0.png: expected the proportions of the largest image, 50x40, got 30x20; crop"),
        ([(20, 30), (1, 16384)], [], "67 megapixels and 16383 pixels a side, got 16384x1; cut out the part that matters"),
        ([(40, 60), (40, 60)], ["--reference=hr.png"], "reference: expected the size of the largest image, 60x40, got 30x20"),
        ([(20, 30), (20, 30)], ["--exit-map=hr.png"], "expected the exit map of an image of 30x20, 480x50 with its legend"),
        ([(20, 30), (20, 30)], ["--exit-map=none.png"], "none.png: no such file"),
        ([(20, 30), (20, 30)], ["-o=page.png"], "-o: expected a name that ends in .html, got page.png"),
        ([(20, 30), (20, 30)], ["-o=missing/page.html"], "No such file or directory"),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sizes: list[tuple[int, int]],
    options: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_image("hr.png", noise(20, 30))
    for index, (height, width) in enumerate(sizes):
        write_image(f"{index}.png", noise(height, width))
    before = sorted(tmp_path.iterdir())
    assert compare(*(f"{index}.png" for index in range(len(sizes))), "-o=page.html", *options) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert sorted(tmp_path.iterdir()) == before


def test_without_scikit_image_the_error_names_the_extra(
    tmp_path: Path, pictures: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    files = (tmp_path / "a.png", tmp_path / "b.png", "-o", tmp_path / "page.html")
    assert compare(*files, "--reference", tmp_path / "hr.png") == 2
    assert "pip install 'enaf_ext[compare]'" in capsys.readouterr().err
    assert compare(*files) == 0


@pytest.mark.parametrize("num_exits", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("size", [(64, 96), (300, 2000)])
def test_the_legend_of_an_exit_map_is_read_again(num_exits: int, size: tuple[int, int]) -> None:
    grid = PatchGrid(size[0] // 4, size[1] // 4)
    exits = torch.arange(grid.num_patches).view(grid.rows, grid.cols) % num_exits
    picture = draw_exit_map(noise(*size), exits, grid, num_exits)
    key = read_legend(picture, *size)
    assert key == list(zip(exit_names(num_exits), exit_colours(num_exits), strict=True))
    stream = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=80)
    again = torch.from_numpy(np.array(Image.open(stream))).permute(2, 0, 1)
    assert read_legend(again, *size) == key
    with pytest.raises(ValueError, match="found none"):
        read_legend(torch.full_like(picture, 255), *size)


# --- in a browser ---


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, torch.Tensor]]:
    """Address of a page of two images with an exit map, and their pixels."""
    folder = tmp_path_factory.mktemp("page")
    pictures = {"a": noise(), "b": noise()}
    for name, pixels in pictures.items():
        write_image(folder / f"{name}.png", pixels)
    grid = PatchGrid(HEIGHT // 4, WIDTH // 4)
    exits = torch.full((grid.rows, grid.cols), 3)
    write_image(folder / "map.png", draw_exit_map(pictures["a"], exits, grid, 4))
    page_of(folder / "a.png", folder / "b.png", "--exit-map", folder / "map.png")
    return (folder / "page.html").as_uri(), pictures


@pytest.fixture
def pixels(page: tuple[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return page[1]


@pytest.fixture
def shown(browser: Browser, page: tuple[str, dict[str, torch.Tensor]]) -> Browser:
    """The page in a window of 1280x800, at 100 %, its exit map put away."""
    browser.errors.clear()
    browser.requests.clear()
    browser.open(page[0])
    browser.evaluate("viewer.setOpacity(0); viewer.setZoom(1)")
    return browser


def origin(browser: Browser) -> tuple[int, int]:
    """Where the first pixel of the image lies on the canvas."""
    return tuple(browser.evaluate("[0, 1].map((axis) => Math.round("
        "[viewer.canvas.width, viewer.canvas.height][axis] / 2 - viewer.centre[axis] * viewer.zoom))"))  # fmt: skip


@NEEDS_BROWSER
def test_left_and_right_of_the_divider_stand_the_pixels_of_the_files(
    shown: Browser, pixels: dict[str, torch.Tensor]
) -> None:
    left, top = origin(shown)
    split = shown.evaluate("Math.round(viewer.divider * viewer.canvas.width)")
    for x, y in [(0, 0), (split - left - 1, 17), (split - left, 17), (WIDTH - 1, HEIGHT - 1)]:
        side = "a" if left + x < split else "b"
        assert shown.pixel(left + x, top + y) == pixels[side][:, y, x].tolist()
    assert shown.errors == []
    assert all(url.startswith(("file:", "data:")) for url in shown.requests)


@NEEDS_BROWSER
@pytest.mark.parametrize("zoom", [2, 3, 32])
def test_magnified_pixels_are_squares(shown: Browser, pixels: dict[str, torch.Tensor], zoom: int) -> None:
    shown.evaluate(f"viewer.setZoom({zoom}); viewer.setDivider(0)")
    left, top = origin(shown)
    x, y = (math.ceil(-start / zoom) + 2 for start in (left, top))
    expected = pixels["b"][:, y, x].tolist()
    for corner in [(0, 0), (zoom - 1, 0), (0, zoom - 1), (zoom - 1, zoom - 1)]:
        assert shown.pixel(left + zoom * x + corner[0], top + zoom * y + corner[1]) == expected


@NEEDS_BROWSER
def test_the_divider_follows_mouse_and_keyboard(shown: Browser) -> None:
    width = shown.evaluate("viewer.canvas.getBoundingClientRect().width")
    top = shown.evaluate("document.getElementById('divider').getBoundingClientRect().top") + 300
    shown.drag((width / 2, top), (width / 4, top))
    assert shown.evaluate("viewer.divider") == pytest.approx(0.25, abs=0.01)
    shown.evaluate("document.getElementById('divider').focus()")
    shown.key("ArrowRight")
    assert shown.evaluate("viewer.divider") == pytest.approx(0.26, abs=0.01)
    for key, share in (("Home", 0), ("End", 1)):
        shown.key(key)
        assert shown.evaluate("viewer.divider") == share
        assert shown.evaluate("document.getElementById('divider').getAttribute('aria-valuenow')") == str(100 * share)


@NEEDS_BROWSER
def test_the_image_follows_mouse_keyboard_and_wheel(shown: Browser) -> None:
    shown.evaluate("viewer.setZoom(4)")
    shown.drag((100, 300), (140, 280))
    assert shown.evaluate("viewer.centre") == pytest.approx([WIDTH / 2 - 10, HEIGHT / 2 + 5], abs=0.01)
    shown.evaluate("viewer.canvas.focus()")
    shown.key("ArrowRight")
    assert shown.evaluate("viewer.centre[0]") > WIDTH / 2 - 10
    shown.key("+")
    assert shown.evaluate("viewer.zoom") == 8
    shown.key("0")
    assert shown.evaluate("viewer.zoom === viewer.fittingZoom && viewer.fitted")
    shown.send("Input.dispatchMouseEvent", type="mouseWheel", x=200, y=300, deltaX=0, deltaY=-240)
    shown.wait("viewer.zoom > 1.5 * viewer.fittingZoom", 5)
    names = shown.evaluate("viewer.sides")
    shown.key(" ")
    assert shown.evaluate("viewer.sides") == names[::-1]
    assert shown.evaluate("document.getElementById('left-name').textContent") == "b.png"


@NEEDS_BROWSER
def test_the_exit_map_lies_over_both_with_its_opacity(shown: Browser) -> None:
    left, top = origin(shown)
    x, y = left + 50, top + 50
    below = shown.pixel(x, y)
    shown.evaluate("viewer.setOpacity(1)")
    above = shown.pixel(x, y)
    shown.evaluate("viewer.setOpacity(0.5)")
    assert shown.pixel(x, y) == pytest.approx([(one + two) / 2 for one, two in zip(below, above, strict=True)], abs=2)
    assert above != below


@NEEDS_BROWSER
@pytest.mark.parametrize("size", [(390, 844), (1280, 800)], ids=["phone", "desktop"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_both_themes_and_sizes(shown: Browser, page: tuple[str, object], size: tuple[int, int], dark: bool) -> None:
    shown.open(page[0], *size, dark=dark, touch=size[0] < 500)
    assert shown.evaluate("document.documentElement.scrollWidth") <= size[0]
    text, ground = json.loads(
        shown.evaluate("""JSON.stringify([
        getComputedStyle(document.querySelector('.slider')).color,
        getComputedStyle(document.body).backgroundColor].map((colour) => colour.match(/[0-9.]+/g).map(Number)))""")
    )
    assert (sum(ground) < 3 * 128) == dark
    assert contrast(text, ground) >= 4.5  # WCAG 2, AA
    shown.evaluate("document.getElementById('theme').click()")
    other = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(float, re.findall(r"[0-9.]+", other))) < 3 * 128) != dark


def contrast(one: list[float], two: list[float]) -> float:
    def luminance(colour: list[float]) -> float:
        linear = [(c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4) for c in colour[:3]]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


@NEEDS_BROWSER
def test_fingers_move_the_divider_and_pinch(shown: Browser, page: tuple[str, object]) -> None:
    shown.open(page[0], 390, 844, touch=True)
    middle = shown.evaluate("document.getElementById('divider').getBoundingClientRect().top") + 200
    shown.touch([(195, middle)], [(150, middle)], [(117, middle)])
    assert shown.evaluate("viewer.divider") == pytest.approx(0.3, abs=0.01)
    before = shown.evaluate("viewer.zoom")
    shown.touch([(240, 300), (280, 300)], [(220, 300), (300, 300)])
    assert shown.evaluate("viewer.zoom") == pytest.approx(2 * before, rel=0.05)
