# SPDX-License-Identifier: Apache-2.0
"""The operators: cutting an image into patches, measuring them, routing them, and blending them into an image again.

Each runs natively on CPU and CUDA (`fsrcnn_image` on CPU alone), under `torch.compile(fullgraph=True)` and in CUDA graphs.
Images are (B, C, H, W), 8- and 16-bit integers stand for [0, 1]. Patches of a batch are numbered image by image and row by row:
see `PatchGrid`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from . import _library
from .grid import PatchGrid

__all__ = [
    "WINDOWS",
    "bicubic_patches",
    "cell_details",
    "edge_score",
    "fold_patches",
    "fsrcnn_image",
    "fsrcnn_patches",
    "gather_patches",
    "route_exits",
    "unfold_patches",
]

_library.load()

WINDOWS = ("average", "linear", "sum")
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGRAL = (torch.uint8, torch.uint16)
SCORED = (*INTEGRAL, torch.float16, torch.bfloat16, torch.float32)
CELL = 4
CELL_DETAILS = 21
FSRCNN_EXITS = 4
FSRCNN_DTYPES = (torch.float32, torch.float16)
MAX_SCALE = 16


def edge_score(image: Tensor, grid: PatchGrid) -> Tensor:
    """Mean edge strength of every patch.

    score = mean over the patch of min(|L|, 255), L the Laplacian [2 0 2; 0 -8 0; 2 0 2] of the 8-bit grey value
    (9798 R + 19235 G + 3735 B + 16384) >> 15, reflected at the patch's border without repeating the border pixel. Bit for bit
    what OpenCV's cvtColor(RGB2GRAY), Laplacian(ksize=3) and convertScaleAbs give on the uint8 patch, as the authors compute it.

    Args:
        image: (B, C, H, W), C = 1 (taken as grey) or 3 (RGB), uint8, uint16, float16, bfloat16 or float32. 16 bits become 8 by
            floor(x / 257), floats in [0, 1] by trunc(255 x), clamped.
        grid: geometry of the patches, in pixels of `image`.

    Returns:
        (B * grid.num_patches,), float32, in [0, 255].

    Raises:
        TypeError: `image` has another dtype.
        ValueError: the shape of `image` does not fit the grid, or C is neither 1 nor 3.

    Notes: deterministic; not differentiable.
    """
    _check_image(image, grid, SCORED)
    if image.shape[1] not in (1, 3):
        raise ValueError(f"image: expected 1 or 3 channels, got {image.shape[1]}")
    return torch.ops.enaf_ext.edge_score(image.detach(), grid.patch_size, grid.overlap)


def cell_details(image: Tensor) -> Tensor:
    """How much detail there is in every cell of 4x4 pixels: what a network finds hard to learn to see.

    With grey g = 0.3 R + 0.6 G + 0.1 B, u = (R - G) / 2, v = B / 2 - (R + G) / 4 and L(e) = log(e + 2e-6) / 4 + 2, a cell's
    values are L of the mean squares of eight derivatives, L of the largest squares of the same, L of the colours' mean variance,
    4 (m - 0.45) for the three mean colours m, and 8 (max |m - 0.5| - 0.45). The derivatives are differences of g to the right
    and downwards, its second differences along x and y, its mixed one, and the second differences along both axes of g / 4,
    u / 2 and v / 2: the finest checkerboards. Logarithms, because what tells a patch of 50 dB from one of 40 dB is contrast far
    below what layers of learned weights resolve.

    Args:
        image: (B, 3, 4 rows + 2, 4 cols + 2), the cells and a pixel on every side; uint8, uint16, float16, bfloat16 or float32,
            any strides; integers become [0, 1] first.

    Returns:
        (B, 21, rows, cols), float32, channels_last.

    Raises:
        TypeError: `image` has another dtype.
        ValueError: the shape of `image` is another.

    Notes: deterministic, the same bits on every device; not differentiable.
    """
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(f"image: expected (B, 3, 4 rows + 2, 4 cols + 2), got shape {tuple(image.shape)}")
    if image.dtype not in SCORED:
        raise TypeError(f"image: expected one of {', '.join(map(str, SCORED))}, got {image.dtype}")
    if any(side < CELL + 2 or side % CELL != 2 for side in image.shape[2:]):
        raise ValueError(f"image: expected sides of 4n + 2, got {image.shape[2]}x{image.shape[3]}")
    return torch.ops.enaf_ext.cell_details(image.detach())


def unfold_patches(image: Tensor, grid: PatchGrid) -> Tensor:
    """Every patch of the grid.

    patch_n(y, x) = image(min(y_n + y, H - 1), min(x_n + x, W - 1)), (y_n, x_n) the origin of patch n.

    Args:
        image: (B, C, H, W), uint8, uint16, float16, bfloat16, float32 or float64, any strides.
        grid: geometry of the patches, in pixels of `image`.

    Returns:
        (B * grid.num_patches, C, P, P), contiguous, of the dtype of `image`.

    Raises:
        TypeError: `image` has another dtype.
        ValueError: the shape of `image` does not fit the grid.

    Notes: deterministic; differentiable in `image`.
    """
    _check_image(image, grid)
    return torch.ops.enaf_ext.unfold_patches(image, grid.patch_size, grid.overlap)


def gather_patches(
    image: Tensor, grid: PatchGrid, order: Tensor, *, dtype: torch.dtype | None = None, channels_last: bool = False
) -> Tensor:
    """The patches that `order` names, converted in dtype and layout on the way.

    result_k = convert(patch_{order_k}), the patch as in `unfold_patches`; convert is x / 255 or x / 65535, divided in float32,
    from an integral to a floating dtype, a cast between floating ones, and nothing for equal ones.

    Args:
        image: (B, C, H, W), uint8, uint16, float16, bfloat16, float32 or float64, any strides.
        grid: geometry of the patches, in pixels of `image`.
        order: (M,), int64, on the device of `image`, values in [0, B * grid.num_patches), repeats allowed.
        dtype: dtype of the result, floating or that of `image`; None is that of `image`.
        channels_last: lay the result out as torch.channels_last.

    Returns:
        (M, C, P, P), of `dtype`.

    Raises:
        TypeError: a dtype is not supported.
        ValueError: a shape or device does not fit.
        RuntimeError: a value of `order` is out of range (on CPU. On CUDA, where looking would wait for the device, such a
            value names the nearest patch).

    Notes: deterministic; differentiable in a floating `image`, where the gradient of repeated patches is summed (on CUDA in no
        fixed order).
    """
    _check_image(image, grid)
    _check_index("order", order, image)
    dtype = image.dtype if dtype is None else dtype
    if dtype != image.dtype and dtype not in FLOATING:
        raise TypeError(f"dtype: expected a floating dtype or {image.dtype}, got {dtype}")
    return torch.ops.enaf_ext.gather_patches(image, order, grid.patch_size, grid.overlap, dtype, channels_last)


def bicubic_patches(
    image: Tensor,
    grid: PatchGrid,
    order: Tensor,
    scale: int,
    *,
    dtype: torch.dtype | None = None,
    channels_last: bool = False,
    shuffled: bool = True,
    out: Tensor | None = None,
) -> Tensor:
    """The patches that `order` names, enlarged by bicubic interpolation: the cheapest exit.

    Torch's bicubic of the patch: cubic convolution (Keys 1981) with a = -0.75, half-pixel centres, coordinates clamped inside
    the patch. The result is not clamped.

    Args:
        image: (B, C, H, W), uint8, uint16, float16, bfloat16, float32 or float64, any strides; integers become [0, 1] first.
        grid: geometry of the patches, in pixels of `image`.
        order: (M,), int64, as for `gather_patches`.
        scale: enlargement, 1 <= scale <= 16.
        dtype: floating dtype of the result; None is that of a floating `image` and float32 for an integral one.
        channels_last: lay the result out as torch.channels_last.
        shuffled: give images; False gives the layout before a pixel shuffle, `pixel_unshuffle(images, scale)`.
        out: write into this tensor of the result's shape, contiguous or channels_last; its dtype and layout then count. None
            makes a new one, whose memory a CPU has to map first, which can take longer than filling it.

    Returns:
        (M, C, P * scale, P * scale), or (M, C * scale**2, P, P) if not `shuffled`, of `dtype`; `out` where it is given.

    Raises:
        TypeError: a dtype is not supported.
        ValueError: a shape, a device or `scale` does not fit.
        RuntimeError: a value of `order` is out of range (on CPU; on CUDA it names the nearest patch).

    Notes: sums in float32 (float64 for float64 images); deterministic; not differentiable.
    """
    _check_image(image, grid)
    _check_index("order", order, image)
    if not 1 <= scale <= MAX_SCALE:
        raise ValueError(f"scale: expected 1 <= scale <= {MAX_SCALE}, got {scale}")
    if dtype is None:
        dtype = image.dtype if image.dtype in FLOATING else torch.float32
    if dtype not in FLOATING:
        raise TypeError(f"dtype: expected a floating dtype, got {dtype}")
    side, in_block = (grid.patch_size * scale, 1) if shuffled else (grid.patch_size, scale * scale)
    shape = (order.shape[0], image.shape[1] * in_block, side, side)
    if out is None:
        out = _empty(image, shape, dtype, channels_last)
    _check_out(out, shape, FLOATING)
    torch.ops.enaf_ext.bicubic_patches(out, image.detach(), order, grid.patch_size, grid.overlap, scale, shuffled)
    return out


def fsrcnn_patches(
    image: Tensor,
    grid: PatchGrid,
    order: Tensor,
    offsets: Tensor,
    weights: Tensor,
    scale: int,
    *,
    dtype: torch.dtype = torch.float32,
    out: Tensor | None = None,
) -> Tensor:
    """The patches that `order` names through all layers of FSRCNN up to their exits, each while it is close at hand.

    What `gather_patches`, the layers of ``enaf.models.FSRCNN`` and a pixel shuffle give one after another. Zeros surround a
    patch, as convolutions with padding see it. Of the transposed convolutions only taps that reach a pixel are computed.

    Args:
        image: (B, 3, H, W), uint8, uint16, float16, bfloat16 or float32, any strides; integers become [0, 1] first.
        grid: geometry of the patches, in pixels of `image`.
        order: (M,), int64, patches by descending exit, as `route_exits` sorts them; none of exit 0.
        offsets: (5,), int64, of `route_exits` for four exits: patch k leaves at exit 3 for k < offsets[3], at exit 2 for
            k < offsets[2], else at exit 1. On the device of `image` or on the CPU; nothing waits for either.
        weights: (42833,), float32: of every layer its weights, biases and the slope of its activation (1 where it has none), in
            the order of csrc/fsrcnn.h.
        scale: 2, 3 or 4.
        dtype: float32 or float16, of the result.
        out: write into this contiguous tensor of the result's shape, whose dtype then counts; see `bicubic_patches`.

    Returns:
        (M, 3, P * scale, P * scale), contiguous, of `dtype`, not clamped; `out` where it is given.

    Raises:
        TypeError: a dtype is not supported.
        ValueError: a shape, a device or `scale` does not fit.
        RuntimeError: a value of `order` is out of range (on CPU; on CUDA it names the nearest patch), `weights` are not those
            of FSRCNN, or a GPU has not the tensor cores (compute capability 8.0) or the shared memory for the patch: P = 32
            fits wherever there are tensor cores.

    Notes: sums in float32. On CUDA pixels, weights and the features between layers are rounded to float16, where what is too
    large becomes infinite, and stays so or NaN in the result. Deterministic on one machine, in the last bits not from one
    device to another; not differentiable.
    """
    _check_image(image, grid, SCORED)
    _check_index("order", order, image)
    _check_index("offsets", offsets, offsets if offsets.device.type == "cpu" else image)
    _check_fsrcnn(image, weights, scale)
    if offsets.shape[0] != FSRCNN_EXITS + 1:
        raise ValueError(f"offsets: expected {FSRCNN_EXITS + 1} values, got {offsets.shape[0]}")
    if dtype not in FSRCNN_DTYPES:
        raise TypeError(f"dtype: expected float32 or float16, got {dtype}")
    shape = (order.shape[0], image.shape[1], grid.patch_size * scale, grid.patch_size * scale)
    if out is None:
        out = _empty(image, shape, dtype)
    _check_out(out, shape, FSRCNN_DTYPES)
    torch.ops.enaf_ext.fsrcnn_patches(
        out, image.detach(), order, offsets, weights, grid.patch_size, grid.overlap, scale
    )
    return out


def fsrcnn_image(
    image: Tensor,
    weights: Tensor,
    scale: int,
    *,
    exit: int = 3,
    rows: tuple[int, int] | None = None,
    dtype: torch.dtype = torch.float32,
    out: Tensor | None = None,
) -> Tensor:
    """Whole images through one exit of FSRCNN, tile by tile in the cache; no pixel knows of the tiles.

    Args:
        image: (B, 3, H, W), uint8, uint16, float16, bfloat16 or float32, any strides; integers become [0, 1] first.
        weights, scale: as for `fsrcnn_patches`.
        exit: 1, 2 or 3, the full one.
        rows: (top, bottom), 0 <= top <= bottom <= H: make only the results of these rows; those around them are seen.
        dtype: float32 for the plain result; uint8 or uint16 for rint(clamp(y, 0, 1) * max), ties to even, NaN giving 0.
        out: write into this tensor, see `fold_patches`.

    Returns:
        (B, 3, (bottom - top) * scale, W * scale), contiguous, of `dtype`; `out` where it is given.

    Raises:
        TypeError: a dtype is not supported.
        ValueError: a shape, a device, `exit`, `rows` or `scale` does not fit.
        RuntimeError: `weights` are not those of FSRCNN.
        NotImplementedError: `image` is not on a CPU.

    Notes: CPU only; otherwise as `fsrcnn_patches`; the same bits whatever the rows and the number of threads.
    """
    if image.ndim != 4:
        raise ValueError(f"image: expected (B, 3, H, W), got shape {tuple(image.shape)}")
    if image.dtype not in SCORED:
        raise TypeError(f"image: expected one of {', '.join(map(str, SCORED))}, got {image.dtype}")
    _check_fsrcnn(image, weights, scale)
    if dtype not in (*INTEGRAL, torch.float32):
        raise TypeError(f"dtype: expected float32, uint8 or uint16, got {dtype}")
    if exit not in (1, 2, 3):
        raise ValueError(f"exit: expected 1, 2 or 3, got {exit}")
    top, bottom = (0, image.shape[2]) if rows is None else rows
    if not 0 <= top <= bottom <= image.shape[2]:
        raise ValueError(f"rows: expected 0 <= top <= bottom <= {image.shape[2]}, got ({top}, {bottom})")
    shape = (image.shape[0], 3, scale * (bottom - top), scale * image.shape[3])
    if out is None:
        out = _empty(image, shape, dtype)
    _check_rows(out, shape, (*INTEGRAL, torch.float32))
    torch.ops.enaf_ext.fsrcnn_image(out, image.detach(), weights, scale, exit, top)
    return out


def route_exits(exit_index: Tensor, num_exits: int) -> tuple[Tensor, Tensor]:
    """Sorts patches by descending exit, keeping the order of equals.

    The patches that leave at exit j are order[offsets[j + 1]:offsets[j]]; those that still run at depth j are the prefix
    order[:offsets[j]].

    Args:
        exit_index: (N,), int64, values in [0, num_exits).
        num_exits: exits of the network, at least 1 (and on CUDA at most 64).

    Returns:
        order: (N,), int64, a permutation of range(N).
        offsets: (num_exits + 1,), int64; offsets[j] is the number of patches whose exit is at least j.

    Raises:
        TypeError: `exit_index` is not int64.
        ValueError: `exit_index` is not one-dimensional, or num_exits < 1.
        RuntimeError: a value of `exit_index` is out of range (on CPU; on CUDA it counts as the nearest exit).

    Notes: static shapes, no wait for the device; deterministic; not differentiable.
    """
    _check_index("exit_index", exit_index, exit_index)
    if num_exits < 1:
        raise ValueError(f"num_exits: expected num_exits >= 1, got {num_exits}")
    return torch.ops.enaf_ext.route_exits(exit_index, num_exits)


def fold_patches(
    patches: Tensor | Sequence[Tensor],
    grid: PatchGrid,
    order: Tensor | None = None,
    *,
    batch: int = 1,
    rows: tuple[int, int] | None = None,
    window: str = "average",
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Blends overlapping patches into images; the inverse of `unfold_patches` for windows that sum to one.

    y(p) = sum over the covering patches n, in grid order, of w_n(p) * patch_n(p - origin_n), w separable in y and x:
    "average": 1 / (patches that cover p), the authors' blend; "linear": in an overlap of O pixels the later patch weighs
    (i + 0.5) / O, i = 0..O-1, the earlier one the rest (ours, because it hides seams better); "sum": 1, the adjoint of unfold.

    Args:
        patches: (B * grid.num_patches, C, P, P), or before a pixel shuffle by s, (B * grid.num_patches, C * s**2, P/s, P/s),
            float16, bfloat16, float32 or float64, any strides (channels_last is fast); s is read off the sides. Or several
            such tensors of one dtype, which stand for their concatenation (a CPU reads them where they are).
        grid: geometry of the result, in pixels of the result.
        order: (B * grid.num_patches,), int64: patch k lies at grid index order[k], a permutation. None is the identity.
        batch: number of images B.
        rows: (top, bottom), 0 <= top <= bottom <= H: make only these rows of the images; None makes all. Patches that do not
            reach them are not read.
        window: "average", "linear" or "sum".
        dtype: floating, for the plain result; uint8 or uint16 for rint(clamp(y, 0, 1) * max), ties to even, NaN giving 0;
            None is the dtype of `patches`.
        out: write into this tensor of the result's shape, whose rows lie side by side, such as these rows of a larger
            contiguous image; its dtype then counts. Not differentiable.

    Returns:
        (B, C, bottom - top, W), contiguous, of `dtype`; `out` where it is given.

    Raises:
        TypeError: a dtype is not supported.
        ValueError: a shape, a device, `rows` or `window` does not fit.
        RuntimeError: `order` is no permutation (on CPU; on CUDA the result is undefined).

    Notes: sums in float32 (float64 for float64) without atomics: the same bits whatever the batch, the rows and the number of
    threads; differentiable in `patches` where `dtype` is floating.
    """
    parts = [patches] if isinstance(patches, Tensor) else list(patches)
    _check_patches(parts, grid, batch)
    if any(part.stride()[1:] != parts[0].stride()[1:] for part in parts):
        parts = [torch.cat(parts)]
    if order is not None:
        _check_index("order", order, parts[0])
        if order.shape[0] != batch * grid.num_patches:
            raise ValueError(f"order: expected {batch * grid.num_patches} indices, got {order.shape[0]}")
    top, bottom = (0, grid.height) if rows is None else rows
    if not 0 <= top <= bottom <= grid.height:
        raise ValueError(f"rows: expected 0 <= top <= bottom <= {grid.height}, got ({top}, {bottom})")
    if window not in WINDOWS:
        raise ValueError(f"window: expected one of {', '.join(WINDOWS)}, got {window!r}")
    if out is not None:
        shape = (batch, _channels(parts[0], grid.patch_size), bottom - top, grid.width)
        _check_rows(out, shape, (*FLOATING, *INTEGRAL))
        torch.ops.enaf_ext.fold_patches_into(
            out, [part.detach() for part in parts], order, grid.height, grid.patch_size, grid.overlap, top,
            WINDOWS.index(window),
        )  # fmt: skip
        return out
    dtype = parts[0].dtype if dtype is None else dtype
    if dtype not in (*FLOATING, *INTEGRAL):
        raise TypeError(f"dtype: expected a floating dtype, uint8 or uint16, got {dtype}")
    return torch.ops.enaf_ext.fold_patches(
        parts, order, batch, grid.height, grid.width, grid.patch_size, grid.overlap, top, bottom,
        WINDOWS.index(window), dtype,
    )  # fmt: skip


