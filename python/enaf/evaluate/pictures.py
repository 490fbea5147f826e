# SPDX-License-Identifier: Apache-2.0
"""Pictures of the report: which patch took which exit, and the same crop by every method."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from enaf.degradation import resize
from enaf.exit_map import draw_exit_map
from enaf.image_io import write_image

from .policies import Policy, Uniform
from .protocol import PROTOCOLS
from .quality import render
from .record import ImageRecord
from .sets import Crop, read_original
from .study import Study

MAP_WIDTH = 760
CROP = 176
"""Pixels of the HR image a side."""


def draw(
    study: Study, record: ImageRecord, path: Path, crop: Crop | None, folder: Path, stem: str
) -> list[tuple[str, str]]:
    """The exit map of ``enaf`` within 0.02 dB of the full network, and crops of every method.

    Args:
        study: of the set that holds the image.
        record: of the image, by the protocol of the paper.
        path: its original.
        crop: see ``read_original``.
        folder: where the pictures go.
        stem: how their names begin.

    Returns:
        (caption, file name), the map first.
    """
    candidate, protocol = study.candidate, PROTOCOLS["paper"]
    model, cost = candidate.network, candidate.costs.table.paper
    _, hr = protocol.pair(read_original(path, crop), model.network.scale)
    y, x = _telling_corner(record, model.network.scale, hr)
    settings: dict[str, tuple[Policy, float]] = {
        "bicubic": (Uniform(0), 0.0),
        "full network": (Uniform(len(cost) - 1), 0.0),
    }
    policies = candidate.policies()
    for name in ("edge-lut", "class", "enaf"):
        if name in policies:
            point = study.matched(name, "M")
            settings[name] = (policies[name], study.curves[name][0].eta if point is None else point.eta)
    crops = [("original", _cut(hr, y, x))]
    exits = torch.zeros(record.num_patches, dtype=torch.int64)
    for name, (policy, eta) in settings.items():
        exits = policy.choose(record, cost, eta)
        sr = (render(model, record, exits, protocol).clamp(0, 1) * 255).round().to(torch.uint8)
        crops.append((f"{name}, {record.psnr(exits)[0]:.2f} dB", _cut(sr, y, x)))
    small = resize(hr, round(hr.shape[1] * MAP_WIDTH / hr.shape[2]), MAP_WIDTH)
    picture = draw_exit_map(small, exits.view(record.grid.rows, record.grid.cols), record.grid, len(cost))
    pictures = [("map", picture), *crops]
    written = []
    for index, (caption, pixels) in enumerate(pictures):
        name = f"{stem}-{index}.webp"
        write_image(folder / name, pixels, quality=86 if index else 80)
        written.append((caption, name))
    return written


def _cut(image: Tensor, y: int, x: int) -> Tensor:
    return image[:, y : y + CROP, x : x + CROP]


def _telling_corner(record: ImageRecord, scale: int, hr: Tensor) -> tuple[int, int]:
    """Where to look: around the patch whose error the full network lowers most."""
    gain = 10 ** (-record.psnr_db[:, 0] / 10) - 10 ** (-record.psnr_db[:, -1] / 10)
    y, x = (scale * side for side in record.grid.origin(int(gain.argmax())))
    margin = (CROP - scale * record.grid.patch_size) // 2
    return (
        max(0, min(y - margin, hr.shape[1] - CROP)),
        max(0, min(x - margin, hr.shape[2] - CROP)),
    )
