# SPDX-License-Identifier: Apache-2.0
"""The tables of the report."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from enaf.exit_map import exit_names

from .points import Costs, Point, evaluate
from .study import LETTERS, Candidate, Study
from .summary import Summary

DEFAULT_ETA = 1.0
"""Of the product."""


@dataclass(frozen=True)
class Table:
    """Attributes: stem: of its CSV; title, note: above and below; columns: (heading, format); rows; marked: rows to stress."""

    stem: str
    title: str
    columns: list[tuple[str, str]]
    rows: list[list[Any]]
    note: str = ""
    marked: tuple[str, ...] = ()

    def cells(self) -> list[list[str]]:
        """The rows as they are shown; what is not known is a dash."""
        formats = [form for _, form in self.columns]
        return [
            ["–" if v is None else v if isinstance(v, str) else f.format(v) for f, v in zip(formats, row, strict=True)]
            for row in self.rows
        ]

    def write(self, folder: Path) -> None:
        """The rows as CSV."""
        with (folder / f"{self.stem}.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([title for title, _ in self.columns])
            writer.writerows(self.rows)


_QUALITY = [("PSNR, dB", "{:.2f}"), ("to full, dB", "{:+.2f}"), ("PSNR Y, dB", "{:.2f}")]
_COST = [("FLOPs, M", "{:.0f}"), ("FLOPs", "{:.0%}"), ("true MACs", "{:.0%}")]
_TIME = [("time", "{:.0%}"), ("ms", "{:.0f}")]


def _cost_columns(costs: Costs) -> list[tuple[str, str]]:
    """What ``_cost`` gives."""
    return _COST + (_TIME if costs.timing else [])


def _cost(point: Point, costs: Costs) -> list[Any]:
    """The cost of a setting in all columns that are known."""
    times = [point.ms_share, point.ms] if costs.timing else []
    return [point.paper * costs.full_flops / 1e6, point.paper, point.macs, *times]


def stem(candidate: Candidate, kind: str, study: Study | None = None) -> str:
    return "-".join([kind, candidate.name] + ([] if study is None else [study.measured.name]))


def matched_table(study: Study) -> Table:
    """Table 1 of the paper."""
    costs, full = study.candidate.costs, study.full
    rows: list[list[Any]] = []
    columns = [("", ""), ("eta", "{:g}"), *_QUALITY, *_cost_columns(costs)]

    def add(label: str, point: Point | None, eta: float | None = None) -> None:
        if point is None:
            best = max(each.psnr_db for each in study.curves[label.rpartition("-")[0]])
            rows.append([label, None, f"at most {best:.2f}", *[None] * (len(columns) - 3)])
        else:
            quality = [point.psnr_db, point.psnr_db - full.psnr_db, point.psnr_y_db]
            rows.append([label, eta, *quality, *_cost(point, costs)])

    for name, point in zip(exit_names(len(study.exits)), study.exits, strict=True):
        add(name, point)
    if "class" in study.curves:
        add("class", study.curves["class"][0])
    for policy in ("edge-lut", "enaf", "oracle"):
        for letter in LETTERS if policy in study.curves else ():
            found = study.matched(policy, letter)
            add(f"{policy}-{letter}", found, None if found is None else found.eta)
    at_m = study.matched("enaf", "M")
    if at_m is not None:
        add("random, exits of enaf-M", study.random_like(at_m))
    note = f"{len(study.measured.records)} images, {sum(full.counts)} patches, data {study.measured.sha256[:12]}."
    return Table(
        stem(study.candidate, "table1", study),
        study.measured.name,
        columns,
        rows,
        note,
        ("enaf-L", "enaf-M", "enaf-S"),
    )


def blank_table(candidate: Candidate, studies: Sequence[Study]) -> Table:
    """Table 2 of the paper."""
    rows: list[list[Any]] = []
    for policy in ("enaf-nb", "enaf"):
        for letter in LETTERS:
            row: list[Any] = [f"{policy}-{letter}"]
            for study in studies:
                point = study.matched(policy, letter)
                row += [None, None] if point is None else [point.psnr_db, point.paper]
            rows.append(row)
    columns = [("", "")]
    for study in studies:
        columns += [(f"{study.measured.name}, dB", "{:.2f}"), ("FLOPs", "{:.0%}")]
    title = "Without the blank vector (enaf-nb) and with it"
    return Table(stem(candidate, "table2"), title, columns, rows, "", ("enaf-L", "enaf-M", "enaf-S"))


def error_table(candidate: Candidate, studies: Sequence[Study]) -> Table:
    """Table 3 of the paper."""
    names = exit_names(candidate.network.network.num_exits)
    rows: list[list[Any]] = []
    for study in studies:
        rows += [[study.measured.name, method, *errors] for method, errors in study.estimates().items()]
    columns = [("", ""), ("method", ""), *((f"{name}, dB", "{:.2f}") for name in names)]
    return Table(stem(candidate, "table3"), "Mean absolute error of the predicted PSNR, over patches", columns, rows)


def decision_table(candidate: Candidate, studies: Sequence[Study]) -> Table:
    """What the decision is worth."""
    names = exit_names(candidate.network.network.num_exits)[1:]
    rows: list[list[Any]] = []
    for study in studies:
        own, oracle = study.matched("enaf", "M"), study.matched("oracle", "M")
        decision = study.decision(own.eta if own is not None else DEFAULT_ETA)
        rows.append(
            [
                study.measured.name,
                own.paper if own else None,
                oracle.paper if oracle else None,
                study.realised("M"),
                decision["regret"],
                decision["agreement"],
                decision["too_cheap"],
                decision["too_dear"],
                *study.gain_correlation(),
            ]
        )
    columns = [
        ("", ""),
        ("FLOPs, enaf-M", "{:.0%}"),
        ("FLOPs, oracle-M", "{:.0%}"),
        ("saving realised", "{:.0%}"),
        ("regret, dB", "{:.3f}"),
        ("oracle's exit", "{:.0%}"),
        ("too cheap", "{:.0%}"),
        ("too dear", "{:.0%}"),
        *((f"r of gain, {name}", "{:.2f}") for name in names),
    ]
    return Table(stem(candidate, "decision"), "The decision against an oracle", columns, rows)


def image_table(candidate: Candidate, studies: Sequence[Study]) -> Table:
    """Every image at the setting within 0.02 dB of the full network on its set."""
    policy, cost = candidate.policies()["enaf"], candidate.costs.table.paper
    rows: list[list[Any]] = []
    for study in studies:
        point = study.matched("enaf", "M")
        eta = DEFAULT_ETA if point is None else point.eta
        for record in study.measured.records:
            alone = evaluate(policy, eta, [record], candidate.costs)
            uniform = [record.psnr(torch.full((record.num_patches,), depth))[0] for depth in range(len(cost))]
            size = f"{record.lr.shape[2]}x{record.lr.shape[1]}"
            rows.append(
                [
                    study.measured.name,
                    record.name,
                    size,
                    *uniform,
                    alone.psnr_db,
                    alone.paper,
                    alone.macs,
                    *alone.counts,
                ]
            )
    names = exit_names(len(cost))
    columns = [
        ("", ""),
        ("image", ""),
        ("LR", ""),
        *((f"{name}, dB", "{:.2f}") for name in names),
        ("enaf-M, dB", "{:.2f}"),
        ("FLOPs", "{:.0%}"),
        ("true MACs", "{:.0%}"),
        *((f"patches, {name}", "{}") for name in names),
    ]
    return Table(stem(candidate, "images"), "Every image, by enaf-M", columns, rows)


def full_table(candidate: Candidate, summaries: Sequence[Summary]) -> Table:
    """Quality as a user gets it: every pixel, 8 bits, at the product's default."""
    label = f"enaf, eta {DEFAULT_ETA:g}"
    names = [*exit_names(candidate.network.network.num_exits), label]
    rows: list[list[Any]] = []
    for summary in summaries:
        for name, row in zip(names, [*summary.exits, *summary.rows], strict=True):
            rows.append([summary.set, name, row.psnr_db, row.psnr_y_db, row.ssim, row.paper, row.macs])
    columns = [
        ("", ""),
        ("exit", ""),
        ("PSNR, dB", "{:.2f}"),
        ("PSNR Y, dB", "{:.2f}"),
        ("SSIM", "{:.4f}"),
        ("FLOPs", "{:.0%}"),
        ("true MACs", "{:.0%}"),
    ]
    return Table(stem(candidate, "full"), "Protocol full", columns, rows, "", (label,))


