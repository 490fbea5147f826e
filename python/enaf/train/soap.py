# SPDX-License-Identifier: Apache-2.0
"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv 2409.11321, algorithm 3).

Super-resolution backbones are chains of thin, partly linear layers, which plain Adam fits slowly; their matrices are so
small that the eigenbases cost next to nothing beside the convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class SOAP(torch.optim.Optimizer):
    """Parameters of one shape are updated as one batch; the batch's state lives with its first parameter.

    Args:
        params: parameters or groups; every step needs the gradients of the same ones.
        lr: learning rate.
        betas: decay of the mean and of the variance.
        preconditioner_beta: decay of the gradient covariances.
        eps: added to the root of the variance.
        refresh: steps between updates of the eigenbases.
        max_dimension: side of the largest eigenbasis. A weight is preconditioned as a matrix (first dimension by all others)
            where that fits, otherwise as a tensor (first, second, all others), and not at all along a dimension that does
            not fit. Vectors take plain Adam steps.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.98, 0.98),
        preconditioner_beta: float = 0.98,
        eps: float = 1e-8,
        refresh: int = 10,
        max_dimension: int = 256,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "preconditioner_beta": preconditioner_beta,
            "eps": eps,
            "refresh": refresh,
            "max_dimension": max_dimension,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # returns no loss
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            batches: dict[tuple[int, ...], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shape = _folded(parameter.shape, group["max_dimension"])
                    batches.setdefault(shape, []).append(parameter)
            for shape, parameters in batches.items():
                self._update(parameters, shape, group)

    def _update(self, parameters: list[Tensor], shape: tuple[int, ...], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        gradient = torch.stack([p.grad.reshape(shape) for p in parameters if p.grad is not None])
        sides = [
            d for d in range(1, gradient.dim()) if len(shape) > 1 and 1 < gradient.shape[d] <= group["max_dimension"]
        ]
        state = self.state[parameters[0]]
        if not state:
            state["step"] = 0
            state["mean"] = torch.zeros_like(gradient)
            state["variance"] = torch.zeros_like(gradient)
            for side in sides:
                state[f"covariance{side}"] = _covariance(gradient, side)
                # float32 does not converge on a trained network's first gradients: tiny, and of low rank
                state[f"basis{side}"] = torch.linalg.eigh(state[f"covariance{side}"].double())[1].to(gradient.dtype)
            if sides:
                return  # the first gradient only sets the basis
        state["step"] += 1
        step = state["step"]
        state["mean"].lerp_(gradient, 1 - beta1)
        rotated, mean = gradient, state["mean"]
        for side in sides:
            rotated, mean = (_multiply(x, state[f"basis{side}"], side) for x in (rotated, mean))
        state["variance"].lerp_(rotated.square(), 1 - beta2)
        update = mean / (1 - beta1**step) / ((state["variance"] / (1 - beta2**step)).sqrt() + group["eps"])
        for side in sides:
            update = _multiply(update, state[f"basis{side}"].mT, side)
        for parameter, change in zip(parameters, update, strict=True):
            parameter.sub_(change.view(parameter.shape), alpha=group["lr"])
        for side in sides:
            covariance = state[f"covariance{side}"].lerp_(_covariance(gradient, side), 1 - group["preconditioner_beta"])
            if step % group["refresh"] == 0:  # one step of orthogonal iteration
                state[f"basis{side}"] = torch.linalg.qr(covariance @ state[f"basis{side}"])[0]


def _folded(shape: torch.Size, max_dimension: int) -> tuple[int, ...]:
    """The shape as which a parameter is preconditioned."""
    if len(shape) < 2:
        return (math.prod(shape),)
    if len(shape) == 2 or math.prod(shape[1:]) <= max_dimension:
        return (shape[0], math.prod(shape[1:]))
    return (shape[0], shape[1], math.prod(shape[2:]))


def _covariance(gradient: Tensor, side: int) -> Tensor:
    """(n, ..., d, ...) -> (n, d, d): products along dimension ``side``, summed over the others."""
    matrix = gradient.movedim(side, 1).flatten(2)
    return matrix @ matrix.mT


def _multiply(x: Tensor, basis: Tensor, side: int) -> Tensor:
    """``x`` (n, ..., d, ...) with ``basis`` (n, d, d) applied from the right along dimension ``side``."""
    moved = x.movedim(side, -1)
    return (moved.flatten(1, -2) @ basis).view(moved.shape).movedim(-1, side)
