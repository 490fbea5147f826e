# SPDX-License-Identifier: Apache-2.0
"""Loss and validation figures of a run as one picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from enaf.whole_file import whole_file


def draw(entries: Iterable[dict[str, Any]], path: Path) -> None:
    """One column a phase: loss above, validation figures below.

    Args:
        entries: lines of ``log.jsonl``.
        path: PNG to write, atomically.
    """
    from matplotlib.figure import Figure

    phases: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        phases.setdefault(entry["phase"], []).append(entry)
    if not phases:
        return
    figure = Figure(figsize=(5 * len(phases), 7), layout="constrained")
    axes = figure.subplots(2, len(phases), squeeze=False)
    for column, (phase, lines) in enumerate(phases.items()):
        losses = [line for line in lines if "loss" in line]
        axes[0, column].plot([line["step"] for line in losses], [line["loss"] for line in losses], linewidth=0.8)
        axes[0, column].set(title=phase, xlabel="step", ylabel="loss", yscale="log")
        measured = [line for line in lines if "validation" in line]
        for name in measured[-1]["validation"] if measured else ():
            axes[1, column].plot(
                [line["step"] for line in measured], [line["validation"][name] for line in measured], label=name
            )
        axes[1, column].set(xlabel="step", ylabel="validation, dB")
        if measured:
            axes[1, column].legend(fontsize="small")
    with whole_file(path) as part:
        figure.savefig(part, dpi=110, format="png")