def _check_patches(parts: list[Tensor], grid: PatchGrid, batch: int) -> None:
    if not parts:
        raise ValueError("patches: expected at least one tensor, got none")
    first = parts[0]
    for part in parts:
        if part.ndim != 4:
            raise ValueError(f"patches: expected (B * N, C, P, P), got shape {tuple(part.shape)}")
        if (part.dtype, part.device, part.shape[1:]) != (first.dtype, first.device, first.shape[1:]):
            raise ValueError(
                f"patches: expected parts of one dtype, device and shape, got {first.dtype} {tuple(first.shape)} on "
                f"{first.device} and {part.dtype} {tuple(part.shape)} on {part.device}"
            )
    if first.dtype not in FLOATING:
        raise TypeError(f"patches: expected a floating dtype, got {first.dtype}")
    if batch < 0:
        raise ValueError(f"batch: expected batch >= 0, got {batch}")
    count = sum(part.shape[0] for part in parts)
    if count != batch * grid.num_patches:
        raise ValueError(f"patches: expected {batch} * {grid.num_patches} patches for the grid and batch, got {count}")
    side = first.shape[3]
    if first.shape[2] != side or side < 1 or grid.patch_size % side != 0:
        raise ValueError(
            f"patches: expected sides of {grid.patch_size} or of a divisor of it, got {first.shape[2]}x{side}"
        )
    scale = grid.patch_size // side
    if first.shape[1] < 1 or first.shape[1] % (scale * scale) != 0:
        raise ValueError(f"patches: expected channels in a multiple of {scale * scale}, got {first.shape[1]}")


