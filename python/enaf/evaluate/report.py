# SPDX-License-Identifier: Apache-2.0
"""Figures of one model on one folder of originals, as text and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from enaf.adaptive import AdaptiveNetwork
from enaf.train.data import list_images, manifest_hash, read_rgb

from .protocol import Point, cheapest_within, estimator_error, evaluate_image, sweep, uniform_psnr

TOLERANCE_DB = 0.02
"""How far below the full exit a routed set may stay and still count as equal."""


@dataclass(frozen=True)
class Report:
    """Attributes: all PSNR in dB (mean over images), all costs as shares of the full exit in the published convention."""

    images: list[str]
    data_sha256: str
    patches: int
    exit_psnr_db: list[float]
    estimator_error_db: list[float]
    gamma: float
    curve: list[Point]
    matched: Point
    oracle_matched: Point

    def text(self) -> str:
        """A table for the terminal."""
        depths = range(len(self.exit_psnr_db))
        lines = [
            f"{len(self.images)} images, {self.patches} patches, data {self.data_sha256[:12]}",
            "protocol: patches of 32 every 28, covered area, RGB, unclamped floats, border of `scale` pixels left out",
            "",
            "exit              " + "".join(f"{depth:>9}" for depth in depths),
            "PSNR, dB          " + "".join(f"{value:>9.3f}" for value in self.exit_psnr_db),
            "estimator error   " + "".join(f"{value:>9.3f}" for value in self.estimator_error_db),
            "",
            f"{'eta':>6}{'PSNR, dB':>10}{'cost':>8}",
            *(f"{point.eta:>6g}{point.psnr_db:>10.3f}{point.cost:>8.1%}" for point in self.curve),
            "",
            f"within {TOLERANCE_DB} dB of the full exit: cost {self.matched.cost:.1%} at eta {self.matched.eta:g} "
            f"({self.matched.psnr_db:.3f} dB); an oracle needs {self.oracle_matched.cost:.1%}",
        ]
        return "\n".join(lines)

    def write_json(self, path: Path) -> None:
        """The same figures, machine-readable."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def evaluate_folder(
    model: AdaptiveNetwork,
    folder: Path,
    etas: Sequence[float],
    gamma: float = 1.0,
    crop: tuple[int, int] | None = None,
) -> Report:
    """Evaluate a model on every image below ``folder``.

    Args:
        etas: settings of the curve.
        gamma: bonus of blank patches, dB.
        crop: (width, height) of the centre to use of larger originals.

    Raises:
        ValueError: no image there, or one that is too small.
    """
    paths = list_images(folder)
    images = []
    for path in paths:
        hr = read_rgb(path)
        if crop is not None:
            top, left = (
                max(0, side - wanted) // 2 // 4 * 4 for side, wanted in zip(hr.shape[1:], crop[::-1], strict=True)
            )
            hr = hr[:, top : top + crop[1], left : left + crop[0]].contiguous()
        images.append(evaluate_image(model, hr))
    exits = uniform_psnr(model, images)
    target = exits[-1] - TOLERANCE_DB
    return Report(
        images=[path.name for path in paths],
        data_sha256=manifest_hash(paths),
        patches=sum(image.grid.num_patches for image in images),
        exit_psnr_db=exits,
        estimator_error_db=estimator_error(images),
        gamma=gamma,
        curve=sweep(model, images, etas, gamma),
        matched=cheapest_within(model, images, target, gamma),
        oracle_matched=cheapest_within(model, images, target, oracle=True),
    )
