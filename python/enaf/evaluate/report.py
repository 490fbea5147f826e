# SPDX-License-Identifier: Apache-2.0
"""The whole report: every table and figure of the paper on any sets of images, and what the paper does not tell."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path

import jinja2
import torch

from enaf.adaptive import AdaptiveNetwork
from enaf.version import version
from enaf.whole_file import write_whole

from . import pictures, plots, tables
from .findings import findings, losses
from .fit import Fit, fit_to_folder
from .points import TOLERANCE_DB, Costs, curve
from .protocol import PROTOCOLS, Protocol
from .sets import Crop, ImageSet, Progress, find_sets, measure_set, silent, weights_sha256
from .study import LETTERS, Candidate, Study
from .summary import Summary, summarise
from .tables import DEFAULT_ETA, Table, stem
from .timing import time_exits

GRIDS = ((32, 4), (48, 4), (64, 4), (128, 8))
"""Patch sizes and overlaps that are compared, LR pixels."""


@dataclass
class Chapter:
    """What is told of one model.

    Attributes:
        candidate, studies: the model, on every set.
        shipped: told in full; otherwise tables only.
        findings, losses: sentences.
        tables: by kind; figures: (file, CSV) by kind.
        pictures: (image, credit, [(caption, file)]), the exit map first.
    """

    candidate: Candidate
    studies: list[Study]
    shipped: bool
    findings: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    tables: dict[str, list[Table]] = field(default_factory=dict)
    figures: dict[str, tuple[str, str]] = field(default_factory=dict)
    pictures: list[tuple[str, str, list[tuple[str, str]]]] = field(default_factory=list)


@dataclass(frozen=True)
class ReportRequest:
    """What the report is about.

    Attributes:
        data: folder of sets.
        out: folder of the report.
        models: (name, model) that are told about in full.
        compared: (name, model) that appear in tables only.
        fit_data: training images for the peers' policies; None leaves them out.
        crop: see ``read_original``.
        gamma: bonus of blank patches, dB.
        shown: parts of the names of the images to show; empty shows the first of each set.
        credits: tab-separated file with the columns file, author and license of the images that are shown.
        repeats: runs of each exit that are timed; 0 times nothing.
    """

    data: str
    out: Path
    models: Sequence[tuple[str, AdaptiveNetwork]]
    compared: Sequence[tuple[str, AdaptiveNetwork]] = ()
    fit_data: str | None = None
    crop: Crop | None = None
    gamma: float = 1.0
    shown: Sequence[str] = ()
    credits: Path | None = None
    repeats: int = 7


def reproduce(request: ReportRequest, progress: Progress = silent) -> list[tuple[str, str]]:
    """Write the report: index.html, figures/, pictures/, data/ with a CSV for each of them, and cache/.

    Interrupted and started again, it goes on where it stopped: what is known of an image is kept in cache/.

    Returns:
        (image, reason) of what could not be measured.

    Raises:
        ValueError: no set of images, or none that can be measured; training images that cannot be used.
    """
    for folder in ("figures", "pictures", "data", "cache"):
        (request.out / folder).mkdir(parents=True, exist_ok=True)
    (request.out / "cache" / ".gitignore").write_text("*\n")
    sets = find_sets(request.data)
    failures: dict[tuple[str, str], None] = {}  # each once, in order
    chapters = []
    for shipped, group in ((True, request.models), (False, request.compared)):
        for name, model in group:
            chapters.append(_chapter(request, name, model, sets, shipped, failures, progress))
    studies = [study for chapter in chapters for study in chapter.studies]
    if not studies:
        raise ValueError(
            f"data: none of the images below {request.data} can be measured: {'; '.join(map(': '.join, failures))}"
        )
    overview = tables.overview_table(studies)
    for table in (overview, *(table for chapter in chapters for kind in chapter.tables.values() for table in kind)):
        table.write(request.out / "data")
    _write_page(request, chapters, overview, list(failures))
    return list(failures)


def _chapter(
    request: ReportRequest,
    name: str,
    model: AdaptiveNetwork,
    sets: list[ImageSet],
    shipped: bool,
    failures: dict[tuple[str, str], None],
    progress: Progress,
) -> Chapter:
    """Measure one model and tell about it."""
    protocol, sha256 = PROTOCOLS["paper"], weights_sha256(model)
    timing = time_exits(model, protocol, request.repeats) if request.repeats and shipped else None
    fit = _fit(request, model, sha256, progress) if shipped else None
    candidate = Candidate(name, model, sha256, Costs.of(model, timing), fit, request.gamma)
    studies = []
    for images in sets:
        measured = measure_set(model, images, protocol, request.crop, request.out / "cache", progress)
        failures.update({(f"{images.name}/{file}", reason): None for file, reason in measured.failures})
        if measured.records:
            studies.append(Study.of(candidate, measured))
    chapter = Chapter(candidate, studies, shipped)
    if not studies:
        return chapter
    chapter.tables["matched"] = [tables.matched_table(study) for study in studies]
    chapter.tables["errors"] = [tables.error_table(candidate, studies)]
    chapter.tables["decision"] = [tables.decision_table(candidate, studies)]
    if shipped:
        chapter.tables["blank"] = [tables.blank_table(candidate, studies)]
        chapter.tables["images"] = [tables.image_table(candidate, studies)]
        chapter.tables["full"] = [tables.full_table(candidate, _as_users_get_it(request, candidate, sets, progress))]
        chapter.tables["grids"] = [tables.grid_table(candidate, _other_grids(request, candidate, sets[0], progress))]
        chapter.findings, chapter.losses = findings(candidate, studies), losses(candidate, studies)
        _draw(request, chapter)
    return chapter


def _fit(request: ReportRequest, model: AdaptiveNetwork, sha256: str, progress: Progress) -> Fit | None:
    """What the peers' policies learn, kept beside the records."""
    if request.fit_data is None:
        return None
    path = request.out / "cache" / f"policies-{sha256[:16]}.safetensors"
    if not path.is_file():
        fit_to_folder(model, request.fit_data, progress=progress).save(path)
    return Fit.load(path, sha256)