def _check_image(image: Tensor, grid: PatchGrid, dtypes: tuple[torch.dtype, ...] = (*INTEGRAL, *FLOATING)) -> None:
    if image.ndim != 4:
        raise ValueError(f"image: expected (B, C, H, W), got shape {tuple(image.shape)}")
    if image.dtype not in dtypes:
        raise TypeError(f"image: expected one of {', '.join(map(str, dtypes))}, got {image.dtype}")
    if image.shape[1] < 1:
        raise ValueError("image: expected at least 1 channel, got 0")
    if image.shape[2] != grid.height or image.shape[3] != grid.width:
        raise ValueError(
            f"image: expected the grid's {grid.height}x{grid.width} pixels, got {image.shape[2]}x{image.shape[3]}"
        )


def _channels(patches: Tensor, patch_size: int) -> int:
    """Of the images that patches are blended into, before a pixel shuffle or not."""
    scale = patch_size // patches.shape[3]
    return patches.shape[1] // (scale * scale)


def _check_out(out: Tensor, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...]) -> None:
    if out.shape != shape:
        raise ValueError(f"out: expected shape {tuple(shape)}, got {tuple(out.shape)}")
    if out.dtype not in dtypes:
        raise TypeError(f"out: expected one of {', '.join(map(str, dtypes))}, got {out.dtype}")


