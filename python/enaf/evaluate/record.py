# SPDX-License-Identifier: Apache-2.0
"""One image, measured once, so that the PSNR of every possible routing can be told without its pixels.

A blended pixel is the weighted mean of the patches that cover it, so its error is the weighted sum of their errors, and the
squared error of the whole image is

    sum_n <e_n, e_n> + 2 sum_{neighbours n, m} <e_n, e_m>,   e_n = w_n * (sr_n - hr_n),

with w_n the weights of the blend, zero outside of what counts. The first product depends on the exit of one patch, the second on
the exits of two. A few numbers a patch thus stand for all E^N results (ours). They are exact: no pixel is approximated.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from enaf.adaptive import AdaptiveNetwork
from enaf.inference import prepare
from enaf.metrics import luma_weights
from enaf.models import MultiExitNetwork
from enaf.whole_file import write_whole
from enaf_ext import ops
from enaf_ext.grid import PatchGrid

from .protocol import LARGEST_PSNR, ROUNDING_ERROR, Protocol, values

NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""(rows, columns) from a patch to those it overlaps with that come later."""

BATCH = 32
"""Patches at once."""


@dataclass(frozen=True)
class ImageRecord:
    """Everything about one image that any routing could ask for.

    Attributes:
        name: of the file.
        lr: (3, h, w) uint8, the part that counts.
        grid: the patches over ``lr``.
        psnr_db: (N, E), true PSNR of every exit on every patch without its border, at most ``LARGEST_PSNR``.
        predicted_db: (N, E), the estimator's.
        edge_score: (N,).
        own: (2, N, E) float64, <e_n, e_n> of each exit in RGB and in Y.
        shared: (2, 4, N, E, E) float64, <e_n, e_m> with each of ``NEIGHBOURS``, zero where there is none.
        pixels: HR pixels that count.
        rounding: mean squared error that the rounding of the result adds.
        key: tells what was measured and how apart from everything else; empty where nothing is to be kept.
    """

    name: str
    lr: Tensor
    grid: PatchGrid
    psnr_db: Tensor
    predicted_db: Tensor
    edge_score: Tensor
    own: Tensor
    shared: Tensor
    pixels: int
    rounding: float
    key: str = ""

    @property
    def num_patches(self) -> int:
        """N."""
        return self.grid.num_patches

    def psnr(self, exit_index: Tensor) -> tuple[float, float]:
        """PSNR in dB of the blended image in RGB and in Y, when patch n takes ``exit_index[n]``."""
        chosen = exit_index.view(self.grid.rows, self.grid.cols)
        index = torch.arange(self.num_patches).view_as(chosen)
        error = self.own[:, torch.arange(self.num_patches), exit_index].sum(dim=1)
        for direction, (down, right) in enumerate(NEIGHBOURS):
            here, there = _pairs(index, down, right)
            products = self.shared[:, direction, here, exit_index[here], exit_index[there]]
            error = error + 2 * products.sum(dim=1)
        # the roundings of R, G and B are independent, so their errors add up in Y by the squares of its weights
        rounding = self.rounding * torch.stack([torch.ones(()), luma_weights(torch.ones(())).square().sum()])
        mean = error / self.pixels / error.new_tensor([3.0, 1.0]) + rounding
        rgb, y = (-10 * torch.log10(mean)).tolist()
        return rgb, y

    def counts(self, exit_index: Tensor) -> Tensor:
        """(E,) patches that take each exit."""
        return torch.bincount(exit_index, minlength=self.psnr_db.shape[1])

    def save(self, path: Path) -> None:
        """Write atomically."""
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        header = {
            "name": self.name,
            "grid": json.dumps([self.grid.height, self.grid.width, self.grid.patch_size, self.grid.overlap]),
            "pixels": str(self.pixels),
            "rounding": repr(self.rounding),
        }
        write_whole(path, save(tensors, metadata=header))

    @classmethod
    def load(cls, path: Path) -> ImageRecord | None:
        """What ``save`` wrote; None where there is no such file or it is damaged, so that it is measured again."""
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
            grid = PatchGrid(*json.loads(header["grid"]))
            return cls(
                name=header["name"],
                grid=grid,
                pixels=int(header["pixels"]),
                rounding=float(header["rounding"]),
                **tensors,
            )
        except (OSError, SafetensorError, KeyError, ValueError):
            return None


_TENSORS = ("lr", "psnr_db", "predicted_db", "edge_score", "own", "shared")


def _pairs(index: Tensor, down: int, right: int) -> tuple[Tensor, Tensor]:
    """Indices of all patches that have a neighbour in a direction, and those of the neighbours."""
    rows, cols = index.shape
    here = index[: rows - down, max(0, -right) : cols - max(0, right)]
    there = index[down:, max(0, right) : cols - max(0, -right)]
    return here.reshape(-1), there.reshape(-1)


