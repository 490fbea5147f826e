# SPDX-License-Identifier: Apache-2.0
"""The flow of an image: grid, scores, decision, exits, blend."""

from __future__ import annotations

import copy
import os
import threading
import time
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, overload

import torch
from torch import Tensor

from enaf_ext import ops
from enaf_ext.grid import PatchGrid

from .adaptive import AdaptiveNetwork
from .checkpoint import load_model
from .cost import CostTable
from .decision import choose_exits, eta_for_budget
from .models import MultiExitNetwork, channels_last

BATCH = 32
"""Patches a convolution sees at once: enough to fill two cores, few enough for their activations to stay in cache."""

Model: TypeAlias = "str | os.PathLike[str] | AdaptiveNetwork"

_IMAGE_DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class UpscaleInfo:
    """What happened to an image.

    Attributes:
        exit_index: (B, rows, cols) int64, exit taken by each patch.
        edge_score: (B, rows, cols) float32, mean absolute Laplacian, 0 to 255.
        psnr_db: (B, rows, cols, E) float32, predicted PSNR of every exit in dB.
        grid: the patches over the LR image.
        eta: the eta that was used (solved for, where a budget was given).
        cost: "paper": published FLOPs as a share of the full exit; "macs": true multiply-accumulates, estimator and
            overlap included, as a share of the full network without tiling; "ms": measured milliseconds in all.
        milliseconds: the same by stage: "scores", "decision", "exits", "blend".
    """

    exit_index: Tensor
    edge_score: Tensor
    psnr_db: Tensor
    grid: PatchGrid
    eta: float
    cost: dict[str, float]
    milliseconds: dict[str, float]


@dataclass
class _Stopwatch:
    """Wall time between marks, in milliseconds; waits for the device only when it is switched on."""

    device: torch.device
    enabled: bool
    milliseconds: dict[str, float] = field(default_factory=dict)
    last: float = 0.0

    def __post_init__(self) -> None:
        self.last = self._now()

    def _now(self) -> float:
        if self.enabled and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() * 1e3

    def mark(self, stage: str) -> None:
        if self.enabled:
            now = self._now()
            self.milliseconds[stage] = now - self.last
            self.last = now


