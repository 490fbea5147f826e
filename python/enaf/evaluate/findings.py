# SPDX-License-Identifier: Apache-2.0
"""What the figures say, in sentences: where the method pays and where it does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from enaf.exit_map import exit_names

from .points import TOLERANCE_DB
from .protocol import PROTOCOLS
from .study import Candidate, Study


def findings(candidate: Candidate, studies: Sequence[Study]) -> list[str]:
    """One sentence a set: what the quality of the full network costs."""
    found = []
    for study in studies:
        point = study.matched("enaf", "M")
        if point is not None:
            time = f", {point.ms_share:.0%} of its time" if candidate.costs.timing else ""
            found.append(
                f"{study.measured.name}: within {TOLERANCE_DB} dB of the full network at {point.paper:.0%} of its published "
                f"FLOPs, {point.macs:.0%} of its true MACs{time} (eta {point.eta:g})."
            )
    return found


def losses(candidate: Candidate, studies: Sequence[Study]) -> list[str]:
    """Where the method does not pay, by the same figures."""
    table, protocol = candidate.costs.table, PROTOCOLS["paper"]
    full = float(table.macs_per_pixel[-1])
    published = " and ".join(f"{share:.0%}" for share in table.paper[1:-1])
    true = " and ".join(f"{float(macs) / full:.0%}" for macs in table.macs_per_pixel[1:-1])
    overlap = (protocol.patch_size / (protocol.patch_size - protocol.overlap)) ** 2
    general = (
        f"The early exits are published at {published} of the full exit; their true work is {true}. The estimator, published "
        f"as nothing, is {table.estimator_macs_per_pixel / full:.0%} of the full network, and the overlap multiplies all "
        f"patches by {overlap:.2f}."
    )
    return [general, *(f"{study.measured.name}: {loss}" for study in studies for loss in _losses(study))]


def _losses(study: Study) -> Iterator[str]:
    """The same for one set."""
    table, point = study.candidate.costs.table, study.matched("enaf", "M")
    if point is None:
        best = max(other.psnr_db for other in study.curves["enaf"])
        yield f"no setting comes within {TOLERANCE_DB} dB of the full network (best {best:.2f} dB)."
        return
    if point.macs >= 1:
        yield (
            f"at {point.paper:.0%} of the published FLOPs it does {point.macs:.0%} of the true work of running the full "
            "network once over the image: nothing is saved."
        )
    if study.candidate.costs.timing and point.ms_share >= 1:
        yield f"it takes {point.ms_share:.0%} of the full network's time: it is slower."
    uniform = study.best_uniform("M")
    if uniform is not None:
        depth = study.exits.index(uniform)
        whole = float(table.macs_per_pixel[depth] / table.macs_per_pixel[-1])
        if whole <= point.macs:
            yield (
                f"{exit_names(len(study.exits))[depth]} for everything reaches {uniform.psnr_db:.2f} dB too; on the whole "
                f"image, without patches or estimator, it takes {whole:.0%} of the true MACs, enaf-M {point.macs:.0%}."
            )
    lookup = study.matched("edge-lut", "M") if "edge-lut" in study.curves else None
    if lookup is not None and lookup.macs <= point.macs:
        yield (
            f"the lookup table, which needs no estimator, reaches the same PSNR at {lookup.macs:.0%} of the true MACs, "
            f"enaf-M at {point.macs:.0%}."
        )
    dealt = study.random_like(point)
    if dealt.psnr_db >= point.psnr_db - 0.01:
        yield f"the same exits dealt out at random reach {dealt.psnr_db:.2f} dB: the choice adds nothing."