def _check_rows(out: Tensor, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...]) -> None:
    _check_out(out, shape, dtypes)
    if not out[:1, :1].is_contiguous():
        raise ValueError(f"out: expected rows side by side, got strides {out.stride()}")


def _check_fsrcnn(image: Tensor, weights: Tensor, scale: int) -> None:
    if image.shape[1] != 3 or 0 in image.shape[2:]:
        raise ValueError(f"image: expected (B, 3, H, W) and no empty side, got shape {tuple(image.shape)}")
    if scale not in (2, 3, 4):
        raise ValueError(f"scale: expected 2, 3 or 4, got {scale}")
    if weights.dtype != torch.float32:
        raise TypeError(f"weights: expected float32, got {weights.dtype}")
    if weights.device != image.device:
        raise ValueError(f"weights: expected device {image.device}, got {weights.device}")


def _check_index(name: str, index: Tensor, beside: Tensor) -> None:
    if index.dtype != torch.int64:
        raise TypeError(f"{name}: expected int64, got {index.dtype}")
    if index.ndim != 1:
        raise ValueError(f"{name}: expected one dimension, got shape {tuple(index.shape)}")
    if index.device != beside.device:
        raise ValueError(f"{name}: expected device {beside.device}, got {index.device}")


# --- shapes, for tracing ---


