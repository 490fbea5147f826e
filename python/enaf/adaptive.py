# SPDX-License-Identifier: Apache-2.0
"""A multi-exit backbone together with the estimator that routes its patches."""

from __future__ import annotations

from torch import nn

from .estimator import Estimator
from .models import MultiExitNetwork


class AdaptiveNetwork(nn.Module):
    """What a checkpoint holds and an ``Upscaler`` runs.

    Args:
        network: the backbone with its exits.
        estimator: predicts the PSNR of every exit of ``network``.

    Raises:
        ValueError: the two do not have the same number of exits.
    """

    def __init__(self, network: MultiExitNetwork, estimator: Estimator) -> None:
        super().__init__()
        if network.num_exits != estimator.num_exits:
            raise ValueError(
                f"estimator: expected {network.num_exits} exits as the network has, got {estimator.num_exits}"
            )
        self.network = network
        self.estimator = estimator
