# SPDX-License-Identifier: Apache-2.0
"""Training data: a folder of images, read once as pairs of high and low resolution, sampled as patches where they are
needed: in the memory of the host or of the GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from enaf.degradation import downsample, resize
from enaf.image_io import ImageError, read_image
from enaf.models import bicubic

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImagePair:
    """One image: ``hr`` (3, s*H, s*W) and ``lr`` (3, H, W), uint8."""

    name: str
    hr: Tensor
    lr: Tensor


def read_rgb(path: Path) -> Tensor:
    """An image file as (3, H, W) uint8 RGB; opacity is left out.

    Raises:
        ImageError: unreadable, or not of 8 bits.
    """
    pixels = read_image(path).pixels
    if pixels.dtype != torch.uint8:
        raise ImageError(f"{path}: expected 8 bits a channel, got {str(pixels.dtype).removeprefix('torch.')}")
    colours = pixels[: 3 if len(pixels) > 2 else 1]
    return colours.expand(3, -1, -1).contiguous()


def make_pair(name: str, hr: Tensor, scale: int) -> ImagePair:
    """Crop ``hr`` to multiples of ``scale`` and degrade it on its device; the pair is kept by the host."""
    height, width = (side - side % scale for side in hr.shape[-2:])
    hr = hr[:, :height, :width].contiguous()
    return ImagePair(name, hr.cpu(), downsample(hr, scale).cpu())


def hold_out(paths: list[Path], count: int) -> tuple[list[Path], list[Path]]:
    """(training, validation): ``count`` images, evenly spread over the list, are kept from training."""
    if not 0 < count < len(paths):
        raise ValueError(f"validation_images: expected 1 to {len(paths) - 1} of {len(paths)} images, got {count}")
    step = len(paths) // count
    validation = paths[step // 2 :: step][:count]
    return [path for path in paths if path not in set(validation)], validation


def load_pairs(
    paths: list[Path], scale: int, patch_size: int = 1, device: torch.device | str = "cpu"
) -> list[ImagePair]:
    """Read images and degrade them on ``device``; unreadable and too small ones are named in the log and left out.

    Raises:
        ValueError: no usable image is left.
    """
    pairs = []
    for path in paths:
        try:
            hr = read_rgb(path)
        except ImageError as error:
            log.warning("left out, unreadable: %s", error)
            continue
        if min(hr.shape[-2:]) < patch_size * scale:
            log.warning("left out, smaller than a patch of %d pixels: %s", patch_size * scale, path)
            continue
        pairs.append(make_pair(path.name, hr.to(device), scale))
    if not pairs:
        raise ValueError(f"data: none of the {len(paths)} images is usable")
    return pairs


class Resampled:
    """One more version of each image at a random size between ``low`` and ``high`` (log-uniform), made on ``device`` while
    they are iterated over, so that they are never all in memory.

    Large photographs are softer than small ones; enlarged versions stand for them, reduced ones for fine texture.

    Attributes:
        sizes: height and width of every ``lr``.
    """

    def __init__(
        self,
        pairs: list[ImagePair],
        scale: int,
        patch_size: int,
        low: float,
        high: float,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.pairs, self.scale, self.device = pairs, scale, device
        generator = np.random.default_rng([seed, 1])
        factors = np.exp(generator.uniform(np.log(low), np.log(high), len(pairs)))
        self.sizes = [
            [max(patch_size, round(side * factor)) for side in pair.lr.shape[-2:]]
            for pair, factor in zip(pairs, factors.tolist(), strict=True)
        ]

    def __iter__(self) -> Iterator[ImagePair]:
        for pair, (height, width) in zip(self.pairs, self.sizes, strict=True):
            hr = resize(pair.hr.to(self.device), height * self.scale, width * self.scale)
            yield make_pair(pair.name, hr, self.scale)


def upload(values: npt.NDArray[Any], device: torch.device | str) -> Tensor:
    """An array on a device, without making the host wait for it."""
    tensor = torch.from_numpy(values)
    return tensor if torch.device(device).type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class Batch:
    """Patches ``lr`` (n, 3, P+2m, P+2m) and ``hr`` (n, 3, s*P, s*P), float32 in [0, 1], channels_last; the index of the
    ``image`` (n,) that each comes from, and the ``weight`` (n,) of a squared error there."""

    lr: Tensor
    hr: Tensor
    image: Tensor
    weight: Tensor

    def mixed_with(self, other: Batch, own: Tensor) -> Batch:
        """Weighted means of the patches of two batches; ``own`` (n,) is the weight of these."""

        def mean(a: Tensor, b: Tensor) -> Tensor:
            return b.lerp(a, own.view(-1, *[1] * (a.dim() - 1)))

        lr = mean(self.lr, other.lr).mul_(255).round_().div_(255)
        return Batch(lr, mean(self.hr, other.hr), self.image, mean(self.weight, other.weight))

    def recoloured(self, places: Tensor) -> Batch:
        """Channel c of patch i becomes channel ``places[i, c]`` (n, 3) of it."""
        patches = torch.arange(len(places), device=places.device)[:, None]
        lr, hr = (x[patches, places] for x in (self.lr, self.hr))
        lr, hr = (x.contiguous(memory_format=torch.channels_last) for x in (lr, hr))
        return Batch(lr, hr, self.image, self.weight)


class Pixels:
    """Images (3, H, W) uint8 behind one another in one (pixels, 3) tensor, so that a batch of crops is one indexed read."""

    def __init__(self, sizes: Tensor, device: torch.device | str) -> None:
        area = sizes.prod(dim=1)
        self.values = torch.empty(int(area.sum()), 3, dtype=torch.uint8, device=device)
        self.offset, self.height, self.width = (t.to(device) for t in (area.cumsum(0) - area, *sizes.T))

    def put(self, index: int, image: Tensor) -> None:
        """Image ``index`` of the sizes."""
        start = int(self.offset[index])
        self.values[start : start + image[0].numel()] = image.permute(1, 2, 0).reshape(-1, 3)

    def crop(self, image: Tensor, top: Tensor, left: Tensor, symmetry: Tensor, size: int, margin: int = 0) -> Tensor:
        """Squares of ``size`` and ``margin`` more on every side (edge pixels repeated outside the image).

        Bits 0 to 2 of ``symmetry`` mirror rows, mirror columns and transpose: together all flips and quarter turns.
        """
        steps = torch.arange(-margin, size + margin, device=image.device)
        mirror_rows, mirror_columns, transpose = ((symmetry >> bit & 1).bool()[:, None] for bit in range(3))

        def along(start: Tensor, mirrored: Tensor, limit: Tensor) -> Tensor:
            position = start[:, None] + torch.where(mirrored, size - 1 - steps, steps)
            return position.clamp_min(0).minimum(limit[:, None] - 1)

        rows = self.offset[image][:, None] + along(top, mirror_rows, self.height[image]) * self.width[image][:, None]
        columns = along(left, mirror_columns, self.width[image])
        upright = rows[:, :, None] + columns[:, None, :]
        index = torch.where(transpose[:, :, None], upright.mT, upright)
        patches = self.values.index_select(0, index.flatten()).view(*index.shape, 3)
        # by a tensor: dividing by a Python number, torch multiplies by its reciprocal on CUDA, and only there
        return patches.permute(0, 3, 1, 2).float().div_(torch.full((), 255.0, device=patches.device))


SMALLEST_ERROR = 1e-4
"""Mean squared error of bicubic interpolation (40 dB) below which an image weighs no more."""
UNIT_ERROR = 0.02
"""Brings the gradients of usual batches well below the norm at which they are clipped."""


class PatchSampler:
    """Random patches with flips and quarter turns. Batch ``step`` depends on the seed and ``step`` alone, so that a
    resumed run sees what an uninterrupted one would have seen, on any device.

    Quality is the mean of the images' PSNR, and d PSNR = -4.34 d MSE / MSE: a squared error in an image weighs in inverse
    proportion to the error that bicubic interpolation leaves there (ours).

    Args:
        groups: pairs; a patch comes from group g with probability ``shares[g]`` and, inside it, from an image
            with probability proportional to its number of pixels.
        shares: one per group, summing to one.
        patch_size: side of the LR patch in pixels.
        scale: upscaling factor.
        seed: of the whole sequence.
        margin: LR pixels of surroundings to add on every side (edge pixels repeated outside the image).
        device: where the images are kept and the patches are cut.
        target: (lr, hr) -> what takes the place of ``hr`` (3, s*H, s*W), uint8, in the batches; None = ``hr`` itself.
        mixed: share of the patches that are the weighted mean of two, in LR and HR alike: reducing an image is linear.
        recoloured: share of the patches whose channels change places.
    """

    def __init__(
        self,
        groups: list[list[ImagePair] | Resampled],
        shares: list[float],
        patch_size: int,
        scale: int,
        seed: int,
        margin: int = 0,
        device: torch.device | str = "cpu",
        target: Callable[[Tensor, Tensor], Tensor] | None = None,
        mixed: float = 0.0,
        recoloured: float = 0.0,
    ) -> None:
        grouped = [g.sizes if isinstance(g, Resampled) else [list(pair.lr.shape[-2:]) for pair in g] for g in groups]
        self.sizes = np.array([size for sizes in grouped for size in sizes])
        self.lr, self.hr = (Pixels(torch.from_numpy(self.sizes * factor), device) for factor in (1, scale))
        self.weight = torch.empty(len(self.sizes), device=device)
        for index, pair in enumerate(chain.from_iterable(groups)):
            lr, hr = pair.lr.to(device), pair.hr.to(device)
            self.lr.put(index, lr)
            self.hr.put(index, hr if target is None else target(lr, hr))
            error = (bicubic(lr[None].float().div_(255), scale)[0] - hr.float().div_(255)).square_().mean()
            self.weight[index] = UNIT_ERROR / (error + SMALLEST_ERROR)
        weights = [np.prod(sizes, axis=1, dtype=np.float64) for sizes in grouped]
        shared = [share * weight / weight.sum() for weight, share in zip(weights, shares, strict=True)]
        self.cumulative = np.cumsum(np.concatenate(shared))
        self.patch_size, self.scale, self.seed, self.margin = patch_size, scale, seed, margin
        self.mixed, self.recoloured = mixed, recoloured

    def batch(self, step: int, size: int, part: slice = slice(None)) -> Batch:
        """Batch ``step`` of ``size`` patches, or only the ``part`` of it that this process works on."""
        generator = np.random.default_rng([self.seed, 2, step])
        batch = self._cut(generator, size, part)
        if self.mixed > 0:
            other = self._cut(generator, size, part)
            own = np.where(generator.random(size) < self.mixed, generator.random(size), 1.0)[part]
            batch = batch.mixed_with(other, upload(own.astype(np.float32), batch.lr.device))
        if self.recoloured > 0:
            places = np.where(
                generator.random((size, 1)) < self.recoloured, generator.random((size, 3)).argsort(1), range(3)
            )
            batch = batch.recoloured(upload(np.ascontiguousarray(places[part]), batch.lr.device))
        return batch

    def _cut(self, generator: np.random.Generator, size: int, part: slice) -> Batch:
        image = np.searchsorted(self.cumulative, generator.random(size) * self.cumulative[-1], side="right")
        image = np.minimum(image, len(self.sizes) - 1)
        top, left = generator.integers(self.sizes[image] - self.patch_size + 1).T
        drawn = np.stack([image, top, left, generator.integers(8, size=size)])[:, part]
        image, top, left, symmetry = upload(np.ascontiguousarray(drawn), self.lr.values.device)
        lr = self.lr.crop(image, top, left, symmetry, self.patch_size, self.margin)
        hr = self.hr.crop(image, top * self.scale, left * self.scale, symmetry, self.patch_size * self.scale)
        return Batch(lr, hr, image, self.weight[image])