def _num_patches(image: Tensor, patch_size: int, overlap: int) -> int:
    return image.shape[0] * PatchGrid(image.shape[2], image.shape[3], patch_size, overlap).num_patches


def _empty(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool = False) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=layout)


@torch.library.register_fake("enaf_ext::edge_score")
def _(image: Tensor, patch_size: int, overlap: int) -> Tensor:
    return _empty(image, (_num_patches(image, patch_size, overlap),), torch.float32)


@torch.library.register_fake("enaf_ext::cell_details")
def _(image: Tensor) -> Tensor:
    rows, cols = ((side - 2) // CELL for side in image.shape[2:])
    return _empty(image, (image.shape[0], CELL_DETAILS, rows, cols), torch.float32, channels_last=True)


@torch.library.register_fake("enaf_ext::unfold_patches")
def _(image: Tensor, patch_size: int, overlap: int) -> Tensor:
    count = _num_patches(image, patch_size, overlap)
    return _empty(image, (count, image.shape[1], patch_size, patch_size), image.dtype)


@torch.library.register_fake("enaf_ext::gather_patches")
def _(image: Tensor, order: Tensor, patch_size: int, overlap: int, dtype: torch.dtype, channels_last: bool) -> Tensor:
    return _empty(image, (order.shape[0], image.shape[1], patch_size, patch_size), dtype, channels_last)


@torch.library.register_fake("enaf_ext::bicubic_patches")
@torch.library.register_fake("enaf_ext::fold_patches_into")
@torch.library.register_fake("enaf_ext::fsrcnn_image")
@torch.library.register_fake("enaf_ext::fsrcnn_patches")
def _(*_: object) -> None:
    return None


@torch.library.register_fake("enaf_ext::route_exits")
def _(exit_index: Tensor, num_exits: int) -> tuple[Tensor, Tensor]:
    return _empty(exit_index, (exit_index.shape[0],), torch.int64), _empty(exit_index, (num_exits + 1,), torch.int64)


@torch.library.register_fake("enaf_ext::fold_patches")
def _(
    patches: list[Tensor],
    order: Tensor | None,
    batch: int,
    height: int,
    width: int,
    patch_size: int,
    overlap: int,
    top: int,
    bottom: int,
    window: int,
    dtype: torch.dtype,
) -> Tensor:
    return _empty(patches[0], (batch, _channels(patches[0], patch_size), bottom - top, width), dtype)


# --- gradients ---


def _unfold_adjoint(grad: Tensor, shape: tuple[int, ...], patch_size: int, overlap: int) -> Tensor:
    """Gradient of `unfold_patches`: patches summed over the padded image, whose margin belongs to the edge pixels."""
    batch, _, height, width = shape
    grid = PatchGrid(height, width, patch_size, overlap)
    size = (grid.padded_height, grid.padded_width)
    padded = torch.ops.enaf_ext.fold_patches(
        [grad], None, batch, *size, patch_size, overlap, 0, size[0], WINDOWS.index("sum"), grad.dtype
    )
    rows = torch.cat([padded[:, :, : height - 1], padded[:, :, height - 1 :].sum(2, keepdim=True)], 2)
    return torch.cat([rows[..., : width - 1], rows[..., width - 1 :].sum(3, keepdim=True)], 3)


def _axis_weights(size: int, patch_size: int, overlap: int, window: str, like: Tensor) -> Tensor:
    """(count, P): weight of each pixel of each patch along an axis, 0 past the edge."""
    count = PatchGrid(size, 1, patch_size, overlap).rows
    within = torch.arange(patch_size, device=like.device)
    index = torch.arange(count, device=like.device)[:, None]
    weights = like.new_ones(count, patch_size)
    if window != "sum" and overlap > 0:
        ramp = (
            (within[:overlap].to(like.dtype) + 0.5) / overlap if window == "linear" else like.new_full((overlap,), 0.5)
        )
        ones = like.new_ones(patch_size - overlap)
        weights = torch.where(index > 0, torch.cat([ramp, ones]), weights)
        weights = weights * torch.where(index < count - 1, torch.cat([ones, 1 - ramp]), torch.ones_like(weights))
    inside = index * (patch_size - overlap) + within < size
    return weights * inside


def _setup_unfold(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    image, ctx.patch_size, ctx.overlap = inputs
    ctx.shape = image.shape


def _backward_unfold(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return _unfold_adjoint(grad, ctx.shape, ctx.patch_size, ctx.overlap), None, None


def _setup_gather(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    image, order, ctx.patch_size, ctx.overlap, _, _ = inputs
    ctx.save_for_backward(order)
    ctx.shape, ctx.dtype = image.shape, image.dtype


def _backward_gather(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (order,) = ctx.saved_tensors
    count = ctx.shape[0] * PatchGrid(ctx.shape[2], ctx.shape[3], ctx.patch_size, ctx.overlap).num_patches
    total = grad.new_zeros(count, *grad.shape[1:]).index_add(0, order, grad)
    return _unfold_adjoint(total, ctx.shape, ctx.patch_size, ctx.overlap).to(ctx.dtype), None, None, None, None, None


def _setup_fold(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    patches, order, _, ctx.height, ctx.width, ctx.patch_size, ctx.overlap, ctx.top, ctx.bottom, window, _ = inputs
    ctx.save_for_backward(*([] if order is None else [order]))
    ctx.window, ctx.side, ctx.dtype = WINDOWS[window], patches[0].shape[3], patches[0].dtype
    ctx.counts = [part.shape[0] for part in patches]


def _backward_fold(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    grad = F.pad(grad.to(ctx.dtype), (0, 0, ctx.top, ctx.height - ctx.bottom))
    patch_size, overlap = ctx.patch_size, ctx.overlap
    full = torch.ops.enaf_ext.unfold_patches(grad, patch_size, overlap)
    exact = torch.float64 if ctx.dtype == torch.float64 else torch.float32
    like = torch.empty((), dtype=exact, device=grad.device)
    rows = _axis_weights(ctx.height, patch_size, overlap, ctx.window, like)
    cols = _axis_weights(ctx.width, patch_size, overlap, ctx.window, like)
    weights = rows[:, None, :, None] * cols[None, :, None, :]
    patches = full.unflatten(0, (grad.shape[0], rows.shape[0], cols.shape[0])) * weights[None, :, :, None].to(ctx.dtype)
    patches = patches.flatten(0, 2)
    if ctx.side != patch_size:
        patches = F.pixel_unshuffle(patches, patch_size // ctx.side)
    if ctx.saved_tensors:
        patches = patches[ctx.saved_tensors[0]]
    return list(patches.split(ctx.counts)), *[None] * 10


torch.library.register_autograd("enaf_ext::unfold_patches", _backward_unfold, setup_context=_setup_unfold)
torch.library.register_autograd("enaf_ext::gather_patches", _backward_gather, setup_context=_setup_gather)
torch.library.register_autograd("enaf_ext::fold_patches", _backward_fold, setup_context=_setup_fold)
