# SPDX-License-Identifier: Apache-2.0
"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv 2409.11321, algorithm 3).

Super-resolution backbones are chains of thin, partly linear layers, which plain Adam fits slowly; their matrices are so
small that the eigenbases cost next to nothing beside the convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class SOAP(torch.optim.Optimizer):
    """Args:
    params: parameters or groups; tensors of two or more dimensions are preconditioned as matrices (first dimension by all
        others), vectors take plain Adam steps.
    lr: learning rate.
    betas: decay of the mean and of the variance.
    preconditioner_beta: decay of the gradient covariances.
    eps: added to the root of the variance.
    refresh: steps between updates of the eigenbases.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        preconditioner_beta: float = 0.95,
        eps: float = 1e-8,
        refresh: int = 10,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "preconditioner_beta": preconditioner_beta,
            "eps": eps,
            "refresh": refresh,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # returns no loss
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        state = self.state[parameter]
        assert parameter.grad is not None
        gradient = parameter.grad.reshape(parameter.shape[0], -1) if parameter.dim() > 1 else parameter.grad
        preconditioned = gradient.dim() > 1
        if not state:
            state["step"] = 0
            state["mean"] = torch.zeros_like(gradient)
            state["variance"] = torch.zeros_like(gradient)
            if preconditioned:
                state["left"], state["right"] = gradient @ gradient.T, gradient.T @ gradient
                state["left_basis"] = torch.linalg.eigh(state["left"])[1]
                state["right_basis"] = torch.linalg.eigh(state["right"])[1]
                return  # the first gradient only sets the basis
        state["step"] += 1
        step = state["step"]
        state["mean"].lerp_(gradient, 1 - beta1)
        rotated, mean = gradient, state["mean"]
        if preconditioned:
            left, right = state["left_basis"], state["right_basis"]
            rotated, mean = left.T @ gradient @ right, left.T @ mean @ right
        state["variance"].lerp_(rotated.square(), 1 - beta2)
        update = mean / (1 - beta1**step) / ((state["variance"] / (1 - beta2**step)).sqrt() + group["eps"])
        if preconditioned:
            update = left @ update @ right.T
        parameter.sub_(update.reshape(parameter.shape), alpha=group["lr"])
        if preconditioned:
            decay = 1 - group["preconditioner_beta"]
            state["left"].lerp_(gradient @ gradient.T, decay)
            state["right"].lerp_(gradient.T @ gradient, decay)
            if step % group["refresh"] == 0:
                for side in ("left", "right"):  # one step of orthogonal iteration
                    state[f"{side}_basis"] = torch.linalg.qr(state[side] @ state[f"{side}_basis"])[0]
