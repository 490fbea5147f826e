# SPDX-License-Identifier: Apache-2.0
"""What `enaf eval` tells: settings of one policy over one set, as text, JSON and CSV."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from enaf.adaptive import AdaptiveNetwork
from enaf.metrics import SSIM_SETTINGS
from enaf.whole_file import write_whole

from .points import Point, evaluate
from .policies import Policy, Uniform
from .protocol import Protocol
from .quality import Quality, quality, render
from .record import ImageRecord
from .sets import Crop, MeasuredSet, Progress, read_original, silent
from .study import Candidate


@dataclass(frozen=True)
class Row:
    """One setting: what it reaches, measured on pixels (means over images), what it costs, and where the patches went.

    Attributes:
        policy, eta: the setting.
        psnr_db, psnr_y_db, ssim: quality.
        mflops: published FLOPs for one patch of 32x32, mean over patches, in millions.
        paper, macs, ms_share: as a share of the full network: published; true, estimator and overlap included; time.
        ms: an image.
        patches: that took each exit.
    """

    policy: str
    eta: float
    psnr_db: float
    psnr_y_db: float
    ssim: float
    mflops: float
    paper: float
    macs: float
    ms: float
    ms_share: float
    patches: list[int]


@dataclass(frozen=True)
class Summary:
    """One model and one policy on one set.

    Attributes:
        set, data_sha256, images, failures: what was measured, and what could not be.
        model, weights_sha256: by what.
        protocol, protocol_text, crop, device, torch: how.
        ssim: the settings of scikit-image's SSIM, on Y.
        gamma: bonus of blank patches, dB.
        estimator_error_db: mean absolute error of the predicted PSNR over all patches, for each exit.
        exits: every exit alone.
        rows: the settings that were asked for.
    """

    set: str
    data_sha256: str
    images: list[str]
    failures: list[tuple[str, str]]
    model: str
    weights_sha256: str
    protocol: str
    protocol_text: str
    crop: Crop | None
    device: str
    torch: str
    ssim: dict[str, float | bool]
    gamma: float
    estimator_error_db: list[float]
    exits: list[Row]
    rows: list[Row]

    def text(self) -> str:
        """A table for the terminal."""
        crop = "" if self.crop is None else f"; centre {self.crop[0]}x{self.crop[1]} of larger images"
        header = (
            f"{'policy':<10}{'eta':>7}{'PSNR':>9}{'PSNR Y':>9}{'SSIM':>8}"
            f"{'MFLOPs':>9}{'FLOPs':>7}{'MACs':>7}{'time':>7}{'ms':>8}  patches per exit"
        )
        lines = [
            f"{self.set}: {len(self.images)} images, data {self.data_sha256[:12]}; "
            f"{self.model}, weights {self.weights_sha256[:12]}",
            f"protocol {self.protocol}: {self.protocol_text}{crop}",
            f"device: {self.device}, torch {self.torch}",
            "FLOPs: published convention, share of the full exit. MACs: true, estimator and overlap included, share of the full "
            "network on the whole image; time likewise.",
            "",
            header,
            *(_line(row) for row in (*self.exits, *self.rows)),
            "",
            "error of the predicted PSNR, dB, exit by exit: "
            + "  ".join(f"{value:.2f}" for value in self.estimator_error_db),
            *(f"left out: {name}: {reason}" for name, reason in self.failures),
        ]
        return "\n".join(lines)


def _line(row: Row) -> str:
    eta = "" if row.policy.startswith("uniform") or row.policy == "class" else f"{row.eta:g}"
    return (
        f"{row.policy:<10}{eta:>7}{row.psnr_db:>9.3f}{row.psnr_y_db:>9.3f}{row.ssim:>8.4f}{row.mflops:>9.1f}{row.paper:>7.1%}"
        f"{row.macs:>7.1%}{row.ms_share:>7.1%}{row.ms:>8.0f}  {' '.join(map(str, row.patches))}"
    )


def summarise(
    candidate: Candidate,
    measured: MeasuredSet,
    protocol: Protocol,
    policy: Policy,
    points: Sequence[Point],
    crop: Crop | None = None,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Summary:
    """Render every image at every setting and measure it.

    Args:
        measured: the set; at least one image.
        points: settings of ``policy``.
        cache, progress: as for ``measure_set``.
    """
    model, costs = candidate.network, candidate.costs
    exits = [Uniform(depth) for depth in range(model.network.num_exits)]
    settings: list[tuple[Policy, Point]] = [
        (uniform, evaluate(uniform, 0.0, measured.records, costs, f"uniform-{depth}"))
        for depth, uniform in enumerate(exits)
    ]
    settings += [(policy, point) for point in points]
    sums = torch.zeros(len(settings), 3, dtype=torch.float64)
    records = dict(zip(measured.paths, measured.records, strict=True))
    for path in progress(measured.paths, f"{measured.name}, settings"):
        chosen = [chooser.choose(records[path], costs.table.paper, point.eta) for chooser, point in settings]
        found = _qualities(model, path, records[path], chosen, protocol, crop, cache)
        sums += torch.tensor([[each.psnr_db, each.psnr_y_db, each.ssim] for each in found], dtype=torch.float64)
    rows = [
        Row(
            policy=point.policy,
            eta=point.eta,
            psnr_db=float(total[0]),
            psnr_y_db=float(total[1]),
            ssim=float(total[2]),
            mflops=point.paper * costs.full_flops / 1e6,
            paper=point.paper,
            macs=point.macs,
            ms=point.ms,
            ms_share=point.ms_share,
            patches=point.counts,
        )
        for (_, point), total in zip(settings, sums / len(records), strict=True)
    ]
    errors = torch.cat([(record.predicted_db - record.psnr_db).abs() for record in measured.records])
    return Summary(
        set=measured.name,
        data_sha256=measured.sha256,
        images=[path.name for path in measured.paths],
        failures=measured.failures,
        model=candidate.name,
        weights_sha256=candidate.sha256,
        protocol=protocol.name,
        protocol_text=protocol.describe(),
        crop=crop,
        device=costs.timing.device if costs.timing else "not timed",
        torch=torch.__version__,
        ssim=SSIM_SETTINGS,
        gamma=candidate.gamma,
        estimator_error_db=errors.mean(dim=0).tolist(),
        exits=rows[: len(exits)],
        rows=rows[len(exits) :],
    )


def _qualities(
    model: AdaptiveNetwork,
    path: Path,
    record: ImageRecord,
    chosen: Sequence[Tensor],
    protocol: Protocol,
    crop: Crop | None,
    cache: Path | None,
) -> list[Quality]:
    """The quality of one image by some choices of exits: what is kept, or measured now."""
    hr: Tensor | None = None
    result = []
    for exits in chosen:
        digest = hashlib.sha256(record.key.encode() + exits.numpy().tobytes()).hexdigest()[:32]
        kept = None if cache is None else cache / f"{digest}.json"
        if kept is not None and kept.is_file():
            result.append(Quality(**json.loads(kept.read_text())))
            continue
        if hr is None:
            _, hr = protocol.pair(read_original(path, crop), model.network.scale)
        result.append(quality(render(model, record, exits, protocol), hr, protocol, model.network.scale))
        if kept is not None:
            write_whole(kept, json.dumps(asdict(result[-1])).encode())
    return result


def write_json(summaries: Sequence[Summary], path: Path) -> None:
    """All figures, machine-readable."""
    path.write_text(json.dumps([asdict(summary) for summary in summaries], indent=1) + "\n")


def write_csv(summaries: Sequence[Summary], path: Path) -> None:
    """One line a setting."""
    about = ("set", "model", "protocol", "data_sha256", "weights_sha256", "device")
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*about, *(entry.name for entry in fields(Row))])
        for summary in summaries:
            start = [getattr(summary, name) for name in about]
            for row in (*summary.exits, *summary.rows):
                writer.writerow([*start, *{**asdict(row), "patches": " ".join(map(str, row.patches))}.values()])