def _as_users_get_it(
    request: ReportRequest, candidate: Candidate, sets: list[ImageSet], progress: Progress
) -> list[Summary]:
    """Every pixel in 8 bits, at the default."""
    protocol, policy = PROTOCOLS["full"], candidate.policies()["enaf"]
    result = []
    for images in sets:
        measured = measure_set(candidate.network, images, protocol, request.crop, request.out / "cache", progress)
        if measured.records:
            points = curve(policy, measured.records, candidate.costs, [DEFAULT_ETA])
            result.append(
                summarise(candidate, measured, protocol, policy, points, request.crop, request.out / "cache", progress)
            )
    return result


def _other_grids(request: ReportRequest, candidate: Candidate, images: ImageSet, progress: Progress) -> list[Study]:
    """The same set cut otherwise; every pixel counts, so that all are compared on the same ones."""
    result = []
    for patch_size, overlap in GRIDS:
        protocol: Protocol = replace(PROTOCOLS["paper"], covered_only=False, patch_size=patch_size, overlap=overlap)
        named = replace(images, name=f"{images.name}, {patch_size}/{overlap}")
        measured = measure_set(candidate.network, named, protocol, request.crop, request.out / "cache", progress)
        if measured.records:
            timing = time_exits(candidate.network, protocol, request.repeats) if request.repeats else None
            costs = replace(candidate.costs, timing=timing)
            result.append(Study.of(replace(candidate, costs=costs, fit=None), measured))
    return result


# --- figures ---


def _draw(request: ReportRequest, chapter: Chapter) -> None:
    """Figures of one model, with the data behind them, and pictures."""
    candidate, studies = chapter.candidate, chapter.studies
    curves, patches = (f"{stem(candidate, kind)}.csv" for kind in ("curves", "patches"))
    _write_curves(studies, request.out / "data" / curves)
    _write_patches(studies, request.out / "data" / patches)
    drawn = {
        "curves": (plots.quality_and_cost, curves),
        "eta": (plots.cost_of_eta, curves),
        "calibration": (plots.calibration, patches),
    }
    for name, (draw, source) in drawn.items():
        file = f"{stem(candidate, name)}.svg"
        draw(studies, request.out / "figures" / file)
        chapter.figures[name] = (file, source)
    credits = _credits(request.credits)
    for study in studies:
        for index, (record, path) in enumerate(zip(study.measured.records, study.measured.paths, strict=True)):
            if any(part in path.name for part in request.shown) if request.shown else index == 0:
                name = f"{candidate.name}-{study.measured.name}-{index}"
                made = pictures.draw(study, record, path, request.crop, request.out / "pictures", name)
                chapter.pictures.append((record.name, credits.get(path.name, ""), made))


def _write_curves(studies: Sequence[Study], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["set", "policy", "eta", "psnr_db", "psnr_y_db", "paper", "macs", "ms", "ms_share", "patches"])
        for study in studies:
            for point in (*study.exits, *(point for points in study.curves.values() for point in points)):
                values = asdict(point)
                figures = [
                    round(values[name], 4) for name in ("psnr_db", "psnr_y_db", "paper", "macs", "ms", "ms_share")
                ]
                writer.writerow(
                    [study.measured.name, point.policy, point.eta, *figures, " ".join(map(str, point.counts))]
                )


def _write_patches(studies: Sequence[Study], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        exits = range(studies[0].candidate.network.network.num_exits)
        names = [f"{kind}_{depth}" for kind in ("predicted_db", "true_db") for depth in exits]
        writer.writerow(["set", "image", "patch", "edge_score", *names])
        for study in studies:
            for record in study.measured.records:
                both = torch.cat([record.edge_score[:, None], record.predicted_db, record.psnr_db], dim=1)
                for index, values in enumerate(both.tolist()):
                    writer.writerow([study.measured.name, record.name, index, *(f"{value:.2f}" for value in values)])


def _credits(path: Path | None) -> dict[str, str]:
    """Author and licence by file name."""
    if path is None:
        return {}
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    return {Path(line["file"]).name: f"{line['author']}, {line['license']}" for line in lines}


# --- the page ---


def _write_page(
    request: ReportRequest, chapters: list[Chapter], overview: Table, failures: list[tuple[str, str]]
) -> None:
    package = resources.files(__package__)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string((package / "report.html").read_text())
    first = next(chapter for chapter in chapters if chapter.studies)
    timing = first.candidate.costs.timing
    quoted = json.loads((package / "quoted.json").read_text())
    benchmarks = [study.measured.benchmark for study in first.studies if study.measured.benchmark]
    page = template.render(
        chapters=[chapter for chapter in chapters if chapter.shipped and chapter.studies],
        compared=[chapter for chapter in chapters if not chapter.shipped and chapter.studies],
        overview=overview,
        sets=[study.measured for study in first.studies],
        failures=failures,
        protocols=[(protocol.name, protocol.describe()) for protocol in PROTOCOLS.values()],
        crop=request.crop,
        gamma=request.gamma,
        timing=timing,
        letters=LETTERS,
        quoted=quoted,
        benchmarks=benchmarks,
        torch=torch.__version__,
        version=version(),
        tolerance=TOLERANCE_DB,
    )
    write_whole(request.out / "index.html", page.encode())
