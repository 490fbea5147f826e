# SPDX-License-Identifier: Apache-2.0
"""The full network over a whole image without routing: the best honest alternative, and what routing must beat."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .inference import image_dtype
from .models import MultiExitNetwork
from .pixels import as_rgb, blended_dtype, finish, pixel_shuffle, unit_range

if TYPE_CHECKING:
    from .engine import Engine, Read, Write

FEATURE_BYTES = 512 << 20
"""The largest feature map in memory: whole images up to 1920x1080 for networks with 64 channels."""
TAIL_BYTES = {"cpu": 24 << 20, "cuda": FEATURE_BYTES}
"""The same of a tail, whose features may have the size of the result: on a CPU as ``WORKING_SET``."""
RESULT_BYTES = 64 << 20
"""The largest float32 result in memory of a network that keeps its features to itself."""
LEAST_ROWS = 16
RESAMPLING = 2
"""LR pixels to each side that the interpolated input reaches, which some tails add."""


class StaticNetwork:
    """The full exit over strips of rows that overlap by what the network sees, so that no pixel knows of them.

    Args:
        network: prepared for its device and dtype.
    """

    def __init__(self, network: MultiExitNetwork) -> None:
        self.network = network
        self.depth = network.num_exits - 1
        self.trunk_reach, self.tail_reach, self.trunk_bytes, self.tail_bytes = _look(network)
        self.most_tail_bytes = TAIL_BYTES[next(network.parameters()).device.type]

    @property
    def reach(self) -> int:
        """LR pixels that the full exit sees to each side."""
        return self.trunk_reach + self.tail_reach

    def strips_of_result(self, height: int, row_pixels: int) -> Iterator[tuple[int, int]]:
        """LR rows [first, last) from top to bottom, whose results are all that is in memory."""
        pixel_bytes = 3 * 4 * self.network.scale**2  # three float32 colours of every SR pixel
        return _strips(0, height, row_pixels * pixel_bytes, RESULT_BYTES)

    def run(
        self, read: Callable[[int, int], Tensor], height: int, row_pixels: int, start: int = 0
    ) -> Iterator[tuple[int, Tensor]]:
        """From top to bottom.

        Args:
            read: (top, bottom) -> (B, 3, bottom - top, W), in the network's ``image_dtype``, values in [0, 1].
            height: H of the images.
            row_pixels: B * W, what one row of all images costs in memory.
            start: LR row to begin with.

        Yields:
            First LR row, and its SR rows as the network's tail leaves them, not clamped.
        """
        reach = self.reach
        for first, last in _strips(start, height, row_pixels * self.trunk_bytes, FEATURE_BYTES):
            top, bottom = max(0, first - reach), min(height, last + reach)
            lr = read(top, bottom)
            features = lr.to(self.network.dtype)
            for depth in range(1, self.depth + 1):
                features = self.network.stage(depth, features)
            for begin, end in _strips(first, last, row_pixels * self.tail_bytes, self.most_tail_bytes):
                yield begin, self._tail(features, lr, begin - top, end - top)

    def _tail(self, features: Tensor, lr: Tensor, begin: int, end: int) -> Tensor:
        """Result of LR rows [begin, end) of a strip."""
        top, bottom = max(0, begin - self.tail_reach), min(lr.shape[2], end + self.tail_reach)
        output = self.network.tail(self.depth, features[:, :, top:bottom], lr[:, :, top:bottom])
        scale = output.shape[2] // (bottom - top)
        return output[:, :, (begin - top) * scale : (end - top) * scale]


def _strips(first: int, last: int, row_bytes: int, most_bytes: int) -> Iterator[tuple[int, int]]:
    """[first, last) in equal strips whose features stay within ``most_bytes``, or have ``LEAST_ROWS``."""
    height = last - first
    count = -(-height // max(LEAST_ROWS, most_bytes // row_bytes))
    for index in range(count):
        yield first + height * index // count, first + height * (index + 1) // count


@torch.inference_mode()
def _look(network: MultiExitNetwork) -> tuple[int, int, int, int]:
    """What the trunk and the tail of the full exit need: LR pixels that they see to each side, and bytes of the largest
    feature map for an LR pixel. What is seen is the sum of all convolutions' reaches: right for a chain of them, and an
    upper bound for branches."""
    side, reach, largest = 16, 0.0, 1

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal reach, largest
        largest = max(largest, output.numel() * output.element_size() // side**2)
        if isinstance(layer, nn.Conv2d):
            reach += layer.dilation[0] * (layer.kernel_size[0] // 2) * side / inputs[0].shape[2]

    dtype, device = network.dtype, next(network.parameters()).device
    lr = torch.zeros(1, 3, side, side, dtype=image_dtype(dtype), device=device)
    features = lr.to(dtype)
    handles = [layer.register_forward_hook(add) for layer in network.modules() if not list(layer.children())]
    try:
        for depth in range(1, network.num_exits):
            features = network.stage(depth, features)
        trunk_reach, trunk_bytes = math.ceil(reach), largest
        reach, largest = 0.0, 1
        network.tail(network.num_exits - 1, features, lr)
        return trunk_reach, max(math.ceil(reach), RESAMPLING), trunk_bytes, largest
    finally:
        for handle in handles:
            handle.remove()


def run_static(engine: Engine, shape: tuple[int, ...], read: Read, write: Write) -> None:
    """Images (B, C, H, W) from ``read`` to ``write`` through the full network."""
    if engine.fused is None or engine.fused.image is None:
        return _run_layers(engine, shape, read, write)
    whole = engine.whole
    for first, last in whole.strips_of_result(shape[2], shape[0] * shape[3]):
        top, bottom = max(0, first - whole.reach), min(shape[2], last + whole.reach)
        lr = read(top, bottom)
        sr = engine.fused.image(as_rgb(lr), rows=(first - top, last - top), dtype=blended_dtype(lr))
        write(first * engine.network.scale, finish(sr, lr))


def _run_layers(engine: Engine, shape: tuple[int, ...], read: Read, write: Write) -> None:
    """The same layer by layer; from where float16 overflows, in float32."""
    whole, like, start, scale = engine.whole, None, 0, engine.network.scale

    def read_rgb(top: int, bottom: int) -> Tensor:
        nonlocal like
        like = read(top, bottom)
        dtype = image_dtype(whole.network.dtype)
        return unit_range(as_rgb(like), dtype).contiguous(memory_format=torch.channels_last)

    while start < shape[2]:
        for first, rows in whole.run(read_rgb, shape[2], shape[0] * shape[3], start):
            if whole.network.dtype == torch.float16 and not bool(rows.isfinite().all()):
                whole, start = engine.whole_exact, first
                break
            assert like is not None
            sr = finish(rows.float(), like)
            sr = sr if engine.network.shuffled else pixel_shuffle(sr, scale)
            write(first * scale, sr)
            start = first + sr.shape[2] // scale
