# SPDX-License-Identifier: Apache-2.0
"""Every patch through the network to its own exit, and no further."""

from __future__ import annotations

import torch
from torch import Tensor

from enaf_ext import ops
from enaf_ext.grid import PatchGrid

from .fused import FusedNetwork
from .inference import image_dtype
from .models import MultiExitNetwork
from .pixels import pixel_shuffle
from .workspace import Room


def run_exits(
    network: MultiExitNetwork, rgb: Tensor, grid: PatchGrid, order: Tensor, running: list[int], batch: int,
    fused: FusedNetwork | None = None, room: Room | None = None, whole: Tensor | None = None,
) -> list[Tensor]:  # fmt: skip
    """Every patch's result, as the network's tails leave it, or as pixels where it is ``fused``.

    Args:
        network: prepared for its device and dtype.
        rgb: (B, 3, H, W), an image of any dtype.
        grid: over ``rgb``.
        order: (M,) int64, patches by descending exit, as ``ops.route_exits`` gives them.
        running: E+1 integers, how many patches reach each depth.
        batch: patches that a convolution sees at once.
        fused: the same network as one operator, which then runs in its place.
        room: where the results of ``fused`` are put.
        whole: (B, 3, s*H, s*W), what patches become that take no exit here, instead of bicubic: they went through one together.

    Returns:
        Tensors of the network's ``image_dtype``, channels_last (contiguous where ``fused`` or shuffled here), that together hold
        M patches in the order of ``order``: where they were made, because a copy into one would cost as much as their blend.
    """
    dtype, rest = image_dtype(network.dtype), order[running[1] :]
    if fused is not None:
        side = network.scale * grid.patch_size
        made = running[0] if whole is None else running[1]
        results = (room or Room(rgb.device)).empty((made, 3, side, side), dtype)
        fused.patches(rgb, grid, order[: running[1]], torch.tensor(running), out=results[: running[1]])
        if whole is None:
            ops.bicubic_patches(rgb, grid, rest, network.scale, out=results[running[1] :])
            return [results]
        parts = [results]
    else:
        parts = _layer_by_layer(network, rgb, grid, order, running, batch, dtype)
        if whole is not None and not network.shuffled:
            parts = [pixel_shuffle(part, network.scale) for part in parts]
    if len(rest) == 0:
        return parts
    if whole is None:
        others = ops.bicubic_patches(
            rgb, grid, rest, network.scale, dtype=dtype, channels_last=True, shuffled=network.shuffled
        )
    else:
        last = network.shuffled and fused is None
        scaled = grid.scaled(network.scale)
        others = ops.gather_patches(whole, scaled, rest, dtype=dtype, channels_last=last)
    return [*parts, others]


def _layer_by_layer(
    network: MultiExitNetwork, rgb: Tensor, grid: PatchGrid, order: Tensor, running: list[int], batch: int,
    dtype: torch.dtype,
) -> list[Tensor]:  # fmt: skip
    """The patches that take learned exits, ``batch`` of them at a time through stage after stage."""
    parts: list[Tensor] = []
    for start in range(0, running[1], batch):
        stop = min(start + batch, running[1])
        features = lr = ops.gather_patches(rgb, grid, order[start:stop], dtype=dtype, channels_last=True)
        leaving: list[Tensor] = []
        for depth in range(1, network.num_exits):
            active = min(running[depth], stop) - start
            if active <= 0:
                break
            features = network.stage(depth, features[:active])
            staying = max(0, min(running[depth + 1], stop) - start)
            if staying < active:
                leaving.append(network.tail(depth, features[staying:], lr[staying:active]).to(dtype))
        parts += reversed(leaving)  # who stays longest comes first
    return parts


def redo_overflows(
    exact: MultiExitNetwork,
    rgb: Tensor,
    grid: PatchGrid,
    order: Tensor,
    running: list[int],
    batch: int,
    parts: list[Tensor],
) -> None:
    """Runs the patches again in float32 that float16 left with a value that is not finite.

    Args:
        exact: the same network in float32.
        parts: results in float16, mended in place. The rest as for ``run_exits``.

    Waits for the device once: to learn that there are none.
    """
    finite = torch.cat([part.sum(dim=(1, 2, 3), dtype=torch.float32).isfinite() for part in parts])
    chosen = (~finite).nonzero().flatten()
    if len(chosen) == 0:
        return
    reached = [int((chosen < count).sum()) for count in running]
    again = torch.cat(run_exits(exact, rgb, grid, order[chosen], reached, batch))
    if again.shape[1] != parts[0].shape[1]:  # fused results are pixels
        again = pixel_shuffle(again, exact.scale)
    again = again.clamp_(0, 1).to(parts[0].dtype)  # as every result is in the end
    first = 0
    for part in parts:
        here = (chosen >= first) & (chosen < first + len(part))
        part[chosen[here] - first] = again[here]
        first += len(part)
