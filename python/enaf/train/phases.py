# SPDX-License-Identifier: Apache-2.0
"""What each phase trains, on which loss, with which rates (paper, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from enaf.metrics import psnr
from enaf.models import MultiExitNetwork

from .config import TrainConfig
from .data import ImagePair, PatchSampler
from .trainer import Phase


def _pixel_loss(sr: Tensor, hr: Tensor, squared: bool) -> Tensor:
    """Mean absolute error, or the root of each patch's mean squared error, which leads to the same scale of gradients."""
    if not squared:
        return (sr - hr).abs().mean()
    return (sr - hr).square().mean(dim=(1, 2, 3)).add(1e-8).sqrt().mean()


def _channels_last(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    lr, hr = batch
    return lr.contiguous(memory_format=torch.channels_last), hr.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def exit_psnr(network: MultiExitNetwork, pairs: list[ImagePair], depths: list[int]) -> dict[str, float]:
    """Mean PSNR of some exits over whole images, untiled, border of ``scale`` pixels left out."""
    sums = dict.fromkeys(depths, 0.0)
    for pair in pairs:
        lr = (pair.lr.float() / 255)[None].contiguous(memory_format=torch.channels_last)
        hr = (pair.hr.float() / 255)[None]
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
        lr, hr = _channels_last(sampler.batch(step, config.backbone_batch))
        return _pixel_loss(network.exit(last, lr), hr, squared=step >= switch)

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
        lr, hr = _channels_last(sampler.batch(config.backbone_steps + step, config.exits_batch))
        squared = step >= switch
        return torch.stack([_pixel_loss(sr, hr, squared) for sr in network(lr)]).sum()

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
