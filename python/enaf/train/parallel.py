# SPDX-License-Identifier: Apache-2.0
"""Data parallelism under ``torchrun``: every process holds the same weights and works on its part of each batch.

One flat all-reduce of the gradients a step: the largest backbone has 8 MB of them, too little for overlapping its transfer
with the backward pass to matter, and the losses here go through a network's stages, not through one ``forward`` that
DistributedDataParallel could wrap.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, distributed


@contextmanager
def processes(device: str) -> Iterator[torch.device]:
    """Joins the processes that ``torchrun`` has started, if it has; gives the device of this one."""
    chosen = torch.device(device)
    if not distributed.is_torchelastic_launched():
        yield chosen
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield chosen
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """Number of this process; 0 is the one that writes."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def barrier() -> None:
    """Wait for all processes."""
    if distributed.is_initialized():
        distributed.barrier()


def part(size: int, name: str) -> slice:
    """This process's part of a batch of ``size``.

    Raises:
        ValueError: ``size``, which the user knows as ``name``, is no multiple of the number of processes.
    """
    if size % world_size():
        raise ValueError(f"{name}: expected a multiple of the {world_size()} processes, got {size}")
    share = size // world_size()
    return slice(rank() * share, (rank() + 1) * share)


def add(*tensors: Tensor) -> None:
    """Each tensor becomes its sum over all processes, in place."""
    if distributed.is_initialized():
        for tensor in tensors:
            distributed.all_reduce(tensor)


def average(tensors: Sequence[Tensor]) -> None:
    """Tensors of one dtype become their means over all processes, in place, in one transfer."""
    if distributed.is_initialized():
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        flat /= world_size()
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))
