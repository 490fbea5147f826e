# SPDX-License-Identifier: Apache-2.0
"""Model files: safetensors with a self-describing header, the shipped weights, and importers of foreign checkpoints."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .adaptive import AdaptiveNetwork
from .estimator import create_estimator
from .models import create_backbone

FORMAT = "enaf-1"


def shipped_models() -> dict[str, Path]:
    """Weights that come with the package: name (as "fsrcnn-x4") -> file."""
    folder = Path(str(resources.files("enaf") / "weights"))
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def _tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.numpy().tobytes())  # row-major, whatever the strides
    return digest.hexdigest()


def save_model(model: AdaptiveNetwork, path: Path | str, notes: Mapping[str, str] | None = None) -> None:
    """Write a model as safetensors, atomically.

    The header names format, backbone, scale and estimator, and holds a SHA-256 of the tensors that loading checks.

    Args:
        model: what to save; stored in float32.
        path: the target, replaced only when the new file is complete.
        notes: further header entries, for instance the recipe.
    """
    path = Path(path)
    tensors = {
        name: t.detach().float().cpu().clone(memory_format=torch.contiguous_format)
        for name, t in model.state_dict().items()
    }
    header = {
        **(notes or {}),
        "format": FORMAT,
        "backbone": model.network.name,
        "scale": str(model.network.scale),
        "estimator": model.estimator.name,
        "sha256": _tensors_hash(tensors),
    }
    temporary = path.with_name(path.name + ".tmp")
    try:
        save_file(tensors, temporary, metadata=header)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # safetensors writes files that only their owner may read
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_state(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load every tensor or none; the error names the file and the first mismatch.

    Raises:
        ValueError: a missing or unexpected name, or another shape.
    """
    expected = module.state_dict()
    for name, tensor in expected.items():
        if name not in state:
            raise ValueError(f"{source}: expected a tensor {name}, found none")
        if state[name].shape != tensor.shape:
            raise ValueError(f"{source}: {name}: expected shape {tuple(tensor.shape)}, got {tuple(state[name].shape)}")
    for name in state:
        if name not in expected:
            raise ValueError(f"{source}: unexpected tensor {name}")
    module.load_state_dict(dict(state))


def load_model(model: str | os.PathLike[str], scale: int = 4) -> AdaptiveNetwork:
    """Read a model.

    Args:
        model: name of a shipped backbone ("fsrcnn"), of a shipped file ("fsrcnn-x4"), or a path to a safetensors file.
        scale: upscaling factor expected of it.

    Returns:
        The model on the CPU, in evaluation mode.

    Raises:
        ValueError: unknown name, damaged or foreign file, wrong scale; nothing is half-loaded, nothing is executed.
        FileNotFoundError: a path that does not exist.
    """
    shipped = shipped_models()
    name = os.fspath(model)
    path = shipped.get(name) or shipped.get(f"{name}-x{scale}")
    if path is None:
        path = Path(name)
        if not path.is_file():
            if path.suffix == ".safetensors" or os.sep in name:
                raise FileNotFoundError(f"model: no such file: {name}")
            known = ", ".join(shipped) or "none are installed"
            raise ValueError(
                f"model: expected a .safetensors path or one of the shipped models ({known}), got {name!r}"
            )
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a mapping
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None
    if header.get("format") != FORMAT:
        raise ValueError(f"{path}: expected a header with format {FORMAT!r}, got {header.get('format')!r}")
    if header.get("scale") != str(scale):
        raise ValueError(f"scale: {path} upscales by {header.get('scale')}, asked for {scale}")
    network = create_backbone(header.get("backbone", ""), scale)
    result = AdaptiveNetwork(network, create_estimator(header.get("estimator", ""), network.num_exits))
    load_state(result, tensors, str(path))
    if header.get("sha256") != _tensors_hash(tensors):
        raise ValueError(f"{path}: the tensors do not match the hash in the header")
    return result.eval()


def model_header(path: Path) -> dict[str, str]:
    """The header entries of a model file."""
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


_AUTHORS_FSRCNN = {
    "head_conv.0": "head.0",
    "head_conv.1": "head.1",
    "body_conv.0.0": "shrink.0",
    "body_conv.0.1": "shrink.1",
    **{f"body_conv.{step}": f"mapping.{step - 1}" for step in range(1, 5)},
    "body_conv.5": "mapping_activation",
    "body_conv.6.0": "expand.0",
    "body_conv.6.1": "expand.1",
    "tail_conv": "upsample",
    **{f"predictors.{index}.{layer}": f"early_exits.{index}.{layer}" for index in (0, 1) for layer in (0, 2)},
}
_AUTHORS_ESTIMATOR = {"estimator.lastOut": "last", **{f"estimator.CondNet.{i}": f"layers.{i}" for i in range(0, 10, 2)}}


def import_authors_fsrcnn(path: Path | str) -> AdaptiveNetwork:
    """Read the FSRCNN checkpoint format of the paper's authors (a plain torch state dict).

    Their estimator predicts minus the PSNR, so its last layer is negated.

    Raises:
        ValueError: not a state dict of plain tensors, or not of this shape.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged or hostile files
        raise ValueError(f"{path}: not a plain torch state dict ({error})") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: expected a dict of tensors, got {type(state).__name__}")
    network, estimator = create_backbone("fsrcnn", 4), create_estimator("paper", 4)
    renamed: dict[str, dict[str, Tensor]] = {"network": {}, "estimator": {}}
    for key, tensor in state.items():
        stem, _, kind = key.rpartition(".")
        if stem in _AUTHORS_FSRCNN:
            renamed["network"][f"{_AUTHORS_FSRCNN[stem]}.{kind}"] = tensor
        elif stem in _AUTHORS_ESTIMATOR:
            renamed["estimator"][f"{_AUTHORS_ESTIMATOR[stem]}.{kind}"] = -tensor if stem.endswith("lastOut") else tensor
        else:
            raise ValueError(f"{path}: unexpected tensor {key}")
    load_state(network, renamed["network"], str(path))
    load_state(estimator, renamed["estimator"], str(path))
    return AdaptiveNetwork(network, estimator).eval()
