# SPDX-License-Identifier: Apache-2.0
"""The README's tables of time, from what `bench/upscale.py` measured: on one size of image, or one table of several sizes.

python bench/tables.py bench/results/DEVICE/upscale.json
python bench/tables.py bench/results/DEVICE/upscale-4k*.json
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from upscale import BICUBIC, COMPILED, LOOP, LOOP_ETA, TARGETS, TILED, WINDOW, fastest_static

from enaf.evaluate.speed import PLAIN, STATIC, Contender, fastest_equal

NAMES = {"fsrcnn": "FSRCNN", "light": "`light`", "carn": "CARN", "srresnet": "SRResNet"}
ROWS = [
    ("the full network, whole image, as fast as we can make it", STATIC),
    ("the same in float32", f"{STATIC}, float32"),
    ("the full network, whole image, as it is published", PLAIN),
    ("the same under `torch.compile`, channels_last", COMPILED),
    ("the full network on overlapping patches", TILED),
    ("**ENAF, eta 0.1**", "eta 0.1"),
    ("**ENAF, eta 0.3**", "eta 0.3"),
    ("**ENAF, eta 1 (default)**", "eta 1"),
    ("the same in float32", "eta 1, float32"),
    ("**ENAF, eta 2**", "eta 2"),
    (f"one patch at a time, eta {LOOP_ETA:g}, float32", LOOP),
    ("MONAI's sliding window, float32", WINDOW),
    ("bicubic on every patch", BICUBIC),
]
Case = dict[str, Any]


def main() -> None:
    """Prints them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("results", type=Path, metavar="RESULT.json", nargs="+")
    settings: dict[str, Any] = {}
    for path in parser.parse_args().results:
        settings |= json.loads(path.read_text())["settings"]
    found = {name: _case(case) for name, case in settings.items() if isinstance(case, dict)}
    sizes = sorted({name.split()[1] for name in found}, key=lambda size: math.prod(map(int, size.split("x"))))
    if len(sizes) > 1:
        title = "fast static network's time (published network's), at the published network's PSNR within 0.05 dB"
        print(_table(f"share of the {title}", _of_sizes(found, sizes)))
        return
    cases = {name: found[f"{name} {sizes[0]}"] for name in NAMES}
    print(_table("x4, milliseconds, PSNR beside the published network, true MACs", _ways(cases)), end="\n\n")
    print(_table("at the published network's PSNR, within 0.05 dB", _verdicts(cases)), end="\n\n")
    print(_table("what is not gained", _losses(cases)))


def _case(measured: Case) -> Case:
    """What was measured with a model on a size of image."""
    return {**measured, "contenders": {entry["name"]: Contender(**entry) for entry in measured["contenders"]}}


def _of_sizes(cases: dict[str, Case], sizes: Sequence[str]) -> list[list[str]]:
    """ENAF's time at equal quality for every size and model."""

    def cell(case: Case | None) -> str:
        if case is None:
            return "not measured"
        ways = case["contenders"]
        entry = fastest_equal(list(ways.values()))
        if entry is None:
            return "no eta"
        of_fast, of_published = (
            _percent(entry.milliseconds / of) for of in (fastest_static(ways.values()), ways[PLAIN].milliseconds)
        )
        return f"{of_fast} ({of_published}), {entry.name}"

    return [[size, *(cell(cases.get(f"{name} {size}")) for name in NAMES)] for size in sizes]


def _table(title: str, rows: Sequence[Sequence[str]]) -> str:
    lines = [[title, *NAMES.values()], ["---"] * (1 + len(NAMES)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _ways(cases: dict[str, Case]) -> list[list[str]]:
    """Every way to upscale: time, quality, work."""

    def cell(case: Case, way: str) -> str:
        entry, published = (case["contenders"].get(name) for name in (way, PLAIN))
        if entry is None:
            return "the same" if way.endswith(", float32") else ""
        parts = [f"{entry.milliseconds:.0f} ms"]
        if way != PLAIN:
            parts.append(f"{round(entry.psnr_db - published.psnr_db, 2) + 0.0:+.2f} dB")
        if entry.macs is not None and way not in (TILED, BICUBIC):
            parts.append(_percent(entry.macs))
        return ", ".join(parts)

    return [[label, *(cell(case, way) for case in cases.values())] for label, way in ROWS]


def _verdicts(cases: dict[str, Case]) -> list[list[str]]:
    """ENAF's time at equal quality as a share of the static networks', beside what is aimed at."""
    equal = {name: fastest_equal(list(case["contenders"].values())) for name, case in cases.items()}

    def share(name: str, of: float, aim: int) -> str:
        entry = equal[name]
        aimed = f" (aim {_percent(TARGETS[name][aim])})" if name in TARGETS else ""
        return ("none" if entry is None else _percent(entry.milliseconds / of)) + aimed

    ways = {name: case["contenders"] for name, case in cases.items()}
    return [
        ["at", *(entry.name if entry else "no eta" for entry in equal.values())],
        [
            "share of the fast static network's time",
            *(share(name, fastest_static(each.values()), 1) for name, each in ways.items()),
        ],
        [
            "share of the published network's time",
            *(share(name, each[PLAIN].milliseconds, 0) for name, each in ways.items()),
        ],
    ]


def _losses(cases: dict[str, Case]) -> list[list[str]]:
    """Where time is not what it should be."""

    def noise(case: Case) -> str:
        return f"{max(case['noise'].values()):.2f} times"

    def beyond(case: Case) -> str:
        ways = case["contenders"]
        fast = fastest_static(ways.values())
        routed = [way for way in ways.values() if way.name.startswith("eta") and way.paper is not None]
        return f"{100 * max(way.milliseconds / fast - way.paper for way in routed):+.0f} points"

    def outside(case: Case) -> str:
        rest = [100 * (1 - shares["layers of the networks"]) for shares in case["shares"].values()]
        return f"{min(rest):.0f} to {max(rest):.0f} %"

    def budgets(case: Case) -> str:
        over = [100 * (each["taken"] / each["asked"] - 1) for each in case["budgets"].values()]
        return f"{min(over):+.0f} to {max(over):+.0f} %"

    def loop(case: Case) -> str:
        ways = case["contenders"]
        return f"{ways[LOOP].milliseconds / ways[f'eta {LOOP_ETA:g}'].milliseconds:.1f} times"

    rows = {
        "noise, beside the static network; aim 1.03": noise,
        "share of the time above that of the published FLOPs, at most; aim 10 points": beyond,
        "time outside the networks' layers; aim 5 %": outside,
        "budgets in milliseconds, taken beside asked; aim within 5 %": budgets,
        f"one patch at a time beside ENAF, eta {LOOP_ETA:g}; aim at least 5": loop,
    }
    return [[label, *(how(case) for case in cases.values())] for label, how in rows.items()]


if __name__ == "__main__":
    main()
