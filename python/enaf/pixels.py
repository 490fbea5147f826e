# SPDX-License-Identifier: Apache-2.0
"""Images as callers hand them over and get them back: dtypes, channels, ranks, layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

Read: TypeAlias = Callable[[int, int], Tensor]
"""(top, bottom) -> (B, C, bottom - top, W): rows of images."""
Write: TypeAlias = Callable[..., object]
"""(top, rows, images=None): takes rows of their results (B, C, n, s*W), or of those of them that are named."""
Place: TypeAlias = Callable[[int, int], Tensor | None]
"""(top, bottom) -> where these rows of the results may be made before they are written, or None."""

IMAGE_DTYPES = (torch.uint8, torch.uint16, torch.float16, torch.bfloat16, torch.float32)
LARGEST = {torch.uint8: 255, torch.uint16: 65535}
_WHOLES = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


def nowhere(top: int, bottom: int) -> None:
    """A ``Place`` of rows that are only taken when they are made."""
    return


def check_image(image: Tensor) -> None:
    """Every complaint about an image, before any work.

    Raises:
        TypeError, ValueError: naming ``image``, what was expected and what came.
    """
    if not isinstance(image, Tensor):
        raise TypeError(f"image: expected a tensor, got {type(image).__name__}")
    if image.dtype not in IMAGE_DTYPES:
        raise TypeError(f"image: expected uint8, uint16, float16, bfloat16 or float32, got {image.dtype}")
    if image.dim() not in (3, 4) or image.shape[-3] not in (1, 3) or 0 in image.shape:
        raise ValueError(
            f"image: expected (C, H, W) or (B, C, H, W) with 1 or 3 channels and no empty side, got {tuple(image.shape)}"
        )
    if image.is_floating_point():
        low, high = (float(bound) for bound in image.aminmax())
        if not (low >= -1e-3 and high <= 1 + 1e-3):  # also where a value is not a number
            raise ValueError(f"image: expected floating values in [0, 1], got [{low:g}, {high:g}]")


def as_rgb(image: Tensor) -> Tensor:
    """(B, 1 or 3, H, W) as (B, 3, H, W), without a copy."""
    return image if image.shape[1] == 3 else image.expand(-1, 3, -1, -1)


def unit_range(image: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Values in [0, 1], in a floating dtype."""
    if image.dtype in LARGEST:
        return image.float().div_(LARGEST[image.dtype]).to(dtype)
    return image.to(dtype)


def blended_dtype(image: Tensor) -> torch.dtype:
    """What dtype a result is best blended to: that of ``image`` where nothing is left to be done to it."""
    return image.dtype if image.dtype in LARGEST and image.shape[1] == 3 else torch.float32


def finish(sr: Tensor, image: Tensor) -> Tensor:
    """A result (B, 3, h, w), or before a pixel shuffle (B, 3*s*s, h, w), in the channels and the dtype of ``image``, clamped
    to its range."""
    if sr.dtype == image.dtype and sr.dtype in LARGEST:
        return sr
    if image.shape[1] == 1:
        sr = sr.unflatten(1, (3, -1)).mean(dim=1)
    sr = sr.clamp(0, 1)
    if image.dtype in LARGEST:
        return sr.mul_(LARGEST[image.dtype]).round_().to(torch.int32).to(image.dtype)  # few kernels write uint16
    return sr.to(image.dtype)


def pixel_shuffle(image: Tensor, scale: int) -> Tensor:
    """``torch.nn.functional.pixel_shuffle`` for every dtype; several times faster on a CPU, because the ``scale`` values that
    stay neighbours move as one."""
    batch, _, height, width = image.shape
    whole = _WHOLES.get(scale * image.element_size())
    if whole is None:
        rows = image.unflatten(1, (-1, scale, scale)).permute(0, 1, 4, 2, 5, 3)
    else:
        blocks = image.permute(0, 2, 3, 1).reshape(-1, scale).view(whole).view(batch, height, width, -1, scale)
        rows = blocks.permute(0, 3, 1, 4, 2).flatten().view(image.dtype)
    return rows.reshape(batch, -1, scale * height, scale * width)


@torch.inference_mode(False)
def outside_inference(tensor: Tensor) -> Tensor:
    """The same memory as a tensor that may be changed, and used in what is differentiated."""
    bare = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return bare.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())


def _indexable(image: Tensor) -> Tensor:
    """The same bytes in a dtype that CUDA can index: it cannot index uint16."""
    return image.view(torch.int16) if image.dtype == torch.uint16 else image


def pick(image: Tensor, *index: Any) -> Tensor:
    """``image[index]``, of any dtype on any device."""
    return _indexable(image)[index].view(image.dtype)


class Canvas:
    """An image in memory, read in bands of rows, and its result as it is filled in bands of rows.

    Attributes:
        shape: (B, C, H, W) of the image.
    """

    def __init__(self, image: Tensor, scale: int) -> None:
        self._image = image if image.dim() == 4 else image.unsqueeze(0)
        self._rank = image.dim()
        self.shape = tuple(self._image.shape)
        shape = (*self.shape[:2], self.shape[2] * scale, self.shape[3] * scale)
        last = self._image.is_contiguous(memory_format=torch.channels_last) and not self._image.is_contiguous()
        layout = torch.channels_last if last else torch.contiguous_format
        self._result = torch.empty(shape, dtype=image.dtype, device=image.device, memory_format=layout)

    @property
    def size(self) -> tuple[int, int, int]:
        """(B, H, W) of the image."""
        batch, _, height, width = self.shape
        return batch, height, width

    @property
    def sr(self) -> Tensor:
        """The result, in the image's dtype, rank and memory layout."""
        return outside_inference(self._result if self._rank == 4 else self._result[0])

    def read(self, top: int, bottom: int) -> Tensor:
        """(B, C, bottom - top, W)."""
        return self._image[:, :, top:bottom]

    def rows(self, top: int, bottom: int) -> Tensor | None:
        """A ``Place`` of SR rows of all images, unless they may become other ones."""
        ready = self._result.dtype in LARGEST and self.shape[1] == 3 and self._result.is_contiguous()
        return self._result[:, :, top:bottom] if ready else None

    def write(self, top: int, rows: Tensor, images: list[int] | None = None) -> None:
        """SR rows (B, C, n, s*W) of all images, or of those named, from ``top`` on; all at once are the result, uncopied, and
        those that ``rows`` gave are in their place."""
        bottom = top + rows.shape[2]
        if rows.data_ptr() == self._result[:, :, top:].data_ptr():
            return
        if images is None and (rows.shape, rows.stride()) == (self._result.shape, self._result.stride()):
            self._result = rows
        elif images is None:
            self._result[:, :, top:bottom] = rows
        else:
            _indexable(self._result)[images, :, top:bottom] = _indexable(rows)
