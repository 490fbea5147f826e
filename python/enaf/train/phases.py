# SPDX-License-Identifier: Apache-2.0
"""What each phase trains, on which loss, with which rates (paper, section 3.2)."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from enaf.cost import relative_cost
from enaf.decision import BLANK_THRESHOLD
from enaf.estimator import CELL, Estimator, ExitTargets
from enaf.metrics import psnr
from enaf.models import MultiExitNetwork
from enaf_ext import ops
from enaf_ext.grid import PatchGrid

from .config import TrainConfig
from .data import ImagePair, PatchSampler
from .trainer import Phase


def _pixel_loss(sr: Tensor, hr: Tensor, squared: bool) -> Tensor:
    """Mean absolute error, or the root of each patch's mean squared error, which leads to the same scale of gradients."""
    if not squared:
        return (sr - hr).abs().mean()
    return (sr - hr).square().mean(dim=(1, 2, 3)).add(1e-8).sqrt().mean()


def _beside(module: nn.Module, *tensors: Tensor) -> list[Tensor]:
    """Tensors on the device of a module, channels_last."""
    device = next(module.parameters()).device
    return [tensor.to(device, memory_format=torch.channels_last) for tensor in tensors]


def _autocast(config: TrainConfig, module: nn.Module) -> torch.autocast:
    """The arithmetic that ``config.precision`` asks for."""
    device = next(module.parameters()).device.type
    return torch.autocast(device, torch.bfloat16, enabled=config.precision == "bfloat16")


@torch.no_grad()
def exit_psnr(network: MultiExitNetwork, pairs: list[ImagePair], depths: list[int]) -> dict[str, float]:
    """Mean PSNR of some exits over whole images, untiled, border of ``scale`` pixels left out."""
    sums = dict.fromkeys(depths, 0.0)
    for pair in pairs:
        lr, hr = _beside(network, pair.lr[None].float() / 255, pair.hr[None].float() / 255)
        for depth in depths:
            sums[depth] += float(psnr(network.exit(depth, lr), hr, network.scale)[0])
    return {f"psnr_exit_{depth}": total / len(pairs) for depth, total in sums.items()}


def backbone_phase(
    config: TrainConfig, network: MultiExitNetwork, sampler: PatchSampler, validation: list[ImagePair]
) -> Phase:
    """Phase 1 (equation 5): the published network alone."""
    last = network.num_exits - 1
    switch = config.backbone_steps * (1 - config.backbone_l2_share)

    def loss(step: int) -> Tensor:
        lr, hr = _beside(network, *sampler.batch(step, config.backbone_batch))
        with _autocast(config, network):
            sr = network.exit(last, lr)
        return _pixel_loss(sr.float(), hr, squared=step >= switch)

    return Phase(
        name="backbone",
        steps=config.backbone_steps,
        module=network,
        parameter_groups=[{"params": network.backbone_parameters(), "lr": config.backbone_learning_rate}],
        loss=loss,
        validate=lambda average: exit_psnr(_network(average), validation, [last]),
    )


def exits_phase(
    config: TrainConfig, network: MultiExitNetwork, sampler: PatchSampler, validation: list[ImagePair]
) -> Phase:
    """Phase 2 (equation 6): all learned exits, the pre-trained parts at their own, smaller rate."""
    backbone = {id(p) for p in network.backbone_parameters()}
    early = [p for p in network.parameters() if id(p) not in backbone]
    switch = config.exits_steps * (1 - config.exits_l2_share)

    def loss(step: int) -> Tensor:
        lr, hr = _beside(network, *sampler.batch(config.backbone_steps + step, config.exits_batch))
        with _autocast(config, network):
            *early_outputs, full = network(lr)
        losses = [_pixel_loss(sr.float(), hr, squared=step >= switch) for sr in early_outputs]
        return torch.stack(losses).sum() + config.exits_full_weight * _pixel_loss(full.float(), hr, step >= switch)

    return Phase(
        name="exits",
        steps=config.exits_steps,
        module=network,
        parameter_groups=[
            {"params": early, "lr": config.exits_learning_rate},
            {"params": network.backbone_parameters(), "lr": config.exits_backbone_learning_rate},
        ],
        loss=loss,
        validate=lambda average: exit_psnr(_network(average), validation, list(range(network.num_exits))),
    )


def _network(module: nn.Module) -> MultiExitNetwork:
    assert isinstance(module, MultiExitNetwork)
    return module


