# SPDX-License-Identifier: Apache-2.0
"""What an exit costs, counted from the modules themselves.

Two columns, never mixed: ``paper`` is the published convention (two FLOPs a multiply-accumulate, one for every bias and
activation, transposed convolutions charged at every output pixel and without their bias, no estimator, no overlap);
``macs`` counts true multiply-accumulates.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from enaf_ext.grid import PatchGrid

from .adaptive import AdaptiveNetwork
from .decision import count_exits
from .estimator import Estimator
from .models import MultiExitNetwork

_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.SiLU)


def _layer_costs(layer: nn.Module, source: Tensor, result: Tensor) -> tuple[float, float]:
    """(published FLOPs, true multiply-accumulates) of one call of one layer."""
    if isinstance(layer, _ACTIVATIONS):
        return float(result.numel()), 0.0
    if isinstance(layer, nn.ConvTranspose2d):
        macs = float(layer.weight[0].numel() * source.numel())
        return 2 * macs * layer.stride[0] * layer.stride[1], macs
    if isinstance(layer, nn.Conv2d | nn.Linear):
        macs = float(layer.weight[0].numel() * result.numel())
        return 2 * macs + (0 if layer.bias is None else result.numel()), macs
    return 0.0, 0.0


def _count(module: nn.Module, run: Callable[[], object]) -> tuple[float, float]:
    totals = [0.0, 0.0]

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        published, true = _layer_costs(layer, inputs[0], output)
        totals[0] += published
        totals[1] += true

    handles = [layer.register_forward_hook(add) for layer in module.modules()]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return totals[0], totals[1]


def _exit_costs(network: MultiExitNetwork, patch_size: int) -> list[tuple[float, float]]:
    parameter = next(network.parameters())
    patch = torch.zeros(1, 3, patch_size, patch_size, dtype=parameter.dtype, device=parameter.device)
    learned = range(1, network.num_exits)
    return [(0.0, 0.0)] + [_count(network, partial(network.exit, depth, patch)) for depth in learned]


def paper_flops(network: MultiExitNetwork, patch_size: int = 32) -> Tensor:
    """FLOPs of every exit for one LR patch in the published convention.

    Returns:
        (E,) float64; exit 0 is free. FSRCNN x4: 0, 146.42e6, 315.45e6, 468.21e6.
    """
    return torch.tensor([published for published, _ in _exit_costs(network, patch_size)], dtype=torch.float64)


def true_macs(network: MultiExitNetwork, patch_size: int = 32) -> Tensor:
    """True multiply-accumulates of every exit for one LR patch, (E,) float64."""
    return torch.tensor([true for _, true in _exit_costs(network, patch_size)], dtype=torch.float64)


def estimator_macs(estimator: Estimator, height: int, width: int) -> float:
    """True multiply-accumulates of the estimator's layers over an image of height x width LR pixels; `ops.cell_details`, some
    forty operations a pixel, is not among them."""
    parameter = next(estimator.parameters())
    size = (1, 3, height + 2 * estimator.margin, width + 2 * estimator.margin)
    image = torch.zeros(size, dtype=parameter.dtype, device=parameter.device)
    return _count(estimator, lambda: estimator(image))[1]


def relative_cost(network: MultiExitNetwork, convention: str = "paper") -> Tensor:
    """c of the fusion rule: the cost of every exit as a share of the full one, (E,) float64.

    Args:
        convention: "paper" or "macs".

    Raises:
        ValueError: unknown convention.
    """
    if convention not in ("paper", "macs"):
        raise ValueError(f"convention: expected 'paper' or 'macs', got {convention!r}")
    cost = paper_flops(network) if convention == "paper" else true_macs(network)
    return cost / cost[-1]


@dataclass(frozen=True)
class CostTable:
    """What a model costs, counted once.

    Attributes:
        paper: (E,) float64, published cost of every exit as a share of the full one: c of the fusion rule.
        macs_per_pixel: (E,) float64, true multiply-accumulates of every exit for one LR pixel.
        estimator_macs_per_pixel: the estimator's, for one LR pixel of a large image.
    """

    paper: Tensor
    macs_per_pixel: Tensor
    estimator_macs_per_pixel: float

    @classmethod
    def of(cls, model: AdaptiveNetwork) -> CostTable:
        """Count the multiply-accumulates of a model."""
        one, two = (estimator_macs(model.estimator, 64, width) for width in (64, 128))
        return cls(relative_cost(model.network), true_macs(model.network) / 32**2, (two - one) / 64**2)

    def relative(self, column: str) -> Tensor:
        """c of the fusion rule by "paper" or "macs", (E,) float64."""
        return self.paper if column == "paper" else self.macs_per_pixel / self.macs_per_pixel[-1]

    def spent(
        self, exit_index: Tensor, whole: Sequence[int], grid: PatchGrid, whole_macs: Tensor, scored: bool
    ) -> dict[str, float]:
        """What images cost.

        Args:
            exit_index: (B, rows, cols), exit of every patch.
            whole: of every image the exit that it went through as a whole, 0 if none; patches with a deeper one were run too.
            grid: the patches' grid over an image.
            whole_macs: (E,) float64, multiply-accumulates of every exit over an image as a whole, what it computes twice
                included, over those of the full network without.
            scored: whether all patches were, also of images without patches.

        Returns:
            "paper": mean published cost of the patches over that of the full exit. "macs": true multiply-accumulates of
            the patches, overlap included, and of the estimator, over those of the full network run once over the image
            without tiling.
        """
        counts = count_exits(exit_index.flatten(1), len(self.paper))
        paper = float((torch.tensor(counts, dtype=torch.float64) @ self.paper).sum()) / exit_index.numel()
        patch, scores, as_a_whole = self.patch(grid).tolist(), self.scores(grid), whole_macs.tolist()
        macs = 0.0
        for depth, taken in zip(whole, counts, strict=True):
            deeper = [0] * (depth + 1) + taken[depth + 1 :]
            macs += as_a_whole[depth] + sum(map(operator.mul, deeper, patch))
            macs += scores if scored or depth == 0 or any(deeper) else 0.0
        return {"paper": paper, "macs": macs / len(counts)}

    def routed(self, counts: Tensor, grid: PatchGrid, batch: int = 1) -> float:
        """True multiply-accumulates of routed images over those of the full network run over them as a whole.

        Args:
            counts: (E,), patches that take each exit.
            grid: the patches' grid over an image.
            batch: images.
        """
        return float(counts.double() @ self.patch(grid)) / batch + self.scores(grid)

    def patch(self, grid: PatchGrid) -> Tensor:
        """True multiply-accumulates of a patch at each exit over those of the full network over the image as a whole, (E,)."""
        return self.relative("macs") * (grid.patch_size**2 / (grid.height * grid.width))

    def scores(self, grid: PatchGrid) -> float:
        """Those of the estimator over an image."""
        estimator = grid.padded_height * grid.padded_width * self.estimator_macs_per_pixel
        return estimator / (grid.height * grid.width * float(self.macs_per_pixel[-1]))
