# SPDX-License-Identifier: Apache-2.0
"""Every patch through the network to its own exit, and no further."""

from __future__ import annotations

import torch
from torch import Tensor

from enaf_ext import ops
from enaf_ext.grid import PatchGrid

from .models import MultiExitNetwork


def empty_patches(network: MultiExitNetwork, count: int, patch_size: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Room for the results of ``count`` patches, channels_last, in the layout of the network's tails."""
    scale = network.scale
    channels, side = (3, scale * patch_size) if network.shuffled else (3 * scale * scale, patch_size)
    shape = (count, channels, side, side)
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=torch.channels_last)


def run_exits(
    network: MultiExitNetwork,
    rgb: Tensor,
    grid: PatchGrid,
    order: Tensor,
    running: list[int],
    batch: int,
    patches: Tensor,
) -> None:
    """Fills ``patches`` with every patch's result.

    Args:
        network: prepared for its device and dtype.
        rgb: (B, 3, H, W), an image of any dtype.
        grid: over ``rgb``.
        order: (M,) int64, patches by descending exit, as ``ops.route_exits`` gives them.
        running: E+1 integers, how many patches reach each depth.
        batch: patches that a convolution sees at once.
        patches: ``empty_patches`` for M, in the order of ``order``.
    """
    dtype = patches.dtype
    for start in range(0, running[1], batch):
        stop = min(start + batch, running[1])
        features = lr = ops.gather_patches(rgb, grid, order[start:stop], dtype=dtype, channels_last=True)
        for depth in range(1, network.num_exits):
            active = min(running[depth], stop) - start
            if active <= 0:
                break
            features = network.stage(depth, features[:active])
            staying = max(0, min(running[depth + 1], stop) - start)
            if staying < active:
                patches[start + staying : start + active] = network.tail(depth, features[staying:], lr[staying:active])
    if running[1] < running[0]:
        patches[running[1] :] = ops.bicubic_patches(
            rgb, grid, order[running[1] :], network.scale, dtype=dtype, channels_last=True, shuffled=network.shuffled
        )


def redo_overflows(
    exact: MultiExitNetwork,
    rgb: Tensor,
    grid: PatchGrid,
    order: Tensor,
    running: list[int],
    batch: int,
    patches: Tensor,
) -> None:
    """Runs the patches again in float32 that half precision left with a value that is not finite.

    Args:
        exact: the same network in float32.
        patches: results in half precision, mended in place. The rest as for ``run_exits``.

    Waits for the device once: to learn that there are none.
    """
    finite = patches.sum(dim=(1, 2, 3), dtype=torch.float32).isfinite()
    chosen = (~finite).nonzero().flatten()
    if len(chosen) == 0:
        return
    reached = [int((chosen < count).sum()) for count in running]
    again = empty_patches(exact, len(chosen), grid.patch_size, patches, torch.float32)
    run_exits(exact, rgb, grid, order[chosen], reached, batch, again)
    patches[chosen] = again.clamp_(0, 1).to(patches.dtype)  # as every result is in the end
