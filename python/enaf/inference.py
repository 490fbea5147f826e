# SPDX-License-Identifier: Apache-2.0
"""A copy of a module made ready for inference on one device in one arithmetic: layout, fused layers, batch size."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from itertools import pairwise, product
from typing import TypeGuard

import torch
from torch import Tensor, nn

from .estimator import CentredConvolution, Estimator
from .models import (
    Concatenation,
    Module,
    MultiExitNetwork,
    Residual,
    SubPixelTransposedConvolution,
    channels_last,
)

WORKING_SET = {"cpu": 24 << 20, "cuda": 1 << 30}
"""Bytes that the largest feature map of a batch may take: on a CPU below the 32 MiB from which on the C library asks the
system for new pages each time, on a GPU what leaves memory for everything else and fills it."""
SMALLEST_BATCH = 4
PATCH = 32
"""LR pixels: the side of the patches, two of them, whose scores by themselves are made quick."""


def prepare(module: Module, device: torch.device, dtype: torch.dtype) -> Module:
    """A copy of ``module`` for inference.

    Args:
        device: where it will run.
        dtype: floating dtype of weights and features.

    Returns:
        The copy, in evaluation mode, without gradients and transposed convolutions. On a CPU, colours are made before a pixel
        shuffle, not behind it. In float32 or bfloat16 every convolution is one call of oneDNN together with the activation and
        the sum behind it, and nothing is concatenated. That spares passes over memory and changes no more than the order of
        sums. Layers that a network names in ``first`` and ``exact`` have the ``image_dtype``.
    """
    module = copy.deepcopy(module).eval().requires_grad_(False)
    _convert(module)
    if device.type == "cpu":
        _shuffle_last(module)
        _shuffle_runs(module)
    if device.type == "cpu" and dtype != torch.float16 and torch.backends.mkldnn.is_available():
        _fuse(module)
    if not isinstance(module, MultiExitNetwork) or image_dtype(dtype) == dtype:
        return channels_last(module.to(device, dtype))
    seeing = {name: copy.deepcopy(getattr(module, name)) for name in (*module.first, *module.exact)}
    module = module.to(device, dtype)
    for name, layer in seeing.items():
        layer = layer.to(device, image_dtype(dtype))
        setattr(module, name, nn.Sequential(layer, _Cast(dtype)) if name == module.first[-1] else layer)
    return channels_last(module)


def image_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of the images that a network takes and gives: its own, but float32 beside bfloat16, which has eight bits for a colour."""
    return torch.float32 if dtype == torch.bfloat16 else dtype


def fastest_dtype(device: torch.device) -> torch.dtype:
    """The arithmetic in which layers run fastest on a device, at the loss of some hundredths of a decibel at most."""
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if device.type == "cpu" and multiplies_bfloat16() else torch.float32


def prepare_estimator(estimator: Estimator, device: torch.device) -> Estimator:
    """``prepare`` in float32, but for the layers that may run in bfloat16, on CPUs that multiply in it: half the time, for a
    hundredth of a decibel in the gains and a few in the estimates, which themselves err by one or two. The last ones, whose
    results are logarithms far from zero, stay in float32, which takes no time and halves that."""
    prepared = prepare(estimator, device, torch.float32)
    if device.type == "cpu" and multiplies_bfloat16():
        for name in estimator.narrow:
            layers = getattr(estimator, name)
            narrow, last = prepare(layers[:-1], device, torch.bfloat16), prepare(layers[-1:], device, torch.float32)
            setattr(prepared, name, nn.Sequential(narrow, _Cast(torch.float32), last))
    side = PATCH + 2 * estimator.margin
    _pack(prepared, partial(prepared.features, torch.zeros(1, 3, side, side, device=device)), 2)
    return prepared


class _Cast(nn.Module):
    """Between layers of different precision."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products in bfloat16, and torch the library that uses them."""
    known = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return torch.backends.mkldnn.is_available() and any(supported() for supported in known if supported)


def batch_size(network: MultiExitNetwork, patch_size: int, device: torch.device) -> int:
    """Patches that a convolution sees at once: as many as keep the largest feature map within ``WORKING_SET``."""
    largest = 1

    def look(_: nn.Module, __: object, output: Tensor) -> None:
        nonlocal largest
        largest = max(largest, output.numel() * output.element_size())

    _watch(network, partial(network, _patch(network, patch_size)), look)
    return max(SMALLEST_BATCH, WORKING_SET[device.type] // largest)


def pack(network: MultiExitNetwork, patch_size: int, batch: int) -> None:
    """Lays the weights of ``prepare``'s convolutions out as oneDNN wants them for ``batch`` patches, which it else does at every
    call, for up to a twentieth of its time. Bits stay what they are."""
    _pack(network, partial(network, _patch(network, patch_size)), batch)


def _pack(module: nn.Module, run: Callable[[], object], batch: int) -> None:
    def look(layer: nn.Module, inputs: tuple[Tensor, ...], _: object) -> None:
        if isinstance(layer, _FusedConvolution):
            layer.pack([batch, *inputs[0].shape[1:]])

    _watch(module, run, look)


def _patch(network: MultiExitNetwork, patch_size: int) -> Tensor:
    device, dtype = next(network.parameters()).device, image_dtype(network.dtype)
    return torch.zeros(1, 3, patch_size, patch_size, device=device, dtype=dtype)


@torch.inference_mode()
def _watch(
    module: nn.Module, run: Callable[[], object], look: Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]
) -> None:
    """Shows every layer of a module that ``run`` calls, what it is given and what it gives."""
    handles = [layer.register_forward_hook(look) for layer in module.modules() if not list(layer.children())]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()


