# SPDX-License-Identifier: Apache-2.0
"""One exit over a whole image without routing: with the full one the best honest alternative, and what routing must beat."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from .inference import WORKING_SET, image_dtype
from .models import MultiExitNetwork
from .pixels import Place, Read, Write, as_rgb, blended_dtype, finish, nowhere, pixel_shuffle, unit_range

if TYPE_CHECKING:
    from .engine import Engine

FEATURE_BYTES = {"cpu": WORKING_SET["cpu"], "cuda": 512 << 20}
"""The largest feature map in memory: on a CPU as of a batch of patches, since fresh memory costs more than what is computed
twice; on a GPU whole images up to 1920x1080 for networks with 64 channels."""
TAIL_BYTES = {"cpu": 16 << 20, "cuda": FEATURE_BYTES["cuda"]}
"""The same of a tail, several of whose feature maps are as large."""
FUSED_BYTES = 64 << 20
"""The largest float32 result in memory of a network that keeps its features to itself."""
STRIP_VALUES = 1 << 28
"""Values of the largest strip of the result in memory, which rectangles side by side fill."""
LEAST_SIDE = 16
"""LR pixels."""
WIDE, ALIGNED = 256, 4
"""LR pixels from which on a rectangle's width is a multiple: oneDNN's convolutions in bfloat16 take up to five times as long for
some of the others (271, 363, 478)."""
DENSE = 64
"""Input and output channels of a convolution for which these widths are so frequent that it pays to cut an image for it."""
RESAMPLING = 2
"""LR pixels to each side that the interpolated input reaches, which some tails add."""


class Rectangle(NamedTuple):
    """Some rows and columns of LR pixels."""

    top: int
    bottom: int
    left: int
    right: int

    def grown(self, reach: int, height: int, width: int) -> Rectangle:
        """With ``reach`` more pixels to each side, as far as an image of this size has them."""
        top, left = max(0, self.top - reach), max(0, self.left - reach)
        return Rectangle(top, min(height, self.bottom + reach), left, min(width, self.right + reach))

    def aligned(self, width: int) -> Rectangle:
        """With as many more columns as a ``WIDE`` one needs, as far as an image of this width has them."""
        extra = -(self.right - self.left) % ALIGNED if self.right - self.left > WIDE else 0
        right = min(width, self.right + extra)
        return self._replace(left=max(0, self.left - (self.right + extra - right)), right=right)

    def within(self, other: Rectangle) -> Rectangle:
        """The same in a tensor of the pixels of ``other``."""
        top, left = other.top, other.left
        return Rectangle(self.top - top, self.bottom - top, self.left - left, self.right - left)

    def enlarged(self, scale: int) -> Rectangle:
        """The same in an image ``scale`` times as large."""
        return Rectangle(*(scale * side for side in self))

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns, to index a tensor with."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


class Cut(NamedTuple):
    """Into how many equal rows and columns of rectangles an image is cut, which overlap by what a network sees.

    Attributes:
        rows, columns: how many.
        images: how many images at once, where they are not cut.
        overlap: pixels of all rectangles over those of the image.
    """

    rows: int
    columns: int
    images: int
    overlap: float

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, height: int, width: int, reach: int, most: int, least_rows: int = 1, least_columns: int = 1) -> Cut:
        """The one of least overlap.

        Args:
            height, width: of the image.
            reach: pixels that the network sees to each side.
            most: pixels of a rectangle with what it overlaps, unless its sides would be shorter than ``LEAST_SIDE``.
            least_rows, least_columns: how many there are at least.
        """
        cuts = []
        for columns in range(least_columns, 1 + max(least_columns, width // LEAST_SIDE)):
            # what is left for the height beside a rectangle's width, and beside what it overlaps
            tallest = most // _side(width, columns, reach)
            rows = max(least_rows, 1 if tallest >= height else -(-height // max(LEAST_SIDE, tallest - 2 * reach)))
            area = _side(height, rows, reach) * _side(width, columns, reach)
            spanned = (height + 2 * reach * (rows - 1)) * (width + 2 * reach * (columns - 1))
            cuts.append((max(area, most), spanned, columns, rows))
        *_, columns, rows = min(cuts)
        overlap = _spanned(height, rows, reach) * _spanned(width, columns, reach) / (height * width)
        return cls(rows, columns, max(1, most // (height * width)), overlap)

    def rectangles(self, whole: Rectangle) -> Iterator[Rectangle]:
        """Those of ``whole``, without what they overlap."""
        for top, bottom in parts(whole.top, whole.bottom, self.rows):
            for left, right in parts(whole.left, whole.right, self.columns):
                yield Rectangle(top, bottom, left, right)


def parts(first: int, last: int, count: int) -> Iterator[tuple[int, int]]:
    """[first, last) in ``count`` equal parts."""
    for index in range(count):
        yield first + (last - first) * index // count, first + (last - first) * (index + 1) // count


def _side(size: int, count: int, reach: int) -> int:
    """The longest of ``count`` parts of ``size`` pixels, with what it overlaps."""
    return -(-size // count) + reach * min(2, count - 1)


def _spanned(size: int, count: int, reach: int) -> int:
    """Pixels of all these parts together."""
    return sum(min(size, last + reach) - max(0, first - reach) for first, last in parts(0, size, count))


class StaticNetwork:
    """One exit over rectangles that overlap by what the network sees, so that no pixel knows of them.

    Args:
        network: prepared for its device and dtype.
        depth: the exit, 1 to E-1.
    """

    def __init__(self, network: MultiExitNetwork, depth: int) -> None:
        self.network = network
        self.depth = depth
        self.device = next(network.parameters()).device.type
        self.trunk, self.tail = _look(network, depth)

    @property
    def reach(self) -> int:
        """LR pixels that the exit sees to each side."""
        return self.trunk.reach + self.tail.reach

    def cut(self, height: int, width: int, values: int = 0) -> Cut:
        """How the trunk goes over images of this size, of all of which an LR pixel becomes so many values of the result."""
        least_rows = min(height, max(1, -(-height * width * values // STRIP_VALUES)))
        least_columns = 2 if self.trunk.dense and width > WIDE and width % ALIGNED else 1
        most = FEATURE_BYTES[self.device] // self.trunk.bytes
        return Cut.of(height, width, self.reach, most, least_rows, least_columns)

    def overlap(self, height: int, width: int) -> float:
        """Multiply-accumulates for an image of this size over those without rectangles."""
        cut = self.cut(height, width)
        tail = self._tail_cut(-(-height // cut.rows), -(-width // cut.columns)).overlap
        return (self.trunk.macs * cut.overlap + self.tail.macs * tail) / (self.trunk.macs + self.tail.macs)

    def _tail_cut(self, height: int, width: int) -> Cut:
        return Cut.of(height, width, self.tail.reach, TAIL_BYTES[self.device] // self.tail.bytes)

    def run(self, lr: Tensor, inner: Rectangle) -> Iterator[tuple[int, Rectangle, Tensor]]:
        """The result of a rectangle of images, in parts.

        Args:
            lr: (B, 3, H, W), the images' rectangle with what it overlaps, in the network's ``image_dtype``, values in [0, 1].
            inner: in ``lr``, what of it is wanted.

        Yields:
            First image, rectangle in ``lr``, and the result of some images from that one on there as the network's tail leaves
            it, not clamped.
        """
        features = lr
        for depth in range(1, self.depth + 1):
            features = self.network.stage(depth, features)
        cut = self._tail_cut(inner.bottom - inner.top, inner.right - inner.left)
        for first in range(0, len(lr), cut.images):
            images = slice(first, first + cut.images)
            for part in cut.rectangles(inner):
                seen = part.grown(self.tail.reach, *lr.shape[2:]).aligned(lr.shape[3])
                output = self.network.tail(
                    self.depth, features[(images, ..., *seen.slices)], lr[(images, ..., *seen.slices)]
                )
                scale = output.shape[2] // (seen.bottom - seen.top)  # 1 before a pixel shuffle
                yield first, part, output[(..., *part.within(seen).enlarged(scale).slices)]


class _Needs(NamedTuple):
    """LR pixels that layers see to each side, and for an LR pixel, bytes of the largest feature map and multiply-accumulates;
    whether there is a convolution on a CPU of at least ``DENSE`` channels."""

    reach: int
    bytes: int
    macs: float
    dense: bool


@torch.inference_mode()
def _look(network: MultiExitNetwork, exit: int) -> tuple[_Needs, _Needs]:
    """What the trunk and the tail of an exit need. What is seen is the sum of all convolutions' reaches: right for a chain
    of them, and an upper bound for branches."""
    side, reach, largest, macs, dense = 16, 0.0, 1, 0.0, False

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal reach, largest, macs, dense
        if layer not in first:  # whose result becomes another precision's at once
            largest = max(largest, output.numel() * output.element_size() // side**2)
        if isinstance(layer, nn.Conv2d):
            reach += layer.dilation[0] * (layer.kernel_size[0] // 2) * side / inputs[0].shape[2]
            macs += layer.weight[0].numel() * output.numel() / side**2
            channels = min(layer.in_channels, layer.out_channels) // layer.groups
            dense = dense or (channels >= DENSE and layer.kernel_size[0] > 1 and device.type == "cpu")

    device = next(network.parameters()).device
    first = {layer for name in network.first for layer in getattr(network, name).modules()}
    features = lr = torch.zeros(1, 3, side, side, dtype=image_dtype(network.dtype), device=device)
    handles = [layer.register_forward_hook(add) for layer in network.modules() if not list(layer.children())]
    try:
        for depth in range(1, exit + 1):
            features = network.stage(depth, features)
        trunk = _Needs(math.ceil(reach), largest, macs, dense)
        reach, largest, macs, dense = 0.0, 1, 0.0, False
        network.tail(exit, features, lr)
        return trunk, _Needs(max(math.ceil(reach), RESAMPLING), largest, macs, dense)
    finally:
        for handle in handles:
            handle.remove()


def run_static(
    engine: Engine, depth: int, shape: tuple[int, int, int], read: Read, write: Write, place: Place = nowhere
) -> None:
    """Images of shape (B, H, W) from ``read`` to ``write`` through exit ``depth``; ``place`` as for a ``Job``."""
    for top, sr in static_strips(engine, depth, shape, read, place):
        write(top, sr)


def static_strips(
    engine: Engine, depth: int, shape: tuple[int, int, int], read: Read, place: Place = nowhere
) -> Iterator[tuple[int, Tensor]]:
    """The same as (first row, rows) of the result, from top to bottom."""
    if engine.fused is not None and engine.fused.image is not None:
        yield from _fused_strips(engine, engine.fused.image, depth, shape, read, place)
        return
    batch, height, width = shape
    scale, whole = engine.network.scale, engine.whole(depth)
    cut = whole.cut(height, width, 3 * batch * scale**2)
    for first, last in parts(0, height, cut.rows):
        top, bottom = max(0, first - whole.reach), min(height, last + whole.reach)
        lr, sr = read(top, bottom), place(scale * first, scale * last)
        if sr is None:
            sr = lr.new_empty(batch, lr.shape[1], scale * (last - first), scale * width)
        strip = Rectangle(first - top, last - top, 0, width)
        for start in range(0, batch, cut.images):
            for left, right in parts(0, width, cut.columns):
                inner = strip._replace(left=left, right=right)
                seen = inner.grown(whole.reach, bottom - top, width).aligned(width)
                images = slice(start, start + cut.images)
                image, target = lr[(images, ..., *seen.slices)], sr[images, :, :, scale * left : scale * right]
                inner = inner.within(seen)
                if not _fill(whole, image, inner, target):
                    _fill(engine.whole(depth, exact=True), image, inner, target)
        yield scale * first, sr


def _fill(whole: StaticNetwork, image: Tensor, inner: Rectangle, target: Tensor) -> bool:
    """The result of a rectangle of some images, unless float16 overflows."""
    network, scale = whole.network, whole.network.scale
    lr = unit_range(as_rgb(image), image_dtype(network.dtype)).contiguous(memory_format=torch.channels_last)
    for first, part, output in whole.run(lr, inner):
        if network.dtype == torch.float16 and not bool(output.isfinite().all()):
            return False
        sr = finish(output.float(), image)
        sr = sr if network.shuffled else pixel_shuffle(sr, scale)
        target[(slice(first, first + len(sr)), ..., *part.within(inner).enlarged(scale).slices)] = sr
    return True


def _fused_strips(
    engine: Engine, run: Callable[..., Tensor], depth: int, shape: tuple[int, int, int], read: Read, place: Place
) -> Iterator[tuple[int, Tensor]]:
    """The same by an operator that runs all layers at once."""
    reach, scale = engine.whole(depth).reach, engine.network.scale
    batch, height, width = shape
    pixel_bytes = 3 * 4 * scale**2  # three float32 colours of every SR pixel
    rows = max(LEAST_SIDE, FUSED_BYTES // (batch * width * pixel_bytes))
    for first, last in parts(0, height, -(-height // rows)):
        top, bottom = max(0, first - reach), min(height, last + reach)
        lr = read(top, bottom)
        out = place(scale * first, scale * last)
        sr = run(as_rgb(lr), exit=depth, rows=(first - top, last - top), dtype=blended_dtype(lr), out=out)
        yield first * scale, finish(sr, lr)


class StaticRows:
    """Rows of images that went through an exit as a whole, as they are asked for from top to bottom.

    Args:
        strips: as ``static_strips`` makes them.
    """

    def __init__(self, strips: Iterator[tuple[int, Tensor]]) -> None:
        self.strips, self.top = strips, 0
        self.rows: Tensor | None = None

    def __call__(self, top: int, bottom: int) -> Tensor:
        """(B, C, bottom - top, s*W); rows above ``top`` are forgotten."""
        while self.rows is None or self.top + self.rows.shape[2] < bottom:
            _, strip = next(self.strips)
            self.rows = strip if self.rows is None else torch.cat([self.rows, strip], dim=2)
            self.rows, self.top = self.rows[:, :, max(0, top - self.top) :], max(top, self.top)
        self.rows, self.top = self.rows[:, :, top - self.top :], top
        return self.rows[:, :, : bottom - top]
