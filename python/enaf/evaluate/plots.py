# SPDX-License-Identifier: Apache-2.0
"""The figures of the report, as SVG with text that stays text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

from enaf.exit_map import exit_names

from .points import Point
from .study import Study

matplotlib.use("Agg")
from matplotlib import pyplot  # after the choice of the backend

STYLES: dict[str, dict[str, Any]] = {
    "enaf": {"color": "#c8372d", "linewidth": 2.2, "zorder": 5},
    "enaf-nb": {"color": "#e39a2d", "linewidth": 1.3},
    "edge-lut": {"color": "#2a6fbb", "linewidth": 1.5},
    "random": {"color": "#8a8f98", "linewidth": 1.2},
    "oracle": {"color": "#3a3f47", "linewidth": 1.2, "linestyle": (0, (4, 2))},
}
COLUMNS = {
    "paper": "published FLOPs,\n% of the full exit",
    "macs": "true MACs,\n% of the full network on the whole image",
    "ms_share": "time,\n% of the full network on the whole image",
}
_RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Arial", "DejaVu Sans"],
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa0a8",
    "axes.labelcolor": "#3a3f47",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.grid": True,
    "grid.color": "#e6e8eb",
    "grid.linewidth": 0.7,
    "xtick.color": "#5a6068",
    "ytick.color": "#5a6068",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "enaf",
}


def _figure(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Any, Any]:
    return pyplot.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained", **options)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


def quality_and_cost(studies: Sequence[Study], path: Path) -> None:
    """PSNR over cost: a row a set, a column a way to count the cost (figure 5 of the paper)."""
    timed = studies[0].candidate.costs.timing is not None
    columns = list(COLUMNS) if timed else list(COLUMNS)[:2]
    with pyplot.rc_context(_RC):
        figure, axes = _figure(len(studies), len(columns), 3.6 * len(columns), 2.7 * len(studies) + 0.5)
        for row, study in zip(axes, studies, strict=True):
            reached = [point.psnr_db for points in study.curves.values() for point in points]
            low = study.full.psnr_db - 0.45 * (study.full.psnr_db - study.exits[0].psnr_db)
            for axis, column in zip(row, columns, strict=True):
                _draw_curves(axis, study, column)
                axis.set_ylim(low, max(*reached, study.full.psnr_db) + 0.06 * (study.full.psnr_db - low))
                axis.set_xlim(left=0)
                axis.axhline(study.full.psnr_db, color="#9aa0a8", linewidth=0.8, linestyle=":")
                if column != "paper":
                    axis.axvline(100, color="#9aa0a8", linewidth=0.8)
            row[0].set_ylabel(f"{study.measured.name}\nPSNR, dB")
        for axis, column in zip(axes[-1], columns, strict=True):
            axis.set_xlabel(COLUMNS[column])
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9)
        _save(figure, path)


def _draw_curves(axis: Any, study: Study, column: str) -> None:
    for name, points in study.curves.items():
        if name in STYLES:
            axis.plot(*_envelope(points, column), label=name, **STYLES[name])
        else:
            axis.plot(100 * getattr(points[0], column), points[0].psnr_db, "D", color="#2f8f5b", ms=6, label=name)
    exits = [(100 * getattr(point, column), point.psnr_db) for point in study.exits]
    axis.plot(*zip(*exits, strict=True), "o", color="white", mec="#3a3f47", ms=5, label="one exit for all", zorder=6)


def _envelope(points: Sequence[Point], column: str) -> tuple[list[float], list[float]]:
    """Cost and PSNR of a curve, one point a cost."""
    unique = {getattr(point, column): point.psnr_db for point in points}
    costs = sorted(unique)
    return [100 * cost for cost in costs], [unique[cost] for cost in costs]


def cost_of_eta(studies: Sequence[Study], path: Path) -> None:
    """Published FLOPs over eta, a line a set (figure 6 of the paper)."""
    shades = pyplot.colormaps["viridis"](np.linspace(0.1, 0.8, len(studies)))
    with pyplot.rc_context(_RC):
        figure, axes = _figure(1, 2, 8.6, 3.1)
        for study, shade in zip(studies, shades, strict=True):
            points = [point for point in study.curves["enaf"] if point.eta <= 3]
            etas = [point.eta for point in points]
            axes[0, 0].plot(etas, [100 * point.paper for point in points], color=shade, label=study.measured.name)
            lost = [point.psnr_db - study.full.psnr_db for point in points]
            axes[0, 1].plot(etas, lost, color=shade, label=study.measured.name)
        axes[0, 0].set(xlabel="eta, dB", ylabel=COLUMNS["paper"], ylim=(0, None))
        axes[0, 1].set(xlabel="eta, dB", ylabel="PSNR above the full exit, dB")
        axes[0, 0].legend()
        _save(figure, path)


def calibration(studies: Sequence[Study], path: Path) -> None:
    """True against predicted PSNR of each exit, and true against predicted gain over bicubic, over the patches of all sets."""
    records = [record for study in studies for record in study.measured.records]
    predicted = torch.cat([record.predicted_db for record in records])
    true = torch.cat([record.psnr_db for record in records])
    names = exit_names(predicted.shape[1])
    with pyplot.rc_context(_RC):
        figure, axes = _figure(2, len(names), 2.7 * len(names), 5.4)
        for depth, name in enumerate(names):
            _draw_calibration(axes[0, depth], predicted[:, depth], true[:, depth], 1.0)
            axes[0, depth].set_title(name)
            if depth:
                gains = [values[:, depth] - values[:, 0] for values in (predicted, true)]
                _draw_calibration(axes[1, depth], gains[0], gains[1], 0.1)
                axes[1, depth].set_xlabel("predicted gain over bicubic, dB")
        axes[0, 0].set(ylabel="true PSNR, dB", xlabel="predicted PSNR, dB")
        axes[1, 1].set_ylabel("true gain, dB")
        axes[1, 0].axis("off")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        axes[1, 0].legend(handles, labels, loc="center")
        _save(figure, path)


def _draw_calibration(axis: Any, predicted: torch.Tensor, true: torch.Tensor, width: float) -> None:
    """Median and middle 80 % of the truth in bins of the prediction, the distribution below."""
    bins = (predicted / width).round()
    centres, counts = torch.unique(bins, return_counts=True)
    kept = [float(centre) for centre, count in zip(centres, counts, strict=True) if count >= len(bins) // 500]
    spread = torch.stack([torch.quantile(true[bins == c], torch.tensor([0.1, 0.5, 0.9])) for c in kept]).T.numpy()
    x = np.array(kept) * width
    axis.axline((x[0], x[0]), slope=1, color="#9aa0a8", linewidth=1, label="perfect")
    axis.fill_between(x, spread[0], spread[2], color="#c8372d", alpha=0.15, linewidth=0, label="middle 80 % of patches")
    axis.plot(x, spread[1], color="#c8372d", linewidth=1.8, label="median of patches")
    axis.set_xlim(x[0] - width / 2, x[-1] + width / 2)
    axis.set_ylim(min(spread[0].min(), x[0]) - width / 2, max(spread[2].max(), x[-1]) + width / 2)
    shares = axis.twinx()
    shares.bar(x, [int((bins == c).sum()) for c in kept], width=width * 0.9, color="#c9cdd3", alpha=0.5, zorder=0)
    shares.set_ylim(0, 5 * max(int((bins == c).sum()) for c in kept))
    shares.axis("off")
