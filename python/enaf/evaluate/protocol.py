# SPDX-License-Identifier: Apache-2.0
"""What is measured: which pixels count, at which precision, on which patches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from enaf.adaptive import AdaptiveNetwork
from enaf.degradation import downsample
from enaf_ext.grid import PatchGrid

LARGEST_PSNR = 60.0
"""Patches that an exit restores better than this count as this, in dB."""


@dataclass(frozen=True)
class Protocol:
    """How an image is cut and compared.

    Attributes:
        name: what the protocol is called.
        covered_only: drop what whole patches do not cover, on the right and at the bottom.
        border: leave out ``scale`` pixels on every side.
        eight_bit: compare 8-bit results, as they are written to files; otherwise floats, not clamped.
        patch_size, overlap: of the grid, LR pixels.
    """

    name: str
    covered_only: bool
    border: bool
    eight_bit: bool
    patch_size: int = 32
    overlap: int = 4

    def pair(self, hr: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """LR and HR of one image.

        Args:
            hr: (3, H, W) uint8.
            scale: upscaling factor; sides are cut to multiples of it.

        Returns:
            lr (3, h, w), by ``downsample`` of the whole image, and hr (3, s*h, s*w), both uint8, cut to the part that counts.

        Raises:
            ValueError: the image is too small to be compared.
        """
        smallest = scale * (self.patch_size if self.covered_only else 3)
        if min(hr.shape[-2:]) < smallest:
            raise ValueError(f"hr: expected at least {smallest} pixels a side, got {tuple(hr.shape)}")
        hr = hr[:, : hr.shape[1] // scale * scale, : hr.shape[2] // scale * scale]
        lr = downsample(hr, scale)
        if self.covered_only:
            stride = self.patch_size - self.overlap
            height, width = ((side - self.patch_size) // stride * stride + self.patch_size for side in lr.shape[-2:])
            lr, hr = lr[:, :height, :width], hr[:, : height * scale, : width * scale]
        return lr.contiguous(), hr.contiguous()

    def grid(self, lr: Tensor) -> PatchGrid:
        """The patches of an LR image (3, h, w)."""
        return PatchGrid(lr.shape[-2], lr.shape[-1], self.patch_size, self.overlap)

    def window(self, model: AdaptiveNetwork) -> str:
        """How patches are blended: by their mean, as the authors do, or as the model has it."""
        return model.window if self.eight_bit else "average"

    def describe(self) -> str:
        """The protocol in one sentence."""
        area = "the area that whole patches cover" if self.covered_only else "every pixel"
        border = "a border of `scale` pixels left out" if self.border else "no border left out"
        values = "8-bit results" if self.eight_bit else "floats, not clamped"
        return (
            f"patches of {self.patch_size} every {self.patch_size - self.overlap} LR pixels, {area}, {border}, {values}; "
            "LR by MATLAB-compatible antialiased bicubic reduction to 8 bits; means over images"
        )


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("paper", covered_only=True, border=True, eight_bit=False),
        Protocol("full", covered_only=False, border=False, eight_bit=True),
    )
}
"""``paper``: as the authors measured. ``full``: what a user gets."""

ROUNDING_ERROR = 1 / 12 / 255**2
"""Mean squared error that rounding to 8 bits adds to a result with errors of a level or more."""


def values(image: Tensor) -> Tensor:
    """uint8 as float32 in [0, 1]."""
    return image.to(torch.float32) / 255