def _convert(module: nn.Module) -> None:
    """Replaces in place every layer by the ordinary convolution that it is."""
    for name, layer in list(module.named_children()):
        if isinstance(layer, CentredConvolution | SubPixelTransposedConvolution):
            setattr(module, name, layer.as_convolution())
        else:
            _convert(layer)


def _shuffle_last(module: nn.Module) -> None:
    """Exchanges in place, in every ``Sequential``, a pixel shuffle by two and the convolution to three colours behind it: the
    colours are shuffled instead of all features, whose large copy costs more than the convolution."""
    children = list(module.named_children())
    for (shuffle_name, shuffle), (name, layer) in pairwise(children):
        by_two = isinstance(shuffle, nn.PixelShuffle) and shuffle.upscale_factor == 2
        if isinstance(module, nn.Sequential) and by_two and _makes_colours(layer):
            setattr(module, shuffle_name, _before_shuffle(layer))
            setattr(module, name, shuffle)
    for _, layer in children:
        _shuffle_last(layer)


def _makes_colours(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        type(layer) is nn.Conv2d
        and _is_plain_convolution(layer)
        and (layer.out_channels, layer.groups) == (3, 1)
        and (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (1, 1), (1, 1))
    )


@torch.no_grad()
def _before_shuffle(layer: nn.Conv2d) -> nn.Conv2d:
    """The convolution (C*4 -> 3*4 channels) whose shuffled result is that of ``layer`` on the shuffled input.

    Pixel 2h+i of the shuffled image is pixel h of channel i, so that its neighbour 2h+i+d is pixel h+a of channel p with
    i + d = 2a + p.
    """
    before = nn.Conv2d(4 * layer.in_channels, 4 * layer.out_channels, 3, padding=1, bias=layer.bias is not None)
    before.weight.zero_()
    for i, j, y, x in product(range(2), range(2), range(3), range(3)):
        (a, p), (b, q) = divmod(i + y - 1, 2), divmod(j + x - 1, 2)
        before.weight[2 * i + j :: 4, 2 * p + q :: 4, a + 1, b + 1] = layer.weight[:, :, y, x]
    if before.bias is not None and layer.bias is not None:
        before.bias.copy_(layer.bias.repeat_interleave(4))
    return before.requires_grad_(False)


