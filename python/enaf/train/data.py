# SPDX-License-Identifier: Apache-2.0
"""Training data: a folder of images, resident in memory as pairs of high and low resolution, sampled as patches."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from enaf.degradation import downsample, resize

log = logging.getLogger(__name__)
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}


@dataclass(frozen=True)
class ImagePair:
    """One image: ``hr`` (3, s*H, s*W) and ``lr`` (3, H, W), uint8."""

    name: str
    hr: Tensor
    lr: Tensor


def read_rgb(path: Path) -> Tensor:
    """An image file as (3, H, W) uint8 RGB."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def make_pair(name: str, hr: Tensor, scale: int) -> ImagePair:
    """Crop ``hr`` to multiples of ``scale`` and degrade it."""
    height, width = (side - side % scale for side in hr.shape[-2:])
    hr = hr[:, :height, :width].contiguous()
    return ImagePair(name, hr, downsample(hr, scale))


def list_images(folder: Path) -> list[Path]:
    """Image files below ``folder``, sorted by path.

    Raises:
        ValueError: the folder does not exist or holds no image.
    """
    if not folder.is_dir():
        raise ValueError(f"data: expected a folder, got {folder}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"data: no image ({', '.join(sorted(SUFFIXES))}) below {folder}")
    return paths


def manifest_hash(paths: list[Path]) -> str:
    """SHA-256 over the names and contents of the files: tells whether two runs saw the same data."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def hold_out(paths: list[Path], count: int) -> tuple[list[Path], list[Path]]:
    """(training, validation): ``count`` images, evenly spread over the list, are kept from training."""
    if not 0 < count < len(paths):
        raise ValueError(f"validation_images: expected 1 to {len(paths) - 1} of {len(paths)} images, got {count}")
    step = len(paths) // count
    validation = paths[step // 2 :: step][:count]
    return [path for path in paths if path not in set(validation)], validation


def load_pairs(paths: list[Path], scale: int, patch_size: int = 1) -> list[ImagePair]:
    """Read and degrade images; unreadable and too small ones are named in the log and left out.

    Raises:
        ValueError: no usable image is left.
    """
    pairs = []
    for path in paths:
        try:
            hr = read_rgb(path)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            log.warning("left out, unreadable: %s (%s)", path, error)
            continue
        if min(hr.shape[-2:]) < patch_size * scale:
            log.warning("left out, smaller than a patch of %d pixels: %s", patch_size * scale, path)
            continue
        pairs.append(make_pair(path.name, hr, scale))
    if not pairs:
        raise ValueError(f"data: none of the {len(paths)} images is usable")
    return pairs


def resampled(
    pairs: list[ImagePair], scale: int, patch_size: int, low: float, high: float, seed: int
) -> list[ImagePair]:
    """One more version of each image at a random size between ``low`` and ``high`` (log-uniform).

    Large photographs are softer than small ones; enlarged versions stand for them, reduced ones for fine texture.
    """
    generator = np.random.default_rng([seed, 1])
    result = []
    for pair in pairs:
        factor = float(np.exp(generator.uniform(np.log(low), np.log(high))))
        height, width = (max(patch_size * scale, round(side * factor)) for side in pair.hr.shape[-2:])
        result.append(make_pair(pair.name, resize(pair.hr, height, width), scale))
    return result


class PatchSampler:
    """Random patches with flips and quarter turns. Batch ``step`` depends on the seed and ``step`` alone, so that a
    resumed run sees what an uninterrupted one would have seen.

    Args:
        groups: lists of pairs; a patch comes from group g with probability ``shares[g]`` and, inside it, from an image
            with probability proportional to its number of pixels.
        shares: one per group, summing to one.
        patch_size: side of the LR patch in pixels.
        scale: upscaling factor.
        seed: of the whole sequence.
        margin: LR pixels of surroundings to add on every side (edge pixels repeated outside the image).
    """

    def __init__(
        self,
        groups: list[list[ImagePair]],
        shares: list[float],
        patch_size: int,
        scale: int,
        seed: int,
        margin: int = 0,
    ) -> None:
        self.pairs = [pair for group in groups for pair in group]
        weights = [
            np.array([pair.lr[0].numel() for pair in group], dtype=np.float64) * share
            for group, share in zip(groups, shares, strict=True)
        ]
        sums = [weight.sum() / max(share, 1e-12) for weight, share in zip(weights, shares, strict=True)]
        probabilities = np.concatenate([weight / total for weight, total in zip(weights, sums, strict=True)])
        self.cumulative = np.cumsum(probabilities / probabilities.sum())
        self.patch_size, self.scale, self.seed, self.margin = patch_size, scale, seed, margin

    def images(self, step: int, size: int) -> npt.NDArray[np.int64]:
        """Which image each patch of ``batch(step, size)`` comes from."""
        return self._images(np.random.default_rng([self.seed, 2, step]), size)

    def _images(self, generator: np.random.Generator, size: int) -> npt.NDArray[np.int64]:
        drawn = np.searchsorted(self.cumulative, generator.random(size) * self.cumulative[-1], side="right")
        return np.minimum(drawn, len(self.pairs) - 1)

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """LR (size, 3, P+2m, P+2m) and HR (size, 3, s*P, s*P), float32 in [0, 1]."""
        generator = np.random.default_rng([self.seed, 2, step])
        lr_patches: list[Tensor] = []
        hr_patches: list[Tensor] = []
        for image in self._images(generator, size):
            lr, hr = self._crop(self.pairs[image], generator)
            turns, flip = int(generator.integers(4)), bool(generator.integers(2))
            for patch, patches in ((lr, lr_patches), (hr, hr_patches)):
                patch = patch.flip(-1) if flip else patch
                patches.append(patch.rot90(turns, (-2, -1)))
        return torch.stack(lr_patches).float().div_(255), torch.stack(hr_patches).float().div_(255)

    def _crop(self, pair: ImagePair, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        height, width = pair.lr.shape[-2:]
        size, scale, margin = self.patch_size, self.scale, self.margin
        y, x = int(generator.integers(height - size + 1)), int(generator.integers(width - size + 1))
        hr = pair.hr[:, y * scale : (y + size) * scale, x * scale : (x + size) * scale]
        if margin == 0:
            return pair.lr[:, y : y + size, x : x + size], hr
        rows = torch.arange(y - margin, y + size + margin).clamp_(0, height - 1)
        columns = torch.arange(x - margin, x + size + margin).clamp_(0, width - 1)
        return pair.lr[:, rows][:, :, columns], hr