@torch.no_grad()
def measure_exits(
    network: MultiExitNetwork, sampler: PatchSampler, count: int, batch: int = 32, quiet: bool = False
) -> tuple[Tensor, ExitTargets]:
    """Run every exit on ``count`` patches: their LR pixels (n, 3, P+2m, P+2m) uint8, and what the exits reach."""
    margin, size, exits = sampler.margin, sampler.patch_size, network.num_exits
    lr_all = torch.empty(count, 3, size + 2 * margin, size + 2 * margin, dtype=torch.uint8)
    psnr_all, edges = torch.empty(count, exits), torch.empty(count)
    cells = torch.empty(count, exits, size // CELL, size // CELL)
    images = torch.empty(count, dtype=torch.int64)
    for start in tqdm(range(0, count, batch), desc="exits of the estimator's patches", disable=quiet, mininterval=1.0):
        step, chosen = start // batch, slice(start, min(start + batch, count))
        lr, hr = sampler.batch(step, chosen.stop - start)
        images[chosen] = torch.from_numpy(sampler.images(step, chosen.stop - start))
        lr_all[chosen] = (lr * 255).round().to(torch.uint8)
        inner = lr_all[chosen, :, margin : margin + size, margin : margin + size].contiguous()
        edges[chosen] = ops.edge_score(inner, PatchGrid(size, size, size, 0))
        inner, hr = _beside(network, inner.float() / 255, hr)
        for depth, sr in enumerate([network.exit(0, inner), *network(inner)]):
            error = (sr - hr).square_().mean(dim=1, keepdim=True)
            cells[chosen, depth] = F.avg_pool2d(error, CELL * network.scale)[:, 0]
            psnr_all[chosen, depth] = psnr(sr, hr, network.scale).clamp(max=60).float()
    targets = ExitTargets(
        psnr_db=psnr_all,
        cell_error=cells,
        image_error=_image_error(cells[:, -1].mean(dim=(1, 2)), images),
        blank=(edges <= BLANK_THRESHOLD).float(),
        cost=relative_cost(network).float(),
    )
    return lr_all, targets


def _image_error(patch_error: Tensor, images: Tensor) -> Tensor:
    """Mean error of each patch's image from its sampled patches, two typical patches added to steady small samples."""
    zeros = torch.zeros(int(images.max()) + 1)
    counts = zeros.index_add(0, images, torch.ones_like(patch_error))
    sums = zeros.index_add(0, images, patch_error)
    typical = patch_error.clamp_min(1e-6).log().mean().exp()
    return ((sums + 2 * typical) / (counts + 2))[images]


def estimator_phase(
    config: TrainConfig,
    network: MultiExitNetwork,
    estimator: Estimator,
    sampler: PatchSampler,
    validation_sampler: PatchSampler,
    quiet: bool = False,
) -> Phase:
    """Phase 3 (equation 7): the estimator alone, on what the finished exits reach.

    ``sampler`` and ``validation_sampler`` give patches with the estimator's margin around them. The exits are run once
    for all patches, when the first step asks for them.
    """

    @cache
    def training() -> tuple[Tensor, ExitTargets]:
        return measure_exits(network.eval(), sampler, config.estimator_patches, quiet=quiet)

    @cache
    def validation() -> tuple[Tensor, ExitTargets]:
        return measure_exits(network.eval(), validation_sampler, max(1, config.estimator_patches // 20), quiet=quiet)

    def loss(step: int) -> Tensor:
        patches, targets = training()
        torch.manual_seed(config.seed + step)  # the random eta of the regret
        generator = np.random.default_rng([config.seed, 3, step])
        chosen = torch.from_numpy(generator.integers(0, len(patches), config.estimator_batch))
        (lr,) = _beside(estimator, patches[chosen].float() / 255)
        return estimator.loss(lr, targets[chosen].to(lr.device))

    @torch.no_grad()
    def validate(average: nn.Module) -> dict[str, float]:
        patches, targets = validation()
        predicted = torch.cat([average(*_beside(average, lr.float() / 255)).cpu() for lr in patches.split(256)])
        error = (predicted - targets.psnr_db).abs().mean(dim=0)
        return {f"estimator_error_exit_{depth}": float(value) for depth, value in enumerate(error)}

    return Phase(
        name="estimator",
        steps=config.estimator_steps,
        module=estimator,
        parameter_groups=[{"params": list(estimator.parameters()), "lr": config.estimator_learning_rate}],
        loss=loss,
        validate=validate,
    )
