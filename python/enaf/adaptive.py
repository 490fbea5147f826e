# SPDX-License-Identifier: Apache-2.0
"""A multi-exit backbone together with the estimator that routes its patches."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from .estimator import Estimator
from .models import MultiExitNetwork

Tiling = Literal["seamless", "paper"]
"""How a runtime puts patches together. "seamless": blended by a linear window, and not tiled at all where routing would cost
more than the network on the whole image. "paper": always tiled, overlaps averaged, as the authors of the paper do."""


class AdaptiveNetwork(nn.Module):
    """What a checkpoint holds and an ``Upscaler`` runs.

    Args:
        network: the backbone with its exits.
        estimator: predicts the PSNR of every exit of ``network``.
        tiling: how its patches are put together.

    Raises:
        ValueError: the two do not have the same number of exits, or the tiling is unknown.
    """

    def __init__(self, network: MultiExitNetwork, estimator: Estimator, tiling: Tiling = "seamless") -> None:
        super().__init__()
        if tiling not in get_args(Tiling):
            raise ValueError(f"tiling: expected {' or '.join(get_args(Tiling))}, got {tiling!r}")
        if network.num_exits != estimator.num_exits:
            raise ValueError(
                f"estimator: expected {network.num_exits} exits as the network has, got {estimator.num_exits}"
            )
        self.network = network
        self.estimator = estimator
        self.tiling = tiling

    @property
    def window(self) -> str:
        """Blend weights of the patches, see ``enaf_ext.ops.fold_patches``. A patch's border knows no neighbours: weights
        that fall off to it were 0.08 dB nearer to the network on the whole image than the paper's mean, on one photograph."""
        return {"seamless": "linear", "paper": "average"}[self.tiling]
