# SPDX-License-Identifier: Apache-2.0
"""What the tests of the operators share: geometries, images in every dtype and layout, and a check of compilation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from enaf_ext.grid import PatchGrid

PIXELS = (torch.uint8, torch.uint16, torch.float16, torch.bfloat16, torch.float32, torch.float64)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Case(NamedTuple):
    """An image and the grid over it."""

    batch: int
    channels: int
    height: int
    width: int
    patch_size: int
    overlap: int
    layout: str = "contiguous"

    @property
    def grid(self) -> PatchGrid:
        return PatchGrid(self.height, self.width, self.patch_size, self.overlap)

    @property
    def count(self) -> int:
        return self.batch * self.grid.num_patches


CASES = [
    pytest.param(Case(1, 3, 37, 53, 8, 2), id="non-dividing"),
    pytest.param(Case(2, 3, 45, 70, 32, 4, "channels_last"), id="default-channels_last"),
    pytest.param(Case(1, 1, 32, 32, 32, 4), id="one-patch"),
    pytest.param(Case(2, 3, 1, 1, 4, 2), id="one-pixel"),
    pytest.param(Case(1, 3, 20, 9, 5, 2, "sliced"), id="maximal-overlap-sliced"),
    pytest.param(Case(1, 3, 24, 18, 6, 0, "permuted"), id="no-overlap-permuted"),
    pytest.param(Case(1, 2, 13, 7, 4, 2, "expanded"), id="expanded"),
    pytest.param(Case(0, 3, 16, 16, 8, 2), id="empty-batch"),
    pytest.param(Case(1, 3, 5, 300, 9, 4), id="wide"),
]


def random_pixels(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Random values over the whole range of a dtype, [0, 1] for floating ones."""
    if dtype.is_floating_point:
        return torch.rand(shape, dtype=torch.float64).to(dtype).to(device)
    return torch.randint(0, torch.iinfo(dtype).max + 1, shape, dtype=torch.int64).to(dtype).to(device)


def image_of(case: Case, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A random image in the case's layout."""
    shape = (case.batch, case.channels, case.height, case.width)
    if case.layout == "sliced":
        return random_pixels((shape[0], shape[1] + 1, shape[2] + 3, shape[3] + 5), dtype, device)[:, 1:, 2:-1, 4:-1]
    if case.layout == "permuted":
        return random_pixels((shape[3], shape[0], shape[2], shape[1]), dtype, device).permute(1, 3, 2, 0)
    if case.layout == "expanded":
        return random_pixels((shape[0], 1, shape[2], 1), dtype, device).expand(shape)
    image = random_pixels(shape, dtype, device)
    return image.contiguous(memory_format=torch.channels_last) if case.layout == "channels_last" else image


def assert_compiles_once(function: Callable[..., Any], *calls: tuple[Any, ...]) -> None:
    """`function` compiles in one graph that serves every call, and gives what it gives uncompiled."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=backend)
    for arguments in calls:
        torch.testing.assert_close(compiled(*arguments), function(*arguments), rtol=0, atol=0)
    assert len(graphs) == 1