@torch.inference_mode()
def measure(model: AdaptiveNetwork, hr: Tensor, protocol: Protocol, name: str = "") -> ImageRecord:
    """Run every exit on every patch of one image.

    Two rows of patches are in memory at a time, so that images of any size can be measured.

    Args:
        model: in evaluation mode, on any device.
        hr: (3, H, W) uint8 on the CPU.
        protocol: which pixels count and how.
        name: kept in the record.

    Raises:
        ValueError: the image is too small.
    """
    scale, exits = model.network.scale, model.network.num_exits
    lr, hr = protocol.pair(hr, scale)
    grid = protocol.grid(lr)
    image = lr[None].to(next(model.parameters()).device)
    network = prepare(model.network, image.device, torch.float32)
    psnr_db = torch.empty(grid.num_patches, exits)
    own = torch.zeros(2, grid.num_patches, exits, dtype=torch.float64)
    shared = torch.zeros(2, len(NEIGHBOURS), grid.num_patches, exits, exits, dtype=torch.float64)
    index = torch.arange(grid.num_patches).view(grid.rows, grid.cols)
    above: Tensor | None = None
    for row in range(grid.rows):
        errors = _errors(network, image, hr[None].to(image.device), grid, index[row], protocol)
        weight = _weights(grid, row, scale, scale if protocol.border else 0, protocol.window(model)).to(image.device)
        psnr_db[index[row]] = _patch_psnr(errors, weight, scale).cpu()
        errors *= weight
        errors = torch.cat([errors, (errors * luma_weights(errors)).sum(dim=2, keepdim=True)], dim=2)
        own[:, index[row]] = _spaces(errors.square().sum(dim=(3, 4)).permute(2, 1, 0))
        for direction, (down, right) in enumerate(NEIGHBOURS):
            earlier = above if down else errors
            if earlier is None or grid.overlap == 0 or grid.cols <= abs(right):
                continue
            here, there = _pairs(index[row - down : row + 1], down, right)
            first = _strip(earlier[:, here % grid.cols], grid.overlap * scale, down, right)
            second = _strip(errors[:, there % grid.cols], grid.overlap * scale, -down, -right)
            products = torch.einsum("incyx,jncyx->cnij", first, second)
            shared[:, direction, here] = _spaces(products)
        above = errors
    border = scale if protocol.border else 0
    return ImageRecord(
        name=name,
        lr=lr,
        grid=grid,
        psnr_db=psnr_db,
        predicted_db=model.estimator.on_grid(values(image), grid).cpu(),
        edge_score=ops.edge_score(image, grid).cpu(),
        own=own,
        shared=shared,
        pixels=(hr.shape[-2] - 2 * border) * (hr.shape[-1] - 2 * border),
        rounding=ROUNDING_ERROR if protocol.eight_bit else 0.0,
    )


def _errors(
    network: MultiExitNetwork, lr: Tensor, hr: Tensor, grid: PatchGrid, order: Tensor, protocol: Protocol
) -> Tensor:
    """sr - hr of every exit on some patches, (E, n, 3, s*P, s*P) float32."""
    result = []
    for chosen in order.to(lr.device).split(BATCH):
        patches = ops.gather_patches(lr, grid, chosen, dtype=torch.float32, channels_last=True)
        target = ops.gather_patches(hr, grid.scaled(network.scale), chosen, dtype=torch.float32)
        outputs = torch.stack([network.exit(0, patches), *network(patches)])
        result.append((outputs.clamp_(0, 1) if protocol.eight_bit else outputs) - target)
    return torch.cat(result, dim=1)


def _weights(grid: PatchGrid, row: int, scale: int, border: int, window: str) -> Tensor:
    """(cols, 1, s*P, s*P): the blend's weights of one row of patches, zero on pixels that do not count."""
    down = _axis_weights(grid.rows, grid.height, grid, scale, border, window)[row]
    right = _axis_weights(grid.cols, grid.width, grid, scale, border, window)
    return down[:, None] * right[:, None, None, :]


def _axis_weights(count: int, side: int, grid: PatchGrid, scale: int, border: int, window: str) -> Tensor:
    """(count, s*P): the same along one axis."""
    position = torch.arange(grid.patch_size * scale) + torch.arange(count)[:, None] * grid.stride * scale
    weights = ((position >= border) & (position < side * scale - border)).float()
    overlap = grid.overlap * scale
    later = (torch.arange(overlap) + 0.5) / overlap if window == "linear" else torch.full((overlap,), 0.5)
    weights[1:, :overlap] *= later
    weights[:-1, grid.stride * scale :] *= 1 - later
    return weights


def _patch_psnr(errors: Tensor, weight: Tensor, scale: int) -> Tensor:
    """(n, E): PSNR of every exit on whole patches, their borders and what lies outside the image left out."""
    inner = (weight > 0).float()
    inner[..., :scale, :] = inner[..., -scale:, :] = 0
    inner[..., :, :scale] = inner[..., :, -scale:] = 0
    mean = (errors.square() * inner).sum(dim=(2, 3, 4)) / (3 * inner.sum(dim=(1, 2, 3)))
    return (-10 * torch.log10(mean)).clamp(max=LARGEST_PSNR).T


def _strip(errors: Tensor, overlap: int, down: int, right: int) -> Tensor:
    """The part of patches that they share with a neighbour in a direction."""
    span = {0: slice(None), 1: slice(-overlap, None), -1: slice(0, overlap)}
    return errors[..., span[down], span[right]]


def _spaces(channels: Tensor) -> Tensor:
    """Sums over R, G, B, Y (4, ...) as RGB and Y (2, ...), float64 on the CPU."""
    channels = channels.double().cpu()
    return torch.stack([channels[:3].sum(dim=0), channels[3]])
