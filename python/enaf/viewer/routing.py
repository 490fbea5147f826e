# SPDX-License-Identifier: Apache-2.0
"""One image that is routed again and again: estimates once, and only what changes is run."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from enaf.adaptive import AdaptiveNetwork
from enaf.cost import CostTable
from enaf.decision import choose_exits
from enaf.models import channels_last
from enaf_ext import ops
from enaf_ext.grid import PatchGrid

BATCH = 32
"""Patches a convolution sees at once."""
CACHE_BYTES = 1 << 30


@dataclass(frozen=True)
class LiveRouting:
    """What one change of eta did.

    Attributes:
        exit_index: (rows, cols) int64.
        counts: (E,) int64, patches that take each exit.
        cost: "paper" and "macs" as in ``CostTable.spent``.
        changed: patches whose exit is another than before.
        run: patches that were run; the others came from memory.
        milliseconds: by stage: "decision", "exits", "blend".
    """

    exit_index: Tensor
    counts: Tensor
    cost: dict[str, float]
    changed: int
    run: int
    milliseconds: dict[str, float]


class LiveRouter:
    """An image on the CPU whose result follows eta.

    Args:
        model: backbone and estimator, on the CPU.
        image: (C, H, W), C = 1 or 3, uint8.
        gamma: decibels granted to bicubic on blank patches.
        cache_bytes: memory for outputs of patches, so that an exit that was seen before costs nothing; the patches
            used longest ago are forgotten.

    Attributes:
        grid: the patches over the image.
        estimate_milliseconds: what the estimates took, once.
        sr: (C, s*H, s*W) uint8, the blended result of the last ``route``: to a level what ``Upscaler`` gives in float32, where
            it routes the image.
        lock: held while ``sr`` changes.
    """

    @torch.inference_mode()
    def __init__(
        self, model: AdaptiveNetwork, image: Tensor, gamma: float = 1.0, cache_bytes: int = CACHE_BYTES
    ) -> None:
        started = time.perf_counter()
        self.network = channels_last(model.network.eval())
        self.scale, self.window = self.network.scale, model.window
        self.gamma = gamma
        self.lock = threading.Lock()
        self._rgb = image.expand(3, -1, -1)[None]
        height, width = image.shape[-2:]
        self.grid = PatchGrid(height, width)
        self._costs = CostTable.of(model)
        self._edge_score = ops.edge_score(image[None], self.grid)
        self._psnr_db = channels_last(model.estimator.eval()).on_grid(self._rgb.float().div_(255), self.grid)
        self._exit_index = torch.full((self.grid.num_patches,), -1)
        self._outputs: OrderedDict[tuple[int, int], Tensor] = OrderedDict()
        patch_bytes = 4 * 3 * (self.scale * self.grid.patch_size) ** 2
        self._capacity = max(1, cache_bytes // patch_bytes)
        self.sr = torch.zeros(image.shape[0], self.scale * height, self.scale * width, dtype=torch.uint8)
        self.estimate_milliseconds = 1e3 * (time.perf_counter() - started)

    @property
    def num_exits(self) -> int:
        """E, bicubic included."""
        return self.network.num_exits

    @torch.inference_mode()
    def route(self, eta: float) -> LiveRouting:
        """Decides again and brings ``sr`` up to date; threads take turns.

        Raises:
            ValueError: eta is negative or not finite.
        """
        if not 0 <= eta < math.inf:
            raise ValueError(f"eta: expected a finite number of at least 0, got {eta}")
        with self.lock:
            started = time.perf_counter()
            chosen = choose_exits(self._psnr_db, self._edge_score, self._costs.paper, eta, self.gamma)
            changed = (chosen != self._exit_index).view(self.grid.rows, self.grid.cols)
            self._exit_index = chosen
            decided = time.perf_counter()
            run, running = 0, 0.0
            for row in changed.any(dim=1).nonzero().flatten().tolist():
                columns = changed[row].nonzero().flatten()
                patches, seconds = self._refresh(row, int(columns[0]), int(columns[-1]))
                run, running = run + patches, running + seconds
            blending = time.perf_counter() - decided - running
        counts = chosen.bincount(minlength=self.num_exits)
        return LiveRouting(
            exit_index=chosen.view(self.grid.rows, self.grid.cols),
            counts=counts,
            cost=self._costs.spent(
                chosen.view(1, self.grid.rows, self.grid.cols),
                [0],
                self.grid,
                self._costs.relative("macs"),
                scored=True,
            ),
            changed=int(changed.sum()),
            run=run,
            milliseconds={"decision": 1e3 * (decided - started), "exits": 1e3 * running, "blend": 1e3 * blending},
        )

    def _refresh(self, row: int, first: int, last: int) -> tuple[int, float]:
        """Blends the patches from column `first` to `last` of a row again, with all neighbours that reach into them.

        Returns:
            Patches that were run, and the seconds that took.
        """
        grid = self.grid
        rows = range(max(0, row - 1), min(grid.rows, row + 2))
        cols = range(max(0, first - 1), min(grid.cols, last + 2))
        named = [r * grid.cols + c for r in rows for c in cols]
        started = time.perf_counter()
        outputs, run = self._run(named)
        seconds = time.perf_counter() - started

        top, left = rows[0] * grid.stride, cols[0] * grid.stride
        height = min(grid.height - top, (len(rows) - 1) * grid.stride + grid.patch_size)
        width = min(grid.width - left, (len(cols) - 1) * grid.stride + grid.patch_size)
        part = PatchGrid(height, width, grid.patch_size, grid.overlap).scaled(self.scale)
        is_grey = self.sr.shape[0] == 1
        blended = ops.fold_patches(outputs, part, window=self.window, dtype=torch.float32 if is_grey else torch.uint8)[
            0
        ]
        if is_grey:
            blended = blended.mean(dim=0, keepdim=True).clamp_(0, 1).mul_(255).round_().to(torch.uint8)
        # Only the squares of the named patches: further out, neighbours are missing from the blend.
        y, x = row * grid.stride, first * grid.stride
        bottom = min(y + grid.patch_size, grid.height)
        right = min(last * grid.stride + grid.patch_size, grid.width)
        here, there = (
            (slice(None), slice(s * (y - dy), s * (bottom - dy)), slice(s * (x - dx), s * (right - dx)))
            for s, dy, dx in ((self.scale, 0, 0), (self.scale, top, left))
        )
        self.sr[here] = blended[there]
        return run, seconds

    def _run(self, patches: list[int]) -> tuple[Tensor, int]:
        """Outputs of patches at their exits, (n, C, P, P) as the network's tails leave them, and how many were run."""
        wanted = [(patch, int(self._exit_index[patch])) for patch in patches]
        found = {key: self._outputs[key] for key in wanted if key in self._outputs}
        missing = [key for key in wanted if key not in found]
        for exit_index in range(self.num_exits):
            alike = [patch for patch, depth in missing if depth == exit_index]
            for start in range(0, len(alike), BATCH):
                batch = alike[start : start + BATCH]
                for patch, output in zip(batch, self._exit(exit_index, torch.tensor(batch)), strict=True):
                    found[patch, exit_index] = output.clone()
        for key in wanted:
            self._outputs[key] = found[key]
            self._outputs.move_to_end(key)
        while len(self._outputs) > self._capacity:
            self._outputs.popitem(last=False)
        return torch.stack([found[key] for key in wanted]), len(missing)

    def _exit(self, exit_index: int, order: Tensor) -> Tensor:
        network = self.network
        if exit_index == 0:
            return ops.bicubic_patches(
                self._rgb, self.grid, order, self.scale, dtype=torch.float32, shuffled=network.shuffled
            )
        features = lr = ops.gather_patches(self._rgb, self.grid, order, dtype=torch.float32, channels_last=True)
        for depth in range(1, exit_index + 1):
            features = network.stage(depth, features)
        return network.tail(exit_index, features, lr)
