# SPDX-License-Identifier: Apache-2.0
"""Memory handed from call to call: the same for calls one after another, never shared by two at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

import enaf_ext
from enaf.workspace import Workspace

CPU = torch.device("cpu")


def start_of(workspace: Workspace, count: int) -> int:
    with workspace.room() as room:
        return room.empty((count,), torch.float32).data_ptr()


def test_the_next_call_finds_the_memory_of_the_last() -> None:
    workspace = Workspace(CPU)
    first = start_of(workspace, 1000)
    assert start_of(workspace, 10) == first
    with workspace.room() as room:
        assert room.empty((2, 3), torch.float16).shape == (2, 3)
        assert room.empty((5000,), torch.uint8).dtype == torch.uint8  # more than there was
    assert start_of(workspace, 1250) == start_of(workspace, 1250)


def test_calls_at_the_same_time_share_nothing() -> None:
    workspace = Workspace(CPU)
    start_of(workspace, 100)
    with workspace.room() as one, workspace.room() as other:
        assert one.empty((100,), torch.float32).data_ptr() != other.empty((100,), torch.float32).data_ptr()


def test_a_room_left_by_an_error_is_given_up() -> None:
    workspace = Workspace(CPU)
    first = start_of(workspace, 100)

    def fails() -> None:
        with workspace.room() as room:
            kept.append(room.empty((100,), torch.float32))
            raise ZeroDivisionError

    kept: list[Tensor] = []
    with pytest.raises(ZeroDivisionError):
        fails()
    assert kept[0].data_ptr() == first
    assert start_of(workspace, 100) != first


def test_threads_give_the_bytes_of_one() -> None:
    upscaler = enaf_ext.Upscaler("fsrcnn")
    images = [torch.randint(0, 256, (3, 60 + 9 * n, 70), dtype=torch.uint8) for n in range(8)]

    def upscale(image: Tensor) -> Tensor:
        return upscaler(image, budget=0.4)

    expected = [upscale(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert all(torch.equal(*pair) for pair in zip(pool.map(upscale, images), expected, strict=True))
