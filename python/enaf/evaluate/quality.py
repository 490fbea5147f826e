# SPDX-License-Identifier: Apache-2.0
"""A routed image as pixels, and its quality."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from enaf.adaptive import AdaptiveNetwork
from enaf.exits import run_exits
from enaf.inference import prepare
from enaf.metrics import luma, psnr, ssim
from enaf_ext import ops

from .protocol import Protocol, values
from .record import BATCH, ImageRecord


@dataclass(frozen=True)
class Quality:
    """Attributes: psnr_db: over R, G and B; psnr_y_db: of Y; ssim: of Y."""

    psnr_db: float
    psnr_y_db: float
    ssim: float


@torch.inference_mode()
def render(model: AdaptiveNetwork, record: ImageRecord, exit_index: Tensor, protocol: Protocol) -> Tensor:
    """The blended image when patch n takes ``exit_index[n]``.

    Returns:
        (3, s*h, s*w) float32 on the CPU; in steps of 1/255 where the protocol compares 8-bit results.
    """
    lr = record.lr[None].to(next(model.parameters()).device)
    network = prepare(model.network, lr.device, torch.float32)
    order, offsets = ops.route_exits(exit_index.to(lr.device), network.num_exits)
    patches = run_exits(network, lr, record.grid, order, offsets.tolist(), BATCH)
    dtype = torch.uint8 if protocol.eight_bit else torch.float32
    grid = record.grid.scaled(network.scale)
    sr = ops.fold_patches(patches, grid, order, window=protocol.window(model), dtype=dtype)[0].cpu()
    return values(sr) if protocol.eight_bit else sr


def quality(sr: Tensor, hr: Tensor, protocol: Protocol, scale: int) -> Quality:
    """Compare a result with its original.

    Args:
        sr: (3, H, W) float32 in [0, 1].
        hr: (3, H, W) uint8.
        protocol: whether a border is left out.
        scale: its width in pixels.
    """
    border, original = scale if protocol.border else 0, values(hr)
    return Quality(
        psnr_db=float(psnr(sr, original, border)),
        psnr_y_db=float(psnr(luma(sr), luma(original), border)),
        ssim=ssim(sr, original, border),
    )
