# SPDX-License-Identifier: Apache-2.0
"""What the figures say, in sentences: where the method pays and where it does not."""

from __future__ import annotations

from collections.abc import Sequence

from .points import TOLERANCE_DB, Point
from .protocol import PROTOCOLS
from .study import Candidate, Study


def findings(candidate: Candidate, studies: Sequence[Study]) -> list[str]:
    """What the tables say, in sentences."""
    found = []
    for study in studies:
        point = study.matched("enaf", "M")
        if point is None:
            continue
        time = f", {point.ms_share:.0%} of its time" if candidate.costs.timing else ""
        found.append(
            f"{study.measured.name}: within {TOLERANCE_DB} dB of the full network at {point.paper:.0%} of its published "
            f"FLOPs, {point.macs:.0%} of its true MACs{time} (eta {point.eta:g})."
        )
    return found


def losses(candidate: Candidate, studies: Sequence[Study]) -> list[str]:
    """Where the method does not pay, told by the same figures."""
    lost, table = [], candidate.costs.table
    true = table.macs_per_pixel / table.macs_per_pixel[-1]
    overlap = PROTOCOLS["paper"].patch_size ** 2 / (PROTOCOLS["paper"].patch_size - PROTOCOLS["paper"].overlap) ** 2
    estimator = table.estimator_macs_per_pixel / float(table.macs_per_pixel[-1])
    shares = " and ".join(f"{share:.0%}" for share in true[1:-1])
    published = " and ".join(f"{share:.0%}" for share in table.paper[1:-1])
    lost.append(
        f"The early exits are published at {published} of the full exit; their true work is {shares}. The estimator, "
        f"published as nothing, is {estimator:.0%} of the full network, and the overlap multiplies all patches by {overlap:.2f}."
    )
    for study in studies:
        point, uniform = study.matched("enaf", "M"), study.best_uniform("M")
        if point is None:
            best = max(other.psnr_db for other in study.curves["enaf"])
            lost.append(
                f"{study.measured.name}: no setting comes within {TOLERANCE_DB} dB of the full network (best {best:.2f} dB)."
            )
            continue
        if point.macs >= 1:
            lost.append(
                f"{study.measured.name}: at {point.paper:.0%} of the published FLOPs it does {point.macs:.0%} of the true "
                "work of running the full network once over the image: nothing is saved."
            )
        if candidate.costs.timing and point.ms_share >= 1:
            lost.append(
                f"{study.measured.name}: it takes {point.ms_share:.0%} of the full network's time: it is slower."
            )
        if uniform is not None and uniform.macs - _overlap_excess(study, uniform) <= point.macs:
            whole = uniform.macs - _overlap_excess(study, uniform)
            lost.append(
                f"{study.measured.name}: exit {uniform.policy.removeprefix('uniform-')} on the whole image, without patches or "
                f"estimator, reaches {uniform.psnr_db:.2f} dB at {whole:.0%} of the true MACs; ENAF-M needs {point.macs:.0%}."
            )
        lookup = study.matched("edge-lut", "M") if "edge-lut" in study.curves else None
        if lookup is not None and lookup.macs <= point.macs:
            lost.append(
                f"{study.measured.name}: the lookup table, which needs no estimator, reaches the same PSNR at "
                f"{lookup.macs:.0%} of the true MACs; ENAF-M needs {point.macs:.0%}."
            )
        dealt = study.random_like(point)
        if dealt.psnr_db >= point.psnr_db - 0.01:
            lost.append(
                f"{study.measured.name}: the same exits dealt out at random reach {dealt.psnr_db:.2f} dB: no choice is made."
            )
    return lost


def _overlap_excess(study: Study, point: Point) -> float:
    """What patches add to the true MACs of a single exit, as a share of the full network."""
    pixels = sum(record.lr[0].numel() for record in study.measured.records)
    patched = sum(record.num_patches * record.grid.patch_size**2 for record in study.measured.records)
    return point.macs * (1 - pixels / patched)
