# SPDX-License-Identifier: Apache-2.0
"""What each phase trains, on which loss, with which rates (paper, section 3.2)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from enaf.adaptive import AdaptiveNetwork
from enaf.cost import relative_cost
from enaf.decision import BLANK_THRESHOLD
from enaf.estimator import CELL, ExitTargets
from enaf.metrics import psnr
from enaf.models import MultiExitNetwork
from enaf_ext import ops
from enaf_ext.grid import PatchGrid

from . import parallel
from .config import TrainConfig
from .data import Batch, ImagePair, PatchSampler, upload
from .symmetry import SYMMETRIES, mirrored
from .trainer import Phase
from .versions import VersionSampler


def _pixel_loss(sr: Tensor, hr: Tensor, weight: Tensor | None) -> Tensor:
    """Mean absolute error (equation 5), or with the weights (N,) of the patches their mean squared error."""
    if weight is None:
        return (sr - hr).abs().mean()
    return ((sr - hr).square().mean(dim=(1, 2, 3)) * weight).mean()


def _tails(network: MultiExitNetwork, lr: Tensor, shallowest: int) -> list[Tensor]:
    """Learned exits from ``shallowest`` on, laid out as ``network.shuffled`` says."""
    outputs, features = [], lr
    for depth in range(1, network.num_exits):
        features = network.stage(depth, features)
        if depth >= shallowest:
            outputs.append(network.tail(depth, features, lr))
    return outputs


def _pixel_phase(
    config: TrainConfig,
    model: AdaptiveNetwork,
    sampler: PatchSampler,
    validation: list[ImagePair],
    name: str,
    weights: list[float],
    parameter_groups: list[dict[str, Any]],
    first_batch: int,
) -> Phase:
    """A phase on the pixels of the deepest ``len(weights)`` exits, with these weights of their losses."""
    network = model.network
    steps, size = (getattr(config, f"{name}_{number}") for number in ("steps", "batch"))
    shallowest, part = network.num_exits - len(weights), parallel.part(size, f"{name}_batch")
    device = next(network.parameters()).device.type

    def losses(lr: Tensor, hr: Tensor, weight: Tensor | None) -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=config.precision == "bfloat16"):
            outputs = _tails(network, lr, shallowest)
        errors = (_pixel_loss(sr.float(), hr, weight) for sr in outputs)
        return torch.stack([share * error for share, error in zip(weights, errors, strict=True)]).sum()

    run = torch.compile(losses) if config.compile else losses

    def loss(batch: Batch, step: int) -> Tensor:
        # shuffling the target once is cheaper than shuffling every output and its gradient
        hr = batch.hr if network.shuffled else F.pixel_unshuffle(batch.hr, network.scale)
        return run(batch.lr, hr, batch.weight if config.loss == "psnr" else None)

    return Phase(
        name=name,
        steps=steps,
        parameter_groups=parameter_groups,
        batch=lambda step: sampler.batch(first_batch + step, size, part),
        loss=loss,
        validate=lambda average: exit_psnr(average.network, validation, shallowest),
        selects=f"psnr_exit_{network.num_exits - 1}",
    )


@torch.no_grad()
def exit_psnr(network: MultiExitNetwork, pairs: list[ImagePair], shallowest: int = 1) -> dict[str, float]:
    """Mean PSNR of the learned exits from ``shallowest`` on over whole images, untiled, border of ``scale`` pixels left out."""
    device = next(network.parameters()).device
    depths = range(shallowest, network.num_exits)
    sums = torch.zeros(len(depths), dtype=torch.float64, device=device)
    for pair in pairs[parallel.rank() :: parallel.world_size()]:
        lr, hr = (image[None].to(device).float() / 255 for image in (pair.lr, pair.hr))
        outputs = _tails(network, lr.contiguous(memory_format=torch.channels_last), shallowest)
        sums += torch.stack([psnr(network.pixels(output), hr, network.scale)[0] for output in outputs])
    parallel.add(sums)
    return {f"psnr_exit_{depth}": total / len(pairs) for depth, total in zip(depths, sums.tolist(), strict=True)}


def backbone_phase(
    config: TrainConfig, model: AdaptiveNetwork, sampler: PatchSampler, validation: list[ImagePair]
) -> Phase:
    """Phase 1 (equation 5): the published network alone."""
    groups = [{"params": model.network.backbone_parameters(), "lr": config.backbone_learning_rate}]
    return _pixel_phase(config, model, sampler, validation, "backbone", [1.0], groups, 0)


def exits_phase(
    config: TrainConfig, model: AdaptiveNetwork, sampler: PatchSampler, validation: list[ImagePair]
) -> Phase:
    """Phase 2 (equation 6): all learned exits, the pre-trained parts at their own, smaller rate."""
    pretrained = model.network.backbone_parameters()
    known = {id(parameter) for parameter in pretrained}
    groups = [
        {"params": [p for p in model.network.parameters() if id(p) not in known], "lr": config.exits_learning_rate},
        {"params": pretrained, "lr": config.exits_backbone_learning_rate},
    ]
    weights = [1.0] * (model.network.num_exits - 2) + [config.exits_full_weight]
    first = config.backbone_steps
    return _pixel_phase(config, model, sampler, validation, "exits", weights, groups, first)


@torch.no_grad()
def measure_exits(
    network: MultiExitNetwork, sampler: PatchSampler | VersionSampler, count: int, batch: int = 32, quiet: bool = False
) -> tuple[Tensor, ExitTargets]:
    """Run every exit on ``count`` patches: their LR pixels (n, 3, P+2m, P+2m) uint8, and what the exits reach.

    The processes share the work; each gets all of the result.
    """
    device = next(network.parameters()).device
    margin, size, exits = sampler.margin, sampler.patch_size, network.num_exits
    lr_all = torch.zeros(count, 3, size + 2 * margin, size + 2 * margin, dtype=torch.uint8, device=device)
    psnr_all, edges = torch.zeros(count, exits, device=device), torch.zeros(count, device=device)
    cells = torch.zeros(count, exits, size // CELL, size // CELL, device=device)
    images = torch.zeros(count, dtype=torch.int64, device=device)
    starts = range(parallel.rank() * batch, count, parallel.world_size() * batch)
    for start in tqdm(starts, desc="exits of the estimator's patches", disable=quiet, mininterval=1.0):
        chosen = slice(start, min(start + batch, count))
        patches = sampler.batch(start // batch, chosen.stop - start)
        images[chosen] = patches.image
        lr_all[chosen] = (patches.lr * 255).round().to(torch.uint8)
        inner = lr_all[chosen, :, margin : margin + size, margin : margin + size].contiguous()
        edges[chosen] = ops.edge_score(inner, PatchGrid(size, size, size, 0))
        lr = (inner.float() / 255).contiguous(memory_format=torch.channels_last)
        for depth, sr in enumerate([network.exit(0, lr), *network(lr)]):
            error = (sr - patches.hr).square().mean(dim=1, keepdim=True)
            cells[chosen, depth] = F.avg_pool2d(error, CELL * network.scale)[:, 0]
            psnr_all[chosen, depth] = psnr(sr, patches.hr, network.scale).clamp(max=60).float()
    parallel.add(lr_all, psnr_all, edges, cells, images)  # what other processes measured is zero here
    targets = ExitTargets(
        psnr_db=psnr_all,
        cell_error=cells,
        image_error=_image_error(cells[:, -1].mean(dim=(1, 2)).cpu(), images.cpu()).to(device),
        blank=(edges <= BLANK_THRESHOLD).float(),
        cost=relative_cost(network).float().to(device),
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
    model: AdaptiveNetwork,
    sampler: VersionSampler,
    validation_sampler: PatchSampler,
    quiet: bool = False,
) -> Phase:
    """Phase 3 (equation 7): the estimator alone, on what the finished exits reach.

    ``sampler`` and ``validation_sampler`` give patches with the estimator's margin around them; the exits are run on all of
    them here, once. That is what several processes share: a step of the estimator takes less time than sharing it would.
    """
    network, estimator = model.network, model.estimator
    count = config.estimator_patches
    patches, targets = measure_exits(network, sampler, count, quiet=quiet)
    unseen, unseen_targets = measure_exits(network, validation_sampler, max(1, count // 20), quiet=quiet)

    def batch(step: int) -> tuple[Tensor, ExitTargets]:
        generator = np.random.default_rng([config.seed, 3, step])
        chosen = upload(generator.integers(0, count, config.estimator_batch), patches.device)
        # one of the views of what was measured once: bicubic interpolation reaches the same on all of them, and a network
        # that was trained on all of them nearly so
        symmetry, reached = int(generator.integers(SYMMETRIES)), targets[chosen]
        reached = replace(reached, cell_error=mirrored(reached.cell_error, symmetry))
        return _as_input(mirrored(patches[chosen], symmetry)), reached

    def loss(batch: tuple[Tensor, ExitTargets], step: int) -> Tensor:
        torch.manual_seed(config.seed + step)  # the random eta of the regret
        return estimator.loss(*batch)

    @torch.no_grad()
    def validate(average: AdaptiveNetwork) -> dict[str, float]:
        predicted = torch.cat([average.estimator(_as_input(lr)) for lr in unseen.split(256)])
        error = (predicted - unseen_targets.psnr_db).abs().mean(dim=0)
        return {f"estimator_error_exit_{depth}": value for depth, value in enumerate(error.tolist())}

    return Phase(
        name="estimator",
        steps=config.estimator_steps,
        parameter_groups=[{"params": list(estimator.parameters()), "lr": config.estimator_learning_rate}],
        batch=batch,
        loss=loss,
        validate=validate,
    )


def _as_input(patches: Tensor) -> Tensor:
    return (patches.float() / 255).contiguous(memory_format=torch.channels_last)
