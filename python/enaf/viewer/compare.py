# SPDX-License-Identifier: Apache-2.0
"""The page of `enaf compare`: files in, one HTML page out."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from enaf.exit_map import read_legend
from enaf.image_io import read_image
from enaf.metrics import SSIM_SETTINGS
from enaf.viewer.page import MAX_SIDE, build_page, figure, legend, opacity_slider, to_8_bit
from enaf.viewer.quality import SSIM_WINDOW, Similarity, compare_quality

MAX_PIXELS = 1 << 26
"""Pixels of an image on the page (67 megapixels; 8K has 33): several times as much is in the browser's memory."""


@dataclass(frozen=True)
class _Entry:
    """An image as the page shows it; ``pixels`` (C, H, W) uint8 or uint16."""

    name: str
    pixels: Tensor
    icc_profile: bytes | None


def compare_page(
    images: Sequence[str | os.PathLike[str]],
    reference: str | os.PathLike[str] | None = None,
    exit_map: str | os.PathLike[str] | None = None,
) -> str:
    """One page that shows images over each other, with nothing to load from anywhere.

    Smaller images of the same proportions are enlarged by bicubic interpolation (Pillow's, a = -0.5) to the size of the
    largest, and say so in their name. 16 bits are shown as 8 and measured as 16.

    Args:
        images: two or three files.
        reference: file of the original, that the others are measured against; needs scikit-image.
        exit_map: picture that `enaf upscale --exit-map` wrote for the largest of the images.

    Returns:
        HTML.

    Raises:
        enaf.image_io.ImageError: a file cannot be read.
        ValueError: images do not belong together or are too large; the message says what to do.
    """
    files = [*images] if reference is None else [*images, reference]
    names = _names([Path(path) for path in files])
    if reference is not None:
        names[-1] += " (reference)"
    entries = [_read(Path(path), name) for path, name in zip(files, names, strict=True)]
    height, width = max((entry.pixels.shape[-2:] for entry in entries), key=lambda size: size[0] * size[1])
    if reference is not None and entries[-1].pixels.shape[-2:] != (height, width):
        raise ValueError(
            f"reference: expected the size of the largest image, {width}x{height}, got {_size(entries[-1].pixels)}; "
            "reduce the image or name another reference"
        )
    entries = [_enlarged(entry, height, width) for entry in entries]
    panel = [] if reference is None else [_figures(entries)]
    figures = [figure(entry.name, to_8_bit(entry.pixels), entry.icc_profile) for entry in entries]
    if exit_map is not None:
        picture, key = _read_exit_map(Path(exit_map), height, width)
        panel.append(f"<section>{opacity_slider(30)}{legend(key)}</section>")
        figures.append(figure("Exit map", picture))
    title = " · ".join(names[: len(images)])
    config = {"width": width, "height": height, "exit_map": exit_map is not None}
    return build_page(title, "\n".join(panel), figures, config, ["page.js", "compare.js"], live=False)


def _names(paths: list[Path]) -> list[str]:
    """What files are called on the page: their names, with as many folders as it takes to tell them apart."""
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            return names
    return [str(path) for path in paths]


def _read(path: Path, name: str) -> _Entry:
    image = read_image(path)
    height, width = image.pixels.shape[-2:]
    if image.pixels.shape[0] not in (1, 3) or image.pixels.dtype not in (torch.uint8, torch.uint16):
        kind = f"{image.pixels.shape[0]} channels of {image.pixels.dtype}"
        raise ValueError(f"{path}: expected grey or RGB of 8 or 16 bits, got {kind}; convert it first")
    if height * width > MAX_PIXELS or max(height, width) > MAX_SIDE:
        limit = f"at most {MAX_PIXELS // 10**6} megapixels and {MAX_SIDE} pixels a side"
        raise ValueError(f"{path}: expected {limit}, got {width}x{height}; cut out the part that matters")
    return _Entry(name, image.pixels, image.metadata.icc_profile)


def _enlarged(entry: _Entry, height: int, width: int) -> _Entry:
    """The entry at the size of the page."""
    rows, columns = entry.pixels.shape[-2:]
    if (rows, columns) == (height, width):
        return entry
    if abs(width - columns * height / rows) > 1 and abs(height - rows * width / columns) > 1:
        raise ValueError(
            f"{entry.name}: expected the proportions of the largest image, {width}x{height}, got {columns}x{rows}; "
            "crop one of them to what both show"
        )
    limit = torch.iinfo(entry.pixels.dtype).max
    channels = [
        Image.fromarray(channel.float().numpy()).resize((width, height), Image.Resampling.BICUBIC)
        for channel in entry.pixels
    ]
    array = np.stack([np.asarray(channel).clip(0, limit).round() for channel in channels])
    factor = f"{height / rows:.2f}".rstrip("0").rstrip(".")
    return _Entry(
        f"{entry.name} (bicubic ×{factor})", torch.from_numpy(array).int().to(entry.pixels.dtype), entry.icc_profile
    )


def _read_exit_map(path: Path, height: int, width: int) -> tuple[Tensor, list[tuple[str, tuple[int, int, int]]]]:
    """The picture without its legend, and what the colours mean."""
    picture = read_image(path).pixels
    try:
        key = read_legend(picture, height, width)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return picture[:, :height, :width], key


def _figures(entries: Sequence[_Entry]) -> str:
    """How close every image comes to the last, as a table."""
    *images, reference = entries
    rows = "".join(_row(image.name, compare_quality(image.pixels, reference.pixels)) for image in images)
    settings = ", ".join(f"{name}={value}" for name, value in SSIM_SETTINGS.items())
    notes = [
        "Over every pixel, no border left out. PSNR in dB, peak 255; Y is BT.601 luma (16 to 235). "
        f"SSIM of Y by scikit-image {metadata.version('scikit-image')}: structural_similarity({settings})."
    ]
    if min(reference.pixels.shape[-2:]) < SSIM_WINDOW:
        notes.append(f"SSIM needs {SSIM_WINDOW} pixels a side.")
    profiles = {image.icc_profile for image in entries}
    if len(profiles) > 1:
        notes.append("The files carry different colour profiles: the figures compare their numbers, not their colours.")
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Image", "PSNR RGB", "PSNR Y", "SSIM"))
    return f"""<section>
      <table>
        <caption>Against {escape(reference.name)}</caption>
        <thead><tr>{head}</tr></thead>
        <tbody>{rows}</tbody>
      </table>
      {"".join(f'<p class="quiet">{escape(note)}</p>' for note in notes)}
    </section>"""


def _row(name: str, quality: Similarity) -> str:
    ssim = "–" if math.isnan(quality.ssim_y) else f"{quality.ssim_y:.4f}"
    cells = (*(_decibels(value) for value in (quality.psnr_rgb_db, quality.psnr_y_db)), ssim)
    return f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _decibels(value: float) -> str:
    return "equal" if math.isinf(value) else f"{value:.2f}"


def _size(pixels: Tensor) -> str:
    return f"{pixels.shape[-1]}x{pixels.shape[-2]}"
