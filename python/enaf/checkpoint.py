# SPDX-License-Identifier: Apache-2.0
"""Model files: safetensors with a self-describing header, and the shipped weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .adaptive import AdaptiveNetwork, Tiling
from .estimator import Estimator, create_estimator
from .models import MultiExitNetwork, create_backbone
from .whole_file import write_whole

FORMAT = "enaf-1"
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def shipped_models() -> dict[str, Path]:
    """Weights that come with the package: name (as "fsrcnn-x4") -> file."""
    folder = Path(str(resources.files("enaf") / "weights"))
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes, dtypes and values: "sha256" in the header of a model file whose tensors these are."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.numpy().tobytes())  # row-major, whatever the strides
    return digest.hexdigest()


def save_model(model: AdaptiveNetwork, path: Path | str, notes: Mapping[str, str] | None = None) -> None:
    """Write a model as safetensors, atomically.

    The header names format, backbone, scale, estimator and tiling, and holds a SHA-256 of the tensors that loading checks.

    Args:
        model: what to save; stored in float32.
        path: the target, replaced only when the new file is complete.
        notes: further header entries, for instance the recipe.
    """
    header = {**(notes or {}), **_description(model.network), "estimator": model.estimator.name, "tiling": model.tiling}
    _save(model.state_dict(), header, Path(path))


def save_backbone(network: MultiExitNetwork, path: Path | str, notes: Mapping[str, str] | None = None) -> None:
    """Write the published network alone, without early exits and estimator: what phase 1 of training leaves.

    The file is one of ``save_model`` without their tensors, and without "estimator" in its header.
    """
    _save(_published(network), {**(notes or {}), **_description(network)}, Path(path))


def _published(network: MultiExitNetwork) -> dict[str, Tensor]:
    """The tensors of the published network, under their names in a file."""
    published = {id(p) for p in network.backbone_parameters()}
    return {f"network.{name}": p.data for name, p in network.named_parameters() if id(p) in published}


def _description(network: MultiExitNetwork) -> dict[str, str]:
    return {"format": FORMAT, "backbone": network.name, "scale": str(network.scale)}


def _save(state: Mapping[str, Tensor], header: Mapping[str, str], path: Path) -> None:
    tensors = {name: t.detach().float().cpu().clone(memory_format=torch.contiguous_format) for name, t in state.items()}
    write_whole(path, save(tensors, metadata={**header, "sha256": tensors_hash(tensors)}))


def check_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], source: str) -> None:
    """Compare names, shapes and kinds of tensors, before any of them is used.

    Raises:
        ValueError: names ``source`` and the first tensor that is missing, misshapen, not finite, or too many.
    """
    for name, tensor in expected.items():
        if name not in found:
            raise ValueError(f"{source}: expected a tensor {name}, found none")
        shape, got = tuple(tensor.shape), found[name]
        if tuple(got.shape) != shape:
            raise ValueError(f"{source}: {name}: expected shape {shape}, got {tuple(got.shape)}")
        if got.dtype not in _DTYPES or got.layout != torch.strided or got.device.type != "cpu":
            raise ValueError(f"{source}: {name}: expected plain floating numbers, got {got.dtype}, {got.layout}")
        if not bool(got.isfinite().all()):
            raise ValueError(f"{source}: {name}: expected finite values")
    for name in found:
        if name not in expected:
            raise ValueError(f"{source}: unexpected tensor {name}")


def load_model(model: str | os.PathLike[str], scale: int = 4) -> AdaptiveNetwork:
    """Read a model.

    Args:
        model: name of a shipped backbone ("fsrcnn"), of a shipped file ("fsrcnn-x4"), or a path to a safetensors file.
        scale: upscaling factor expected of it.

    Returns:
        The model on the CPU, in evaluation mode.

    Raises:
        ValueError: unknown name, damaged or foreign file, wrong scale, a backbone alone; nothing is half-loaded, nothing
            is executed.
        FileNotFoundError: a path that does not exist.
    """
    header, network, estimator = _load(model, scale)
    if estimator is None:
        raise ValueError(f"{model}: holds a backbone alone; early exits and estimator have yet to be trained")
    try:
        tiling = cast(Tiling, header.get("tiling", "seamless"))  # AdaptiveNetwork looks whether it is one
        return AdaptiveNetwork(network, estimator, tiling).eval()
    except ValueError as error:
        raise ValueError(f"{model}: {error}") from None


def load_parts(model: str | os.PathLike[str], scale: int = 4) -> tuple[MultiExitNetwork, Estimator | None]:
    """Read what a model file holds, for further training.

    Args:
        model, scale: as for ``load_model``.

    Returns:
        Network and estimator on the CPU, in training mode. Of a file that ``save_backbone`` wrote: the network with
        freshly initialised early exits, and None.

    Raises:
        ValueError, FileNotFoundError: as ``load_model``.
    """
    return _load(model, scale)[1:]


def _load(model: str | os.PathLike[str], scale: int) -> tuple[dict[str, str], MultiExitNetwork, Estimator | None]:
    """The header of a model file, and its parts."""
    path = _find(model, scale)
    header, tensors = _read(path)
    if header["scale"] != str(scale):
        raise ValueError(f"scale: {path} upscales by {header['scale']}, asked for {scale}")
    try:
        network = create_backbone(header["backbone"], scale)
        estimator = create_estimator(header["estimator"], network.num_exits) if "estimator" in header else None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    targets = _published(network) if estimator is None else AdaptiveNetwork(network, estimator).state_dict()
    check_tensors(targets, tensors, str(path))
    if header["sha256"] != tensors_hash(tensors):
        raise ValueError(f"{path}: the tensors do not match the hash in the header")
    for name, target in targets.items():
        target.copy_(tensors[name])
    return header, network, estimator


def _find(model: str | os.PathLike[str], scale: int) -> Path:
    """The file of a model."""
    shipped = shipped_models()
    name = os.fspath(model)
    path = shipped.get(name) or shipped.get(f"{name}-x{scale}") or Path(name)
    if not path.is_file():
        if path.suffix == ".safetensors" or os.sep in name:
            raise FileNotFoundError(f"model: no such file: {name}")
        scales = [known.removeprefix(f"{name}-x") for known in shipped if known.startswith(f"{name}-x")]
        if scales:
            raise ValueError(f"scale: {name!r} is shipped for {', '.join(scales)}, asked for {scale}")
        known = ", ".join(shipped) or "none are installed"
        raise ValueError(f"model: expected a .safetensors path or one of the shipped models ({known}), got {name!r}")
    return path


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and tensors of a model file, the header complete, nothing else checked."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a mapping
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None
    if header.get("format") != FORMAT:
        raise ValueError(f"{path}: expected a header with format {FORMAT!r}, got {header.get('format')!r}")
    for entry in ("backbone", "scale", "sha256"):
        if entry not in header:
            raise ValueError(f"{path}: expected a header with {entry}, found none")
    return header, tensors


def model_header(path: Path) -> dict[str, str]:
    """The header entries of a model file."""
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})
