# SPDX-License-Identifier: Apache-2.0
"""Slow, obvious twins of the operators in plain PyTorch, with the same signatures but for `out`: what the tests compare with.

They check nothing and are never a silent fallback. The twins of FSRCNN's operators are its layers, in `enaf.models.fsrcnn`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .grid import PatchGrid

_MAX = {torch.uint8: 255, torch.uint16: 65535}


def _divided(x: Tensor, by: int) -> Tensor:
    """By a tensor: where the divisor is a Python number, torch multiplies by its reciprocal on CUDA, which rounds twice."""
    return x / torch.full((), float(by), dtype=x.dtype, device=x.device)


def edge_score(image: Tensor, grid: PatchGrid) -> Tensor:
    if image.dtype == torch.uint8:
        levels = image.long()
    elif image.dtype == torch.uint16:
        levels = image.long() // 257
    else:
        levels = (image.float().nan_to_num(0) * 255).clamp(0, 255).long()
    grey = levels
    if image.shape[1] == 3:
        red, green, blue = levels.unbind(1)
        grey = ((9798 * red + 19235 * green + 3735 * blue + 16384) >> 15)[:, None]
    patches = unfold_patches(grey, grid)[:, 0]
    side = grid.patch_size
    around = torch.arange(-1, side + 1, device=image.device).abs()
    reflect = torch.where(around < side, around, 2 * side - 2 - around).clamp(min=0)
    padded = patches[:, reflect][:, :, reflect]
    corners = padded[:, :-2, :-2] + padded[:, :-2, 2:] + padded[:, 2:, :-2] + padded[:, 2:, 2:]
    laplacian = 2 * corners - 8 * patches
    return laplacian.abs().clamp(max=255).double().mean((1, 2)).float()


DETAILS = (
    ((0.3, 0.6, 0.1), ((0, 0, 0), (0, -1, 1), (0, 0, 0))),
    ((0.3, 0.6, 0.1), ((0, 0, 0), (0, -1, 0), (0, 1, 0))),
    ((0.3, 0.6, 0.1), ((0, 0, 0), (1, -2, 1), (0, 0, 0))),
    ((0.3, 0.6, 0.1), ((0, 1, 0), (0, -2, 0), (0, 1, 0))),
    ((0.3, 0.6, 0.1), ((1, 0, -1), (0, 0, 0), (-1, 0, 1))),
    ((0.3, 0.6, 0.1), ((0.25, -0.5, 0.25), (-0.5, 1, -0.5), (0.25, -0.5, 0.25))),
    ((0.5, -0.5, 0.0), ((0.5, -1, 0.5), (-1, 2, -1), (0.5, -1, 0.5))),
    ((-0.25, -0.25, 0.5), ((0.5, -1, 0.5), (-1, 2, -1), (0.5, -1, 0.5))),
)
"""Weights of the colours and taps of each derivative."""


def cell_details(image: Tensor) -> Tensor:
    pixels = image.double() / _MAX.get(image.dtype, 1)
    colours, taps = (
        torch.tensor(values, dtype=torch.double, device=image.device) for values in zip(*DETAILS, strict=True)
    )
    squares = F.conv2d(pixels, colours[:, :, None, None] * taps[:, None]).square()
    cells = pixels[:, :, 1:-1, 1:-1]
    mean = F.avg_pool2d(cells, 4)
    variance = (F.avg_pool2d(cells.square(), 4) - mean.square()).mean(dim=1, keepdim=True).clamp_min(0)
    energies = torch.cat([F.avg_pool2d(squares, 4), F.max_pool2d(squares, 4), variance], dim=1)
    clipping = (mean - 0.5).abs().amax(dim=1, keepdim=True) - 0.45
    details = torch.cat([(energies + 2e-6).log() / 4 + 2, (mean - 0.45) * 4, clipping * 8], dim=1)
    return details.float().contiguous(memory_format=torch.channels_last)


def unfold_patches(image: Tensor, grid: PatchGrid) -> Tensor:
    within = torch.arange(grid.patch_size, device=image.device)
    patches = []
    # torch has no kernel that indexes uint16 on CUDA
    pixels = image.view(torch.int16) if image.dtype == torch.uint16 else image
    for b in range(image.shape[0]):
        for n in range(grid.num_patches):
            y, x = grid.origin(n)
            rows = (y + within).clamp(max=grid.height - 1)
            cols = (x + within).clamp(max=grid.width - 1)
            patches.append(pixels[b][:, rows[:, None], cols[None, :]].view(image.dtype))
    return torch.stack(patches) if patches else image.new_empty(0, image.shape[1], grid.patch_size, grid.patch_size)


def gather_patches(
    image: Tensor, grid: PatchGrid, order: Tensor, *, dtype: torch.dtype | None = None, channels_last: bool = False
) -> Tensor:
    every = unfold_patches(image, grid)
    patches = torch.stack([every[n] for n in order.tolist()]) if len(order) else every[:0]
    dtype = dtype or image.dtype
    if image.dtype in _MAX and dtype != image.dtype:
        patches = _divided(patches.float(), _MAX[image.dtype])
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return patches.to(dtype).contiguous(memory_format=layout)


def bicubic_patches(
    image: Tensor,
    grid: PatchGrid,
    order: Tensor,
    scale: int,
    *,
    dtype: torch.dtype | None = None,
    channels_last: bool = False,
    shuffled: bool = True,
) -> Tensor:
    # In float64 throughout: torch's own float32 loses 1e-5 of the source coordinate at scales that are no power of two.
    value = image.dtype if image.dtype == torch.float64 else torch.float32
    patches = gather_patches(image, grid, order, dtype=value).double()
    side = grid.patch_size * scale
    if len(patches):
        large = F.interpolate(patches, scale_factor=scale, mode="bicubic", align_corners=False)
        large = large if shuffled else F.pixel_unshuffle(large, scale)
    elif shuffled:
        large = patches.new_empty(0, patches.shape[1], side, side)
    else:
        large = patches.new_empty(0, patches.shape[1] * scale * scale, grid.patch_size, grid.patch_size)
    dtype = dtype or (torch.float32 if image.dtype in _MAX else image.dtype)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return large.to(dtype).contiguous(memory_format=layout)


def route_exits(exit_index: Tensor, num_exits: int) -> tuple[Tensor, Tensor]:
    order = torch.argsort(exit_index, descending=True, stable=True)
    offsets = [int((exit_index >= j).sum()) for j in range(num_exits)]
    return order, torch.tensor([*offsets, 0], device=exit_index.device)


def fold_patches(
    patches: Tensor | Sequence[Tensor],
    grid: PatchGrid,
    order: Tensor | None = None,
    *,
    batch: int = 1,
    rows: tuple[int, int] | None = None,
    window: str = "average",
    dtype: torch.dtype | None = None,
) -> Tensor:
    patches = patches if isinstance(patches, Tensor) else torch.cat(list(patches))
    exact = patches.double() if patches.dtype == torch.float64 else patches.float()
    if exact.shape[3] != grid.patch_size:
        exact = F.pixel_shuffle(exact, grid.patch_size // exact.shape[3])
    placed = exact if order is None else torch.empty_like(exact).index_copy(0, order, exact)
    size = (grid.padded_height, grid.padded_width)
    total = placed.new_zeros(batch, placed.shape[1], *size)
    for b in range(batch):
        for n in range(grid.num_patches):
            y, x = grid.origin(n)
            row, col = divmod(n, grid.cols)
            weight_y = _weights(row, grid.rows, grid, window, placed)
            weight_x = _weights(col, grid.cols, grid, window, placed)
            weighted = (weight_y[:, None] * weight_x) * placed[b * grid.num_patches + n]
            total[b, :, y : y + grid.patch_size, x : x + grid.patch_size] += weighted
    top, bottom = rows or (0, grid.height)
    result = total[:, :, top:bottom, : grid.width]
    dtype = dtype or patches.dtype
    if dtype in _MAX:
        return (result.nan_to_num(0).clamp(0, 1) * _MAX[dtype]).round().to(dtype).contiguous()
    return result.to(dtype).contiguous()


def _weights(index: int, count: int, grid: PatchGrid, window: str, like: Tensor) -> Tensor:
    weights = like.new_ones(grid.patch_size)
    if window == "sum":
        return weights
    later = like.new_full((grid.overlap,), 0.5)
    if window == "linear":
        later = _divided(torch.arange(grid.overlap, dtype=like.dtype, device=like.device) + 0.5, grid.overlap)
    if index > 0:
        weights[: grid.overlap] = later
    if index < count - 1:
        weights[grid.stride :] = 1 - later
    return weights
