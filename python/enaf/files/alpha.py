# SPDX-License-Identifier: Apache-2.0
"""Opacity: upscaled apart from the colours, without their bleeding into each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

REACH = 16
"""Pixels over which colours spread below full transparency: as far as a patch's network looks."""


def fill_hidden(colours: Tensor, alpha: Tensor) -> Tensor:
    """Gives fully transparent pixels the colours of their visible neighbours. Ours.

    What stands below full transparency is arbitrary, often black, and would bleed into the visible edge when it is
    upscaled. Step by step, a pixel without a colour takes the mean of those of its eight neighbours that have one, up to
    `REACH` pixels from the edge; further in, colours stay. Visible pixels never change.

    Args:
        colours: (C, H, W), uint8, uint16 or float32.
        alpha: (1, H, W), same dtype; 0 is fully transparent.

    Returns:
        (C, H, W), same dtype. A row depends on the `REACH` rows above and below it.
    """
    known = (alpha != 0).float() if alpha.is_floating_point() else (alpha.int() != 0).float()
    if known.all():
        return colours
    work = torch.cat([colours.float() * known, known])[:, None]
    for _ in range(REACH):
        spread = F.avg_pool2d(work, 3, stride=1, padding=1) * 9
        new = (work[-1:] == 0) & (spread[-1:] > 0.5)
        work = torch.where(new, torch.cat([spread[:-1] / spread[-1:].clamp(min=1), new.float()]), work)
    filled = (work[-1] != 0) & (known == 0)
    values = work[:-1, 0] if colours.is_floating_point() else work[:-1, 0].round()
    return (
        torch.where(filled, values, colours.float())
        .to(torch.float32 if colours.is_floating_point() else torch.int32)
        .to(colours.dtype)
    )


def within_neighbourhood(sr: Tensor, lr: Tensor, top: int, scale: int) -> Tensor:
    """Limits upscaled opacity to the range of the 3x3 LR pixels around it. Ours.

    What is opaque stays opaque, what is transparent stays transparent, and edges do not ring.

    Args:
        sr: (1, n, scale * W), rows of the upscaled opacity from row `top` on.
        lr: (1, H, W), the whole opacity, same dtype.
        top: first row of `sr` in the upscaled image.
        scale: the upscaling factor.

    Returns:
        (1, n, scale * W), same dtype.
    """
    bottom = top + sr.shape[1]
    first, last = top // scale, -(-bottom // scale)
    above, below = max(0, first - 1), min(lr.shape[1], last + 1)
    near = lr[:, above:below].float()[None]
    high, low = F.max_pool2d(near, 3, 1, 1)[0], -F.max_pool2d(-near, 3, 1, 1)[0]
    rows = torch.arange(top, bottom) // scale - above
    limits = [bound[:, rows].repeat_interleave(scale, dim=2) for bound in (low, high)]
    clamped = torch.minimum(torch.maximum(sr.float(), limits[0]), limits[1])
    return clamped.to(sr.dtype) if sr.is_floating_point() else clamped.to(torch.int32).to(sr.dtype)
