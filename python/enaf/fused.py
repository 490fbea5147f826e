# SPDX-License-Identifier: Apache-2.0
"""Networks for which there are operators that run all of their layers at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import NamedTuple

import torch
from torch import Tensor, nn

from enaf_ext import ops

from .models import MultiExitNetwork
from .models.fsrcnn import FSRCNN


class FusedNetwork(NamedTuple):
    """A network as operators that run all of its layers at once.

    Attributes:
        patches: (image, grid, order, offsets, out=...) -> pixels (len(order), 3, s*P, s*P) of the named patches at their exits,
            in ``out``, as ``enaf_ext.ops.fsrcnn_patches``.
        image: (image, exit=..., rows=(top, bottom), dtype=...) -> these LR rows of an exit, as ``enaf_ext.ops.fsrcnn_image``;
            None where the layers do that.
    """

    patches: Callable[..., Tensor]
    image: Callable[..., Tensor] | None


def fused(network: MultiExitNetwork, device: torch.device, dtype: torch.dtype) -> FusedNetwork | None:
    """The operators for a network as it was trained, on a device and in an arithmetic; None where there are none."""
    if not isinstance(network, FSRCNN) or not _pays(device, dtype):
        return None
    if any(layer.num_parameters > 1 for layer in network.modules() if isinstance(layer, nn.PReLU)):
        return None
    weights = flat_weights(network).to(device)
    on_cpu = device.type == "cpu"
    return FusedNetwork(
        patches=partial(ops.fsrcnn_patches, weights=weights, scale=network.scale),
        image=partial(ops.fsrcnn_image, weights=weights, scale=network.scale) if on_cpu else None,
    )


def _pays(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the operators are faster than the layers. On CUDA nobody has measured it: there one has to ask for them."""
    if device.type == "cuda":
        asked = os.environ.get("ENAF_FUSED_CUDA") == "1"
        return asked and dtype == torch.float16 and torch.cuda.get_device_capability(device) >= (8, 0)
    wide = device.type == "cpu" and import_module("enaf_ext._C").cpu_instructions() != "baseline"
    return wide and dtype == torch.float32  # below AVX2 the layers are faster


@torch.no_grad()
def flat_weights(network: FSRCNN) -> Tensor:
    """All weights as ``ops.fsrcnn_patches`` takes them."""
    layers: list[tuple[nn.Module, nn.Module | None]] = [
        (network.head[0], network.head[1]),
        (network.shrink[0], network.shrink[1]),
    ]
    layers += [(layer, None) for layer in network.mapping[:-1]]
    layers += [(network.mapping[-1], network.mapping_activation)]
    for tail in network.early_exits:
        hidden, activation, upsample = tail.children()
        layers += [(hidden, activation), (upsample, None)]
    layers += [(network.expand[0], network.expand[1]), (network.upsample, None)]
    return torch.cat([part.float().flatten() for layer, activation in layers for part in _flat(layer, activation)])


def _flat(layer: nn.Module, activation: nn.Module | None) -> tuple[Tensor, Tensor, Tensor]:
    """Weights with the outputs last, biases, and the slope of the activation behind them."""
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    assert layer.bias is not None
    order = (0, 2, 3, 1) if isinstance(layer, nn.ConvTranspose2d) else (1, 2, 3, 0)
    slope = torch.ones(1)
    if isinstance(activation, nn.PReLU):
        slope = activation.weight
    elif isinstance(activation, nn.LeakyReLU):
        slope = torch.tensor([activation.negative_slope])
    return layer.weight.permute(order), layer.bias, slope
