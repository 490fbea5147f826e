# SPDX-License-Identifier: Apache-2.0
"""A copy of a module made ready for inference on one device in one arithmetic: layout, fused layers, batch size."""

from __future__ import annotations

import copy
from typing import TypeGuard

import torch
from torch import Tensor, nn

from .estimator import Estimator
from .models import Module, MultiExitNetwork, SubPixelTransposedConvolution, channels_last

WORKING_SET = {"cpu": 4 << 20, "cuda": 1 << 30}
"""Bytes that the largest feature map of a batch may take: on a CPU what stays in the cache of the cores, on a GPU what
leaves memory for everything else and fills it."""
SMALLEST_BATCH = 4

_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.PReLU)


def prepare(module: Module, device: torch.device, dtype: torch.dtype) -> Module:
    """A copy of ``module`` for inference.

    Args:
        device: where it will run.
        dtype: floating dtype of weights and features.

    Returns:
        The copy, in evaluation mode, without gradients. On a CPU in float32 or bfloat16 every convolution and the activation
        behind it are one call of oneDNN, which spares a pass over memory each and changes no bit.
    """
    module = copy.deepcopy(module).eval().requires_grad_(False)
    if device.type == "cpu" and dtype != torch.float16 and torch.backends.mkldnn.is_available():
        _fuse(module)
    return channels_last(module.to(device, dtype))


def prepare_estimator(estimator: Estimator, device: torch.device) -> Estimator:
    """``prepare`` in float32, but for the layers that may run in bfloat16, on CPUs that multiply in it: half the time, for a
    hundredth of a decibel in the gains and a few in the estimates, which themselves err by one or two. The last ones, whose
    results are logarithms far from zero, stay in float32, which takes no time and halves that."""
    prepared = prepare(estimator, device, torch.float32)
    if device.type == "cpu" and _multiplies_bfloat16():
        for name in estimator.narrow:
            layers = getattr(estimator, name)
            narrow, last = prepare(layers[:-1], device, torch.bfloat16), prepare(layers[-1:], device, torch.float32)
            setattr(prepared, name, nn.Sequential(narrow, _Float32(), last))
    return prepared


class _Float32(nn.Module):
    """From layers in half precision to one that is not."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float()


def _multiplies_bfloat16() -> bool:
    known = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return torch.backends.mkldnn.is_available() and any(supported() for supported in known if supported)


def batch_size(network: MultiExitNetwork, patch_size: int, device: torch.device) -> int:
    """Patches that a convolution sees at once: as many as keep the largest feature map within ``WORKING_SET``."""
    largest = 1

    def look(_: nn.Module, __: object, output: Tensor) -> None:
        nonlocal largest
        largest = max(largest, output.numel() * output.element_size())

    handles = [layer.register_forward_hook(look) for layer in network.modules() if not list(layer.children())]
    try:
        weight = next(network.parameters())
        patch = torch.zeros(1, 3, patch_size, patch_size, device=weight.device, dtype=weight.dtype)
        features = patch
        for depth in range(1, network.num_exits):
            features = network.stage(depth, features)
            network.tail(depth, features, patch)
    finally:
        for handle in handles:
            handle.remove()
    return max(SMALLEST_BATCH, WORKING_SET[device.type] // largest)


class _FusedConvolution(nn.Conv2d):
    """A convolution and the activation behind it as one call of oneDNN."""

    activation: str
    slope: list[float]

    @classmethod
    def of(cls, layer: nn.Conv2d | SubPixelTransposedConvolution, activation: nn.Module | None) -> _FusedConvolution:
        if isinstance(layer, SubPixelTransposedConvolution):
            layer = layer.as_convolution()
        # without memory: the weights are those of `layer`
        sizes = (layer.in_channels, layer.out_channels, layer.kernel_size[0])
        fused = cls(*sizes, layer.stride[0], int(layer.padding[0]), groups=layer.groups, device="meta")
        fused.weight, fused.bias = layer.weight, layer.bias
        fused.activation, fused.slope = "none", []
        if isinstance(activation, nn.ReLU):
            fused.activation = "relu"
        elif isinstance(activation, nn.LeakyReLU):
            fused.activation, fused.slope = "leaky_relu", [activation.negative_slope]
        elif isinstance(activation, nn.PReLU):
            fused.activation, fused.slope = "leaky_relu", [float(activation.weight)]
        return fused

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups,
            self.activation, self.slope, "",
        )  # fmt: skip


def _fuse(module: nn.Module) -> None:
    """Replaces every convolution in place, together with the activation behind it in a ``Sequential``."""
    children = list(module.named_children())
    for index, (name, layer) in enumerate(children):
        if not _is_plain_convolution(layer):
            _fuse(layer)
            continue
        behind = children[index + 1 :] if isinstance(module, nn.Sequential) else []
        if behind and isinstance(behind[0][1], nn.PixelShuffle):
            behind = behind[1:]  # moves values and leaves them as they are
        activation = None
        if behind and isinstance(behind[0][1], _ACTIVATIONS) and _is_uniform(behind[0][1]):
            activation = behind[0][1]
            setattr(module, behind[0][0], nn.Identity())
        setattr(module, name, _FusedConvolution.of(layer, activation))


def _is_plain_convolution(layer: nn.Module) -> TypeGuard[nn.Conv2d | SubPixelTransposedConvolution]:
    if isinstance(layer, SubPixelTransposedConvolution):
        return True
    return (
        type(layer) is nn.Conv2d
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and layer.kernel_size[0] == layer.kernel_size[1]
        and layer.stride[0] == layer.stride[1]
        and layer.padding[0] == layer.padding[1]
        and layer.dilation == (1, 1)
    )


def _is_uniform(activation: nn.Module) -> bool:
    """Whether it does the same to every channel."""
    return not isinstance(activation, nn.PReLU) or activation.num_parameters == 1