class Upscaler:
    """Loads a model once; call it with images.

    Args:
        model: name of a shipped model, path to a safetensors file, or an ``AdaptiveNetwork``.
        scale: upscaling factor; must be the model's.

    Raises:
        ValueError, FileNotFoundError: see ``enaf.checkpoint.load_model``.
        TypeError: a module that is no ``AdaptiveNetwork``.
    """

    def __init__(self, model: Model = "fsrcnn", scale: int = 4) -> None:
        if isinstance(model, torch.nn.Module):
            if not isinstance(model, AdaptiveNetwork):
                raise TypeError(f"model: expected an AdaptiveNetwork, got {type(model).__name__}")
            if model.network.scale != scale:
                raise ValueError(f"scale: the model upscales by {model.network.scale}, asked for {scale}")
        else:
            model = load_model(model, scale)
        self.scale = scale
        self._table = CostTable.of(model)
        self.cost = self._table.paper
        self._models = {torch.device("cpu"): channels_last(copy.deepcopy(model).cpu().float().eval())}
        self._lock = threading.Lock()

    @property
    def num_exits(self) -> int:
        """E, bicubic included."""
        return len(self.cost)

    @overload
    def __call__(
        self, image: Tensor, eta: float = ..., gamma: float = ..., *, budget: float | None = ...,
        force_exit: int | None = ..., patch_size: int = ..., overlap: int = ..., return_info: Literal[False] = ...,
    ) -> Tensor: ...  # fmt: skip

    @overload
    def __call__(
        self, image: Tensor, eta: float = ..., gamma: float = ..., *, budget: float | None = ...,
        force_exit: int | None = ..., patch_size: int = ..., overlap: int = ..., return_info: Literal[True],
    ) -> tuple[Tensor, UpscaleInfo]: ...  # fmt: skip

    @torch.inference_mode()
    def __call__(
        self,
        image: Tensor,
        eta: float = 1.0,
        gamma: float = 1.0,
        *,
        budget: float | None = None,
        force_exit: int | None = None,
        patch_size: int = 32,
        overlap: int = 4,
        return_info: bool = False,
    ) -> Tensor | tuple[Tensor, UpscaleInfo]:
        """Upscale; see ``enaf_ext.upscale`` for arguments, result and errors."""
        batch = self._check(image, eta, gamma, budget, force_exit)
        model = self._model_on(image.device)
        watch = _Stopwatch(image.device, return_info)
        grid = PatchGrid(batch.shape[2], batch.shape[3], patch_size, overlap)

        edge_score = ops.edge_score(batch, grid)
        rgb = batch if batch.shape[1] == 3 else batch.expand(-1, 3, -1, -1)
        psnr_db = model.estimator.on_grid(_unit_range(rgb), grid)
        watch.mark("scores")

        if force_exit is not None:
            exit_index = torch.full_like(edge_score, force_exit, dtype=torch.int64)
        else:
            if budget is not None:
                eta = eta_for_budget(psnr_db, edge_score, self.cost, budget, gamma)
            exit_index = choose_exits(psnr_db, edge_score, self.cost, eta, gamma)
        order, offsets = ops.route_exits(exit_index, self.num_exits)
        running = offsets.tolist()  # the one wait for the device: how many patches reach each depth
        watch.mark("decision")

        patches = run_exits(model.network, rgb, grid, order, running)
        watch.mark("exits")

        dtype = image.dtype if image.dtype == torch.uint8 and batch.shape[1] == 3 else torch.float32
        sr = ops.fold_patches(patches, grid.scaled(self.scale), order, batch=batch.shape[0], dtype=dtype)
        sr = _like(sr, image)
        watch.mark("blend")
        if not return_info:
            return sr
        counts = torch.tensor([running[j] - running[j + 1] for j in range(self.num_exits)])
        shape = (batch.shape[0], grid.rows, grid.cols)
        spent = self._table.spent(counts, grid, batch.shape[0])
        return sr, UpscaleInfo(
            exit_index=exit_index.view(shape),
            edge_score=edge_score.view(shape),
            psnr_db=psnr_db.view(*shape, -1),
            grid=grid,
            eta=eta,
            cost={**spent, "ms": sum(watch.milliseconds.values())},
            milliseconds=watch.milliseconds,
        )

    def _model_on(self, device: torch.device) -> AdaptiveNetwork:
        with self._lock:
            if device not in self._models:
                self._models[device] = copy.deepcopy(self._models[torch.device("cpu")]).to(device)
            return self._models[device]

    def _check(self, image: Tensor, eta: float, gamma: float, budget: float | None, force_exit: int | None) -> Tensor:
        """Every complaint about arguments, before any work; the image as (B, C, H, W)."""
        if not isinstance(image, Tensor):
            raise TypeError(f"image: expected a tensor, got {type(image).__name__}")
        if image.dtype not in _IMAGE_DTYPES:
            raise TypeError(f"image: expected uint8, float16, bfloat16 or float32, got {image.dtype}")
        if image.dim() not in (3, 4) or image.shape[-3] not in (1, 3) or 0 in image.shape:
            raise ValueError(
                f"image: expected (C, H, W) or (B, C, H, W) with 1 or 3 channels and no empty side, got "
                f"{tuple(image.shape)}"
            )
        if not (eta >= 0 and eta != float("inf")):
            raise ValueError(f"eta: expected a finite number of at least 0, got {eta}")
        if not (gamma >= 0 and gamma != float("inf")):
            raise ValueError(f"gamma: expected a finite number of at least 0, got {gamma}")
        if budget is not None and not 0 <= budget <= 1:
            raise ValueError(f"budget: expected a share between 0 and 1, got {budget}")
        if budget is not None and force_exit is not None:
            raise ValueError("budget: expected None where force_exit is given, got both")
        if force_exit is not None and not 0 <= force_exit < self.num_exits:
            raise ValueError(f"force_exit: expected 0 to {self.num_exits - 1}, got {force_exit}")
        if image.is_floating_point():
            low, high = (float(bound) for bound in image.aminmax())
            if not (low >= -1e-3 and high <= 1 + 1e-3):  # also where a value is not a number
                raise ValueError(f"image: expected floating values in [0, 1], got [{low:g}, {high:g}]")
        return image if image.dim() == 4 else image.unsqueeze(0)


def run_exits(network: MultiExitNetwork, rgb: Tensor, grid: PatchGrid, order: Tensor, running: list[int]) -> Tensor:
    """Every patch through the stages up to its own exit, and no further.

    Args:
        network: the backbone, on the device of the image.
        rgb: (B, 3, H, W), uint8 or floating.
        grid: over ``rgb``.
        order: (M,) int64, patches by descending exit, as ``ops.route_exits`` gives them.
        running: E+1 integers, how many patches reach each depth.

    Returns:
        (M, C, P, P) float32 channels_last in the order of ``order``: pixels, or their sub-pixel layout, as the network's
        tails leave them.
    """
    scale, size = network.scale, grid.patch_size
    side, channels = (scale * size, 3) if network.shuffled else (size, 3 * scale * scale)
    patches = torch.empty((running[0], channels, side, side), device=rgb.device, memory_format=torch.channels_last)
    for start in range(0, running[1], BATCH):
        stop = min(start + BATCH, running[1])
        features = lr = ops.gather_patches(rgb, grid, order[start:stop], dtype=torch.float32, channels_last=True)
        for depth in range(1, network.num_exits):
            active = min(running[depth], stop) - start
            if active <= 0:
                break
            features = network.stage(depth, features[:active])
            staying = max(0, min(running[depth + 1], stop) - start)
            if staying < active:
                patches[start + staying : start + active] = network.tail(depth, features[staying:], lr[staying:active])
    if running[1] < running[0]:
        patches[running[1] :] = ops.bicubic_patches(
            rgb, grid, order[running[1] :], scale, dtype=torch.float32, channels_last=True, shuffled=network.shuffled
        )
    return patches