class _ShuffledRuns(nn.Module):
    """A pixel shuffle that moves all channels of a pixel as one run, which takes half to a third of the time: of a convolution
    whose channels are ordered by pixel first."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        (n, _, height, width), f = x.shape, self.factor
        runs = x.permute(0, 2, 3, 1).reshape(n, height, width, f, f, -1)
        return runs.transpose(2, 3).reshape(n, height * f, width * f, -1).permute(0, 3, 1, 2)


@torch.no_grad()
def _shuffle_runs(module: nn.Module) -> None:
    """Replaces in place, in every ``Sequential``, each pixel shuffle by ``_ShuffledRuns``, and the convolution before it (an
    activation may lie between) by one whose channels are ordered for that."""
    children = list(module.named_children())
    for index, (name, layer) in enumerate(children if isinstance(module, nn.Sequential) else []):
        behind = (child for child in children[index + 1 : index + 3] if not _is_known(child[1]))
        shuffle_name, shuffle = next(behind, ("", None))
        if type(layer) is nn.Conv2d and layer.groups == 1 and isinstance(shuffle, nn.PixelShuffle):
            ordered = copy.deepcopy(layer)
            for parameter in ordered.parameters():
                channels = parameter.unflatten(0, (-1, shuffle.upscale_factor**2))
                parameter.copy_(channels.transpose(0, 1).flatten(0, 1))
            setattr(module, name, ordered)
            setattr(module, shuffle_name, _ShuffledRuns(shuffle.upscale_factor))
    for _, layer in children:
        _shuffle_runs(layer)


class _FusedConvolution(nn.Conv2d):
    """A convolution and the activation behind it as one call of oneDNN."""

    activation: str
    slope: list[float]
    packed: dict[torch.Size, Tensor]

    @classmethod
    def of(cls, layer: nn.Conv2d, activation: nn.Module | None) -> _FusedConvolution:
        # without memory: the weights are those of `layer`
        sizes = (layer.in_channels, layer.out_channels, layer.kernel_size[0])
        fused = cls(*sizes, layer.stride[0], int(layer.padding[0]), groups=layer.groups, device="meta")
        fused.weight, fused.bias = layer.weight, layer.bias
        fused.activation, fused.slope, fused.packed = "none", [], {}
        if isinstance(activation, nn.ReLU):
            fused.activation = "relu"
        elif isinstance(activation, nn.LeakyReLU):
            fused.activation, fused.slope = "leaky_relu", [activation.negative_slope]
        elif isinstance(activation, nn.PReLU):
            fused.activation, fused.slope = "leaky_relu", [float(activation.weight)]
        return fused

    def pack(self, shape: list[int]) -> None:
        """For images of this height and width."""
        form = self.padding, self.stride, self.dilation, self.groups
        self.packed[torch.Size(shape[2:])] = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *form, shape)

    def forward(self, x: Tensor, plus: Tensor | None = None, in_place: bool = False) -> Tensor:
        """The activation of the convolution, to which ``plus`` is added; ``in_place`` the result takes its memory."""
        weight = self.packed.get(x.shape[2:], self.weight)
        weights = weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        if plus is None:
            return torch.ops.mkldnn._convolution_pointwise(x, *weights, self.activation, self.slope, "")
        behind = "add", 1.0, None if self.activation == "none" else self.activation, self.slope, ""
        if in_place:
            return torch.ops.mkldnn._convolution_pointwise_.binary(plus, x, *weights, *behind)
        return torch.ops.mkldnn._convolution_pointwise.binary(x, plus, *weights, *behind)


class _FusedResidual(nn.Module):
    """``Residual``, whose last convolution adds the input."""

    def __init__(self, residual: Residual) -> None:
        super().__init__()
        *body, last = residual.body
        assert _is_plain_convolution(last)
        self.body = nn.Sequential(*body)
        _fuse(self.body)
        self.last = _FusedConvolution.of(last, residual.activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x), x)


class _SplitConcatenation(nn.Module):
    """``Concatenation`` as the sum of a convolution of each tensor. The last tensor comes first: so CARN in bfloat16 is as near
    to float32 as with the concatenation, and in the other order 0.01 dB worse."""

    def __init__(self, concatenation: Concatenation) -> None:
        super().__init__()
        whole, activation = concatenation
        assert isinstance(whole, nn.Conv2d)
        weights = whole.weight.split(concatenation.widths, dim=1)[::-1]
        self.layers = nn.ModuleList()
        for index, weight in enumerate(weights):
            layer = nn.Conv2d(weight.shape[1], whole.out_channels, 1, bias=False).requires_grad_(False)
            layer.weight.copy_(weight)
            if index == 0:
                layer.bias = whole.bias
            self.layers.append(_FusedConvolution.of(layer, activation if index == len(weights) - 1 else None))

    def forward(self, *parts: Tensor) -> Tensor:
        *others, last = parts
        result = self.layers[0](last)
        for layer, part in zip(self.layers[1:], reversed(others), strict=True):
            result = layer(part, result, in_place=True)
        return result


def _fuse(module: nn.Module) -> None:
    """Replaces every convolution in place, together with the activation behind it in a ``Sequential`` and with the sums that
    the modules of ``models.layers`` tell of."""
    children = list(module.named_children())
    for index, (name, layer) in enumerate(children):
        if isinstance(layer, Residual) and _is_plain_convolution(layer.body[-1]) and _is_known(layer.activation):
            setattr(module, name, _FusedResidual(layer))
        elif isinstance(layer, Concatenation):
            setattr(module, name, _SplitConcatenation(layer))
        elif not _is_plain_convolution(layer):
            _fuse(layer)
        else:
            behind = children[index + 1 :] if isinstance(module, nn.Sequential) else []
            if behind and isinstance(behind[0][1], nn.PixelShuffle | _ShuffledRuns):
                behind = behind[1:]  # moves values and leaves them as they are
            activation = None
            if behind and _is_known(behind[0][1]):
                activation = behind[0][1]
                setattr(module, behind[0][0], nn.Identity())
            setattr(module, name, _FusedConvolution.of(layer, activation))


def _is_plain_convolution(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        type(layer) is nn.Conv2d
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and layer.kernel_size[0] == layer.kernel_size[1]
        and layer.stride[0] == layer.stride[1]
        and layer.padding[0] == layer.padding[1]
        and layer.dilation == (1, 1)
    )


def _is_known(activation: nn.Module) -> bool:
    """Whether oneDNN has it: one that does the same to every channel, or nothing."""
    if isinstance(activation, nn.PReLU):
        return activation.num_parameters == 1
    return isinstance(activation, nn.ReLU | nn.LeakyReLU | nn.Identity)