def grid_table(candidate: Candidate, studies: Sequence[Study]) -> Table:
    """What patch size and overlap cost and gain, on one set."""
    rows: list[list[Any]] = []
    for study in studies:
        records, full, own = study.measured.records, study.full, study.matched("enaf", "M")
        grid, timed = records[0].grid, study.candidate.costs.timing is not None
        pixels = sum(record.lr[0].numel() for record in records)
        processed = sum(record.num_patches for record in records) * grid.patch_size**2
        figures = [None] * 4 if own is None else [own.psnr_db, own.paper, own.macs, own.ms_share if timed else None]
        row = [f"{grid.patch_size}/{grid.overlap}", sum(full.counts), processed / pixels, full.psnr_db, full.macs]
        rows.append([*row, *figures])
    columns = [
        ("patch/overlap", ""),
        ("patches", "{}"),
        ("pixels", "{:.2f}×"),
        ("full network, dB", "{:.2f}"),
        ("its true MACs", "{:.0%}"),
        ("enaf-M, dB", "{:.2f}"),
        ("FLOPs", "{:.0%}"),
        ("true MACs", "{:.0%}"),
        ("time", "{:.0%}"),
    ]
    return Table(stem(candidate, "grids"), "Patch size and overlap", columns, rows)


def overview_table(studies: Sequence[Study]) -> Table:
    """One line a model and set."""
    rows: list[list[Any]] = []
    for study in studies:
        point, oracle = study.matched("enaf", "M"), study.matched("oracle", "M")
        rows.append(
            [
                study.candidate.name,
                study.measured.name,
                *(exit_point.psnr_db for exit_point in study.exits),
                point.psnr_db if point else None,
                point.paper if point else None,
                point.macs if point else None,
                point.ms_share if point and study.candidate.costs.timing else None,
                oracle.paper if oracle else None,
            ]
        )
    columns = [
        ("model", ""),
        ("set", ""),
        *((f"{name}, dB", "{:.2f}") for name in exit_names(len(studies[0].exits))),
        ("enaf-M, dB", "{:.2f}"),
        ("FLOPs", "{:.0%}"),
        ("true MACs", "{:.0%}"),
        ("time", "{:.0%}"),
        ("oracle-M, FLOPs", "{:.0%}"),
    ]
    return Table("overview", "Overview", columns, rows)
