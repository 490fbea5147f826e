# SPDX-License-Identifier: Apache-2.0
"""A picture of which patch took which exit."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from enaf_ext.grid import PatchGrid

# From cold to warm as the cost grows; told apart by lightness too, for colour-blind readers and grey prints.
_COLOURS = np.array([(38, 70, 160), (0, 158, 155), (250, 190, 60), (205, 40, 45)], dtype=np.float32)
_TINT = 0.55
_LEAST_WIDTH = 480  # of the picture, so that the legend has room
_MOST_EXITS = 8
_LARGEST_SIDE = 4096


def exit_names(num_exits: int) -> list[str]:
    """What people call the exits: `["bicubic", "exit 1", ..., "full network"]`, shallowest first."""
    return ["bicubic", *(f"exit {index}" for index in range(1, num_exits - 1)), "full network"][:num_exits]


def shown_size(height: int, width: int) -> tuple[int, int]:
    """Height and width at which an image of this size is drawn: at most 4096 pixels a side."""
    shrink = min(1.0, _LARGEST_SIDE / max(height, width))
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def sheet_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the drawing of a picture of this size, with its legend."""
    width = max(width, _LEAST_WIDTH)
    return height + 2 * _font_size(width) + 8, width


def draw_exit_map(picture: Tensor, exit_index: Tensor, grid: PatchGrid, num_exits: int) -> Tensor:
    """Tints every patch of a picture by the exit it took, with a legend below. Ours.

    The picture is shown in grey below the tint, so that its colours are not taken for exits. Neighbouring patches
    overlap; the border is drawn in the middle of what they share.

    Args:
        picture: (C, H, W), C = 1 or 3, uint8; the image in any whole multiple of the grid's size.
        exit_index: (rows, cols), integers in [0, num_exits).
        grid: the patches that were routed.
        num_exits: exits of the network, at least 1.

    Returns:
        (3, H + legend, max(W, 480)) uint8.

    Raises:
        ValueError: exit_index does not have the grid's shape.
    """
    if tuple(exit_index.shape) != (grid.rows, grid.cols):
        raise ValueError(f"exit_index: expected shape {(grid.rows, grid.cols)}, got {tuple(exit_index.shape)}")
    height, width = picture.shape[-2:]
    rows = _cells(height, grid.height, grid)
    cols = _cells(width, grid.width, grid)
    exits = exit_index.cpu().numpy()
    colours = _palette(num_exits)

    grey = picture.float().mean(dim=0).cpu().numpy()[..., None]
    tinted = (1 - _TINT) * (96 + 0.6 * grey) + _TINT * colours[exits][rows[:, None], cols[None, :]]
    edges = (np.diff(rows, prepend=rows[:1]) != 0)[:, None] | (np.diff(cols, prepend=cols[:1]) != 0)[None, :]
    tinted[edges] *= 0.8

    legend = _legend(max(width, _LEAST_WIDTH), np.bincount(exits.ravel(), minlength=num_exits), colours)
    sheet = Image.new("RGB", sheet_size(height, width)[::-1], "white")
    sheet.paste(Image.fromarray(np.rint(tinted).clip(0, 255).astype(np.uint8)), (0, 0))
    sheet.paste(legend, (0, height))
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)


def read_legend(picture: Tensor, height: int, width: int) -> list[tuple[str, tuple[int, int, int]]]:
    """What the colours of a picture by ``draw_exit_map`` mean, read off its legend.

    Args:
        picture: (3, H, W), uint8; colours may be off by what a JPEG loses.
        height, width: the image that was drawn, without its legend.

    Returns:
        Name and colour (red, green, blue) of every exit, shallowest first.

    Raises:
        ValueError: the picture has another size, or no legend below.
    """
    expected = (3, *sheet_size(height, width))
    sheet = expected[2]
    size = _font_size(sheet)
    if tuple(picture.shape) != expected:
        raise ValueError(
            f"picture: expected the exit map of an image of {width}x{height}, {expected[2]}x{expected[1]} with its "
            f"legend, got {picture.shape[-1]}x{picture.shape[-2]}"
        )
    middle = picture[:, height + size + 4].numpy().astype(np.float32)
    for num_exits in range(_MOST_EXITS, 0, -1):
        colours = _palette(num_exits)
        swatches = np.stack([middle[:, sheet * index // num_exits + size] for index in range(num_exits)])
        if np.abs(swatches - colours).max() < 24:
            return list(zip(exit_names(num_exits), exit_colours(num_exits), strict=True))
    raise ValueError("picture: expected an exit map with its legend below, found none")


def exit_colours(num_exits: int) -> list[tuple[int, int, int]]:
    """Red, green and blue of every exit, 0 to 255, shallowest first."""
    return [(int(red), int(green), int(blue)) for red, green, blue in _palette(num_exits).round()]


def _cells(pixels: int, side: int, grid: PatchGrid) -> np.ndarray:
    """(pixels,) the row or column of patches in which each pixel of a picture of `pixels` for `side` is shown."""
    position = (np.arange(pixels) + 0.5) * side / pixels
    last = max(0, -(-(side - grid.patch_size) // grid.stride))
    return ((position - grid.overlap / 2) // grid.stride).clip(0, last).astype(np.int64)


def _palette(num_exits: int) -> np.ndarray:
    """(num_exits, 3) colours, spread evenly over the scale."""
    at = np.linspace(0, len(_COLOURS) - 1, num_exits)
    return np.stack([np.interp(at, np.arange(len(_COLOURS)), channel) for channel in _COLOURS.T], axis=1)


def _font_size(width: int) -> int:
    return min(26, max(11, width // 46))


def _legend(width: int, counts: np.ndarray, colours: np.ndarray) -> Image.Image:
    """One swatch an exit, with its name and share of the patches."""
    size = _font_size(width)
    font = ImageFont.load_default(size)
    legend = Image.new("RGB", (width, 2 * size + 8), "white")
    draw = ImageDraw.Draw(legend)
    for index, name in enumerate(exit_names(len(counts))):
        left = width * index // len(counts) + size // 2
        draw.rectangle(
            (left, size // 2 + 4, left + size, size * 3 // 2 + 4), fill=tuple(np.rint(colours[index]).astype(int))
        )
        share = f"{name}  {100 * counts[index] / counts.sum():.0f} %"
        draw.text((left + size * 3 // 2, size + 4), share, fill=(40, 40, 40), font=font, anchor="lm")
    return legend
