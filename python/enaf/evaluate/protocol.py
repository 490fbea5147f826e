# SPDX-License-Identifier: Apache-2.0
"""The protocol of the paper: patches of 32 every 28 pixels, the covered area only, RGB, unclamped floats, a border of
``scale`` pixels left out, LR by antialiased bicubic reduction to 8 bits, PSNR averaged over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from enaf.adaptive import AdaptiveNetwork
from enaf.cost import relative_cost
from enaf.decision import choose_exits
from enaf.degradation import downsample
from enaf.metrics import psnr
from enaf_ext import ops
from enaf_ext.grid import PatchGrid

PATCH_SIZE, OVERLAP = 32, 4
LARGEST_PSNR = 60.0
"""Patches that an exit restores better than this count as this, in dB."""


@dataclass(frozen=True)
class EvaluatedImage:
    """Everything about one image that any routing could ask for, computed once.

    Attributes:
        hr: (3, s*H, s*W) float32, the covered area.
        grid: patches over the covered LR area.
        outputs: (E, N, 3, s*P, s*P) float16, every patch through every exit. Half precision keeps a 2K image in 100 MB and
            changes a PSNR of 50 dB by less than 0.002 dB.
        psnr_db: (N, E), true PSNR of every exit on every patch, at most ``LARGEST_PSNR``.
        predicted_db: (N, E), the estimator's.
        edge_score: (N,).
    """

    hr: Tensor
    grid: PatchGrid
    outputs: Tensor
    psnr_db: Tensor
    predicted_db: Tensor
    edge_score: Tensor

    def fused_psnr(self, exit_index: Tensor, scale: int) -> float:
        """PSNR of the blended image when patch n takes ``exit_index[n]``, dB."""
        patches = self.outputs[exit_index, torch.arange(len(exit_index))].float()
        sr = ops.fold_patches(patches, self.grid.scaled(scale))[0]
        return float(psnr(sr, self.hr, scale))


@torch.inference_mode()
def evaluate_image(model: AdaptiveNetwork, hr: Tensor, batch: int = 32) -> EvaluatedImage:
    """Run every exit on every patch of one image.

    Args:
        model: on the CPU.
        hr: (3, H, W) uint8; sides are cropped to multiples of the scale, then to what whole patches cover.
        batch: patches at once.

    Raises:
        ValueError: the LR image is smaller than a patch.
    """
    network, scale = model.network, model.network.scale
    hr = hr[:, : hr.shape[1] // scale * scale, : hr.shape[2] // scale * scale]
    lr = downsample(hr, scale)
    stride = PATCH_SIZE - OVERLAP
    if min(lr.shape[-2:]) < PATCH_SIZE:
        raise ValueError(f"hr: expected at least {PATCH_SIZE * scale} pixels a side, got {tuple(hr.shape)}")
    height, width = ((side - PATCH_SIZE) // stride * stride + PATCH_SIZE for side in lr.shape[-2:])
    lr = lr[None, :, :height, :width].contiguous()
    hr = (hr[:, : height * scale, : width * scale].float() / 255).contiguous()
    grid = PatchGrid(height, width, PATCH_SIZE, OVERLAP)
    targets = ops.unfold_patches(hr[None], grid.scaled(scale))
    outputs = torch.empty((network.num_exits, *targets.shape), dtype=torch.float16)
    true_db = torch.empty((grid.num_patches, network.num_exits))
    for start in range(0, grid.num_patches, batch):
        chosen = slice(start, min(start + batch, grid.num_patches))
        order = torch.arange(chosen.start, chosen.stop)
        patches = ops.gather_patches(lr, grid, order, dtype=torch.float32, channels_last=True)
        exits = [network.exit(0, patches), *network(patches)]
        for depth, sr in enumerate(exits):
            outputs[depth, chosen] = sr.half()
            true_db[chosen, depth] = psnr(sr, targets[chosen], scale).clamp(max=LARGEST_PSNR).float()
    return EvaluatedImage(
        hr=hr,
        grid=grid,
        outputs=outputs,
        psnr_db=true_db,
        predicted_db=model.estimator.on_grid(lr.float() / 255, grid),
        edge_score=ops.edge_score(lr, grid),
    )


@dataclass(frozen=True)
class Point:
    """One setting of the fusion rule over a set of images: mean PSNR in dB, mean published cost as a share of full."""

    eta: float
    psnr_db: float
    cost: float


def sweep(
    model: AdaptiveNetwork,
    images: Sequence[EvaluatedImage],
    etas: Sequence[float],
    gamma: float = 1.0,
    oracle: bool = False,
) -> list[Point]:
    """PSNR (mean over images) and cost (mean over all patches) for each eta.

    Args:
        oracle: decide by the true PSNR instead of the predicted one and without the blank vector: the upper bound.
    """
    cost = relative_cost(model.network)
    points = []
    for eta in etas:
        total, spent, patches = 0.0, 0.0, 0
        for image in images:
            scores = image.psnr_db if oracle else image.predicted_db
            chosen = choose_exits(scores, image.edge_score, cost, eta, 0.0 if oracle else gamma)
            total += image.fused_psnr(chosen, model.network.scale)
            spent += float(cost[chosen].sum())
            patches += len(chosen)
        points.append(Point(eta, total / len(images), spent / patches))
    return points


def uniform_psnr(model: AdaptiveNetwork, images: Sequence[EvaluatedImage]) -> list[float]:
    """Mean PSNR when all patches take one exit, for each exit, dB."""
    return [
        sum(image.fused_psnr(torch.full((image.grid.num_patches,), depth), model.network.scale) for image in images)
        / len(images)
        for depth in range(model.network.num_exits)
    ]


def estimator_error(images: Sequence[EvaluatedImage]) -> list[float]:
    """Mean absolute error of the predicted PSNR over all patches, for each exit, dB."""
    errors = torch.cat([(image.predicted_db - image.psnr_db).abs() for image in images])
    return errors.mean(dim=0).tolist()


def cheapest_within(
    model: AdaptiveNetwork, images: Sequence[EvaluatedImage], target_db: float, gamma: float = 1.0, oracle: bool = False
) -> Point:
    """The cheapest setting of eta whose mean PSNR is at least ``target_db`` on a grid of 0.02 up to 3.

    Falls back to eta = 0 where no setting reaches the target.
    """
    points = sweep(model, images, [0.02 * step for step in range(151)], gamma, oracle)
    good = [point for point in points if point.psnr_db >= target_db]
    return min(good, key=lambda point: point.cost) if good else points[0]