def _unit_range(image: Tensor) -> Tensor:
    """float32 in [0, 1]."""
    return image.float().div_(255) if image.dtype == torch.uint8 else image.float()


def _like(sr: Tensor, image: Tensor) -> Tensor:
    """The blended result (B, 3, sH, sW) in the dtype, channels, rank and memory layout of ``image``."""
    if image.shape[-3] == 1:
        sr = sr.mean(dim=1, keepdim=True)
    if sr.dtype != image.dtype or sr.is_floating_point():
        sr = sr.clamp_(0, 1)
        sr = sr.mul_(255).round_().to(torch.uint8) if image.dtype == torch.uint8 else sr.to(image.dtype)
    if image.dim() == 3:
        return sr.squeeze(0)
    if image.is_contiguous(memory_format=torch.channels_last) and not image.is_contiguous():
        return sr.contiguous(memory_format=torch.channels_last)
    return sr


_shared: dict[tuple[str, int], Upscaler] = {}
_shared_lock = threading.Lock()


@overload
def upscale(
    image: Tensor, eta: float = ..., gamma: float = ..., *, model: Model = ..., scale: int = ...,
    budget: float | None = ..., force_exit: int | None = ..., patch_size: int = ..., overlap: int = ...,
    return_info: Literal[False] = ...,
) -> Tensor: ...  # fmt: skip


@overload
def upscale(
    image: Tensor, eta: float = ..., gamma: float = ..., *, model: Model = ..., scale: int = ...,
    budget: float | None = ..., force_exit: int | None = ..., patch_size: int = ..., overlap: int = ...,
    return_info: Literal[True],
) -> tuple[Tensor, UpscaleInfo]: ...  # fmt: skip


def upscale(
    image: Tensor,
    eta: float = 1.0,
    gamma: float = 1.0,
    *,
    model: Model = "fsrcnn",
    scale: int = 4,
    budget: float | None = None,
    force_exit: int | None = None,
    patch_size: int = 32,
    overlap: int = 4,
    return_info: bool = False,
) -> Tensor | tuple[Tensor, UpscaleInfo]:
    """Upscale an image adaptively: every patch takes the cheapest exit that is predicted to be good enough.

    Each patch goes to ``argmax_j u_j + gamma*b_j - eta*c_j`` (equation 9 of the paper): u is the predicted PSNR of exit
    j in dB, b marks bicubic on blank patches, c is the exit's cost as a share of the full network's.

    Args:
        image: (C, H, W) or (B, C, H, W), C = 1 or 3, uint8 or floating (float16, bfloat16, float32) in [0, 1]; any size
            from 1x1, any device, any memory layout.
        eta: decibels that the full cost must gain; 0 = best predicted quality, 5 = nearly everything bicubic.
        gamma: decibels granted to bicubic on blank patches; the paper uses 1.0 to 1.5.
        model: name of a shipped model, path to a safetensors file, or an ``AdaptiveNetwork``.
        scale: upscaling factor of the model.
        budget: mean cost to stay within, as a share of the full network in the published convention, 0 to 1; eta is then
            solved for over this image's own estimates.
        force_exit: send every patch to this exit (0 = bicubic, 3 = the full network).
        patch_size: side of a patch in LR pixels.
        overlap: LR pixels that neighbours share and that are blended, at most half a patch.
        return_info: also return what happened to every patch.

    Returns:
        (C, s*H, s*W) or (B, C, s*H, s*W), same dtype, device and layout, clamped to the range of the dtype; with
        ``return_info`` a pair of it and an ``UpscaleInfo``.

    Raises:
        TypeError: ``image`` is no tensor or has another dtype; ``model`` is another module.
        ValueError: an argument is out of range; the message names it.
        FileNotFoundError: ``model`` is a path that does not exist.

    Deterministic: the same input gives the same bytes, alone or in a batch. Not differentiable.
    """
    if isinstance(model, torch.nn.Module):
        upscaler = Upscaler(model, scale)
    else:
        key = (os.fspath(model), scale)
        with _shared_lock:
            if key not in _shared:
                _shared[key] = Upscaler(model, scale)
            upscaler = _shared[key]
    keywords = {"budget": budget, "force_exit": force_exit, "patch_size": patch_size, "overlap": overlap}
    return upscaler(image, eta, gamma, return_info=return_info, **keywords)  # type: ignore[call-overload]  # bool, not Literal
