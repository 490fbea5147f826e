# SPDX-License-Identifier: Apache-2.0
"""Importers of checkpoints in the formats of the paper's authors, of ClassSR and of BasicSR."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from .adaptive import AdaptiveNetwork
from .checkpoint import check_tensors
from .estimator import create_estimator
from .models import MultiExitNetwork, create_backbone
from .models.carn import CARN
from .models.multi_exit import SHUFFLES

State: TypeAlias = Mapping[str, Tensor]
Names: TypeAlias = dict[str, str]
"""Their layer -> our layer."""


def _fsrcnn(state: State, scale: int) -> Names:
    return {
        **{f"head_conv.{layer}": f"head.{layer}" for layer in (0, 1)},
        **{f"body_conv.0.{layer}": f"shrink.{layer}" for layer in (0, 1)},
        **{f"body_conv.{step}": f"mapping.{step - 1}" for step in range(1, 5)},
        "body_conv.5": "mapping_activation",
        **{f"body_conv.6.{layer}": f"expand.{layer}" for layer in (0, 1)},
        "tail_conv": "upsample",
        **{f"predictors.{index}.{layer}": f"early_exits.{index}.{layer}" for index in (0, 1) for layer in (0, 2)},
    }


def _carn(state: State, scale: int) -> Names:
    last = 3 * len(SHUFFLES[scale])
    names = {"sub_mean": "centre", "entry": "entry"}
    for block in (1, 2, 3):
        names |= {f"b{block}.b1.body.{layer}": f"blocks.{block - 1}.unit.body.{layer}" for layer in (0, 2, 4)}
        names |= {f"b{block}.c{fusion}.0": f"blocks.{block - 1}.fusions.{fusion - 1}.0" for fusion in (1, 2, 3)}
        names |= {f"c{block}.0": f"fusions.{block - 1}.0"}
    names |= {f"upsample.up.body.{layer}": f"upsample.{layer}" for layer in range(0, last, 3)}
    names |= {"exit": f"upsample.{last}"}
    layers = range(0, last + 1, 3)
    return names | {f"predictors.{i}.{layer}": f"early_exits.{i}.{layer}" for i in (0, 1) for layer in layers}


def _srresnet(state: State, scale: int) -> Names:
    steps = len(SHUFFLES[scale])
    last = 3 * steps
    classsr = "HRconv.weight" in state or "recon_trunk.0.conv1.weight" in state
    trunk, large = ("recon_trunk", "HRconv") if classsr else ("body", "conv_hr")
    names = {"conv_first": "head.0"}
    for block in range(16):
        names |= {f"{trunk}.{block}.conv{n}": f"blocks.{block}.body.{2 * n - 2}" for n in (1, 2)}
    names |= {f"upconv{step + 1}": f"upsample.{3 * step}" for step in range(steps)}
    names |= {large: f"upsample.{last}", "conv_last": f"upsample.{last + 2}"}
    layers = [*range(0, last + 1, 3), last + 2]
    return names | {f"predictors.{i}.{layer}": f"early_exits.{i}.{layer}" for i in (0, 1) for layer in layers}


_NETWORKS: dict[str, Callable[[State, int], Names]] = {"carn": _carn, "fsrcnn": _fsrcnn, "srresnet": _srresnet}
_ESTIMATOR = {"estimator.lastOut": "last", **{f"estimator.CondNet.{i}": f"layers.{i}" for i in range(0, 10, 2)}}
# biases of the first and second sub-pixel convolution, which tell the scale
_SUB_PIXEL = {
    "carn": ("upsample.up.body.0.bias", "upsample.up.body.3.bias"),
    "srresnet": ("upconv1.bias", "upconv2.bias"),
}


def import_checkpoint(path: Path | str, backbone: str, scale: int | None = None) -> AdaptiveNetwork | MultiExitNetwork:
    """Read a torch state dict in the naming of the paper's authors, of ClassSR or of BasicSR.

    Args:
        path: the file, as torch.save wrote it.
        backbone: "carn", "fsrcnn" or "srresnet".
        scale: upscaling factor; None = what the tensors tell, 4 for FSRCNN, whose tensors are the same at every scale.

    Returns:
        The whole model where the file has early exits and an estimator. Otherwise the network as phase 1 of training
        leaves it: the published layers from the file, early exits freshly initialised.

    Raises:
        ValueError: another backbone; not a state dict of plain tensors; a missing, unexpected or misshapen tensor, named.
            Nothing of the file is executed.
        OSError: the file cannot be read.
    """
    if backbone not in _NETWORKS:
        raise ValueError(f"backbone: expected one of {', '.join(_NETWORKS)}, got {backbone!r}")
    state = _read(path)
    found = _scale_of(state, backbone)
    if scale is not None and found not in (None, scale):
        raise ValueError(f"scale: {path} upscales by {found}, asked for {scale}")
    if scale is None:
        scale = found or 4
    network = create_backbone(backbone, scale)
    estimator = create_estimator("paper", network.num_exits)
    complete = any(key.startswith(("predictors.", "estimator.")) for key in state)
    names = _NETWORKS[backbone](state, scale)
    if not complete:
        names = {theirs: ours for theirs, ours in names.items() if not theirs.startswith("predictors.")}
    targets = _targets(network, names)
    if complete:
        targets |= _targets(estimator, _ESTIMATOR)
    shift = nn.Conv2d(3, 3, 1)
    if isinstance(network, CARN):
        targets |= {f"add_mean.{kind}": parameter for kind, parameter in shift.named_parameters()}
    check_tensors(targets, state, str(path))
    with torch.no_grad():
        for key, tensor in targets.items():
            tensor.copy_(state[key])
        if isinstance(network, CARN):
            for tail in (network.upsample, *(network.early_exits if complete else ())):
                _absorb(shift, tail)
        for parameter in estimator.get_submodule("last").parameters():
            parameter.neg_()  # their estimators predict minus the PSNR
    return AdaptiveNetwork(network, estimator, "paper").eval() if complete else network.eval()


def _read(path: Path | str) -> dict[str, Tensor]:
    with open(path, "rb") as file:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception:  # torch raises many kinds for damaged or hostile files, with advice to trust them
            raise ValueError(f"{path}: not a torch state dict, or damaged; only plain tensors are read") from None
    for wrapper in ("params_ema", "params"):  # of BasicSR
        if isinstance(state, dict) and wrapper in state:
            state = state[wrapper]
    if not isinstance(state, dict):
        raise ValueError(f"{path}: expected a dict of tensors, got {type(state).__name__}")
    for key, value in state.items():
        if not isinstance(key, str):
            raise ValueError(f"{path}: {key}: expected a name, got {type(key).__name__}")
        if not isinstance(value, Tensor):
            raise ValueError(f"{path}: {key}: expected a tensor, got {type(value).__name__}")
    return state


def _scale_of(state: State, backbone: str) -> int | None:
    """The upscaling factor, where the tensors tell it."""
    first, second = _SUB_PIXEL.get(backbone, ("", ""))
    if first not in state:
        return None
    return 4 if second in state else {64 * scale**2: scale for scale in (2, 3)}.get(state[first].numel())


def _targets(module: nn.Module, names: Names) -> dict[str, Tensor]:
    """Where each of their tensors goes: the parameters of the named layers of ``module``."""
    return {
        f"{theirs}.{kind}": parameter
        for theirs, ours in names.items()
        for kind, parameter in module.get_submodule(ours).named_parameters()
    }


def _absorb(shift: nn.Conv2d, tail: nn.Module) -> None:
    """The last convolution of ``tail`` becomes what it computes with the 1x1 convolution ``shift`` after it."""
    *_, last = (module for module in tail.modules() if isinstance(module, nn.Conv2d))
    assert last.bias is not None
    assert shift.bias is not None
    matrix = shift.weight[:, :, 0, 0].double()
    last.weight.copy_(torch.einsum("oc,cikl->oikl", matrix, last.weight.double()))
    last.bias.copy_(matrix @ last.bias.double() + shift.bias.double())
