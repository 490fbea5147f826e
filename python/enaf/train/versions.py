# SPDX-License-Identifier: Apache-2.0
"""Patches of photographs as other cameras would have taken them: what the estimator learns from."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from enaf.degradation import downsample

from .data import Batch, ImagePair, Pixels, upload

GUARD = 2
"""LR pixels around a patch and its margin that are cut off again, because reducing the image saw its edges there."""
SIZES = 4
"""Groups of sizes in which a photograph counts as a different one."""
SHARPENED_SHARE, NOISY_SHARE, COARSE_SHARE = 0.5, 0.7, 0.5
"""Of the versions, those whose sharpness is changed; of their patches, those that get noise, and of the versions those whose
noise is as coarse as that of cameras which smooth it."""


class VersionSampler:
    """Random patches with flips and quarter turns, each batch from versions of the photographs at a size of its own.

    Exits reach 5 dB more or less on patches that look alike, by how sharp and how noisy the photograph is that they come from,
    and a few hundred photographs are too few to learn that from (ours). So a version is resized, sharpened or blurred, and
    noise is added, all of them at random and before it is reduced. Batch ``step`` depends on the seed and ``step`` alone.

    Args:
        pairs: the photographs; a patch comes from one with probability proportional to its number of pixels.
        share: of the batches that come from versions; the others from the photographs themselves.
        low, high: of the factor by which a version is resized, log-uniform.
        sharpness: largest weight of what a version's details, finer than two pixels or so, are changed by.
        noise: largest standard deviation of the noise, in 8-bit levels.
        patch_size: side of the LR patch in pixels.
        scale: upscaling factor.
        margin: LR pixels of surroundings on every side.
        seed: of the whole sequence.
        device: where the images are kept and the patches are made.
    """

    def __init__(
        self,
        pairs: list[ImagePair],
        share: float,
        low: float,
        high: float,
        sharpness: float,
        noise: float,
        patch_size: int,
        scale: int,
        margin: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.share, self.low, self.high, self.sharpness, self.noise = share, low, high, sharpness, noise
        self.patch_size, self.scale, self.margin, self.seed, self.device = patch_size, scale, margin, seed, device
        self.sizes = np.array([pair.hr.shape[-2:] for pair in pairs])
        self.hr = Pixels(torch.from_numpy(self.sizes), device)
        for index, pair in enumerate(pairs):
            self.hr.put(index, pair.hr.to(device))
        self.cumulative = np.cumsum(self.sizes.prod(axis=1, dtype=np.float64))

    def batch(self, step: int, size: int) -> Batch:
        """Batch ``step`` of ``size`` patches; to each ``image`` belong those of one photograph in one group of sizes."""
        generator = np.random.default_rng([self.seed, 2, step])
        is_version = generator.random() < self.share
        position = generator.random()
        factor = self.low * (self.high / self.low) ** position if is_version else 1.0
        side = self.scale * (self.patch_size + 2 * (self.margin + GUARD))
        seen = max(1, round(side / factor))
        image = np.searchsorted(self.cumulative, generator.random(size) * self.cumulative[-1], side="right")
        image = np.minimum(image, len(self.sizes) - 1)
        top, left = generator.integers(np.maximum(self.sizes[image] - seen, 0) + 1).T
        drawn = np.stack([image, top, left, generator.integers(8, size=size)])
        photograph, row, column, symmetry = upload(drawn, self.device)
        hr = self.hr.crop(photograph, row, column, symmetry, seen).mul_(255)
        if is_version:
            hr = self._version(F.interpolate(hr, (side, side), mode="bicubic", antialias=True), generator)
        hr = hr.round_().clamp_(0, 255).to(torch.uint8)
        group = 1 + min(SIZES - 1, int(SIZES * position)) if is_version else 0
        lr, inner = downsample(hr, self.scale), self.scale * (self.margin + GUARD)
        return Batch(
            _unit(lr[..., GUARD : lr.shape[2] - GUARD, GUARD : lr.shape[3] - GUARD]),
            _unit(hr[..., inner : side - inner, inner : side - inner]),
            photograph * (SIZES + 1) + group,
            torch.ones(size, device=hr.device),
        )

    def _version(self, hr: Tensor, generator: np.random.Generator) -> Tensor:
        """Patches (n, 3, S, S) in 8-bit levels, sharpened or blurred, with noise."""
        size = len(hr)
        if generator.random() < SHARPENED_SHARE:
            weight = generator.uniform(-self.sharpness, self.sharpness, size)
            hr = hr + self._each(weight) * (hr - _smooth(hr))
        noise = torch.randn(hr.shape, generator=torch.Generator().manual_seed(int(generator.integers(1 << 31))))
        if generator.random() < COARSE_SHARE:
            noise = _smooth(noise).mul_(8 / 3)  # as strong as before
        deviation = generator.uniform(0, self.noise, size) * (generator.random(size) < NOISY_SHARE)
        return hr + self._each(deviation) * noise.to(hr.device)

    def _each(self, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Tensor:
        return upload(values.astype(np.float32), self.device).view(-1, 1, 1, 1)


def _smooth(images: Tensor) -> Tensor:
    """The mean of 3x3 pixels with weights 1 2 1 along both axes, of which white noise keeps 3/8."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    rows = padded[:, :, :-2].add(padded[:, :, 2:]).add_(padded[:, :, 1:-1], alpha=2)
    return rows[..., :-2].add(rows[..., 2:]).add_(rows[..., 1:-1], alpha=2).div_(16)


def _unit(images: Tensor) -> Tensor:
    return (images.float() / 255).contiguous(memory_format=torch.channels_last)
