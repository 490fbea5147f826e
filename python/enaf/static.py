# SPDX-License-Identifier: Apache-2.0
"""The full network over a whole image without routing: the best honest alternative, and what routing must beat."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from .models import MultiExitNetwork

TRUNK_PIXELS = 1 << 19
"""LR pixels whose features are in memory at once: rows as many as that leaves, at least ``LEAST_ROWS``."""
TAIL_PIXELS = 1 << 14
"""LR pixels whose features at the size of the result are in memory at once: on a CPU they stay in the cache."""
LEAST_ROWS = 16
RESAMPLING = 2
"""LR pixels that the interpolated input of a tail reaches, beside its convolutions."""


class StaticNetwork:
    """The full exit over strips of rows that overlap by what the network sees, so that no pixel knows of them.

    Args:
        network: prepared for its device and dtype.
    """

    def __init__(self, network: MultiExitNetwork) -> None:
        self.network = network
        self.depth = network.num_exits - 1
        self.trunk_reach, self.tail_reach = _reach(network)

    def run(self, read: Callable[[int, int], Tensor], height: int, width: int) -> Iterator[tuple[int, Tensor]]:
        """From top to bottom.

        Args:
            read: (top, bottom) -> (B, 3, bottom - top, W), in the network's dtype, values in [0, 1].

        Yields:
            First SR row and SR rows (B, 3, rows, s*W), not clamped.
        """
        reach = self.trunk_reach + self.tail_reach
        for first, last in _strips(height, width, TRUNK_PIXELS):
            top, bottom = max(0, first - reach), min(height, last + reach)
            lr = read(top, bottom)
            features = lr
            for depth in range(1, self.depth + 1):
                features = self.network.stage(depth, features)
            for begin, end in _strips(last - first, width, TAIL_PIXELS):
                yield (
                    (first + begin) * self.network.scale,
                    self._tail(features, lr, first - top + begin, first - top + end),
                )

    def _tail(self, features: Tensor, lr: Tensor, begin: int, end: int) -> Tensor:
        """SR pixels of LR rows [begin, end) of a strip."""
        top, bottom = max(0, begin - self.tail_reach), min(lr.shape[2], end + self.tail_reach)
        output = self.network.tail(self.depth, features[:, :, top:bottom], lr[:, :, top:bottom])
        scale = output.shape[2] // (bottom - top)
        return self.network.pixels(output[:, :, (begin - top) * scale : (end - top) * scale])


def _strips(height: int, width: int, pixels: int) -> Iterator[tuple[int, int]]:
    """[0, height) in equal strips of at most about ``pixels`` pixels."""
    count = -(-height // max(LEAST_ROWS, pixels // width))
    for index in range(count):
        yield height * index // count, height * (index + 1) // count


@torch.inference_mode()
def _reach(network: MultiExitNetwork) -> tuple[int, int]:
    """LR pixels that a pixel's features depend on to each side, and that its result depends on features: the sum of all
    convolutions' reaches, which is what a chain of them sees and an upper bound for branches."""
    total = 0.0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += layer.kernel_size[0] // 2 * side / inputs[0].shape[2]
        elif isinstance(layer, nn.ConvTranspose2d):
            total += -(-layer.kernel_size[0] // (2 * layer.stride[0]))

    weight, side = next(network.parameters()), 16
    features = lr = torch.zeros(1, 3, side, side, dtype=weight.dtype, device=weight.device)
    handles = [layer.register_forward_hook(add) for layer in network.modules()]
    try:
        for depth in range(1, network.num_exits):
            features = network.stage(depth, features)
        trunk, total = total, 0.0
        network.tail(network.num_exits - 1, features, lr)
    finally:
        for handle in handles:
            handle.remove()
    return -int(-trunk // 1), -int(-total // 1) + RESAMPLING
