# SPDX-License-Identifier: Apache-2.0
"""Which file each input becomes."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from enaf import video
from enaf.image_io import READABLE_SUFFIXES, WRITABLE

STREAM = Path("-")
"""Standard input or output."""


@dataclass(frozen=True)
class Job:
    """One input and its output."""

    source: Path
    target: Path


def find_jobs(
    inputs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str], suffix: str | None
) -> list[Job]:
    """Finds the images and videos that the inputs name, and names the outputs.

    Args:
        inputs: files, folders (searched with all that is below them), patterns as of `glob` with `**`, or `-`.
        output: a file, for one input that is a file; a folder, in which those below a folder keep their places; or `-`.
        suffix: of all images, as ".png"; None keeps the input's, or takes PNG for what is only read. Videos keep theirs, or
            become `.mkv`.

    Returns:
        The jobs in the order of the inputs, those of a folder or a pattern by name.

    Raises:
        ValueError: nothing to do, several inputs for one file, or an output that would overwrite an input or another
            output; the message names it.
    """
    output = Path(output)
    names = [os.fspath(name) for name in inputs]
    alone = len(names) == 1 and (names[0] == "-" or not (glob.has_magic(names[0]) or Path(names[0]).is_dir()))
    into_folder = output.is_dir() or not alone or not output.suffix
    if output == STREAM:
        if not alone:
            raise ValueError(f"output: expected a folder for {' '.join(names)}, got - (the standard output)")
        return [Job(Path(names[0]), STREAM)]
    if into_folder and output.exists() and not output.is_dir():
        raise ValueError(f"output: expected a folder for {len(names)} inputs, got the file {output}")
    endings = video.WRITABLE if alone and video.is_video(names[0]) else tuple(WRITABLE)
    if not into_folder and output.suffix.lower() not in endings:
        raise ValueError(f"output: expected a folder or a name that ends in {', '.join(endings)}, got {output}")
    asked = None if endings == video.WRITABLE else suffix
    if not into_folder and asked is not None and WRITABLE[output.suffix.lower()] is not WRITABLE[asked]:
        raise ValueError(f"format: {asked} contradicts the output {output}")
    found = [pair for name in names for pair in _find(name, output)]
    if not found:
        raise ValueError(f"inputs: no images or videos in {', '.join(names)}")
    jobs = []
    for source, place in found:
        if video.is_video(source):
            ending = source.suffix if source.suffix.lower() in video.WRITABLE else ".mkv"
        else:
            ending = suffix or (source.suffix if source.suffix.lower() in WRITABLE else ".png")
        stem = "stdin" if source == STREAM else place.stem
        jobs.append(Job(source, output / place.with_name(stem + ending) if into_folder else output))
    _check_collisions(jobs)
    return jobs


def _find(name: str, output: Path) -> Iterator[tuple[Path, Path]]:
    """(file, its place below the output folder) of everything that a name stands for."""
    path = Path(name)
    if name == "-" or path.is_file() or (not path.exists() and not glob.has_magic(name)):
        yield path, Path(path.name)  # one that is missing is reported when its turn comes
    elif path.is_dir():
        for file in _images_below(path, output):
            yield file, file.relative_to(path)
    else:
        fixed = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts[:-1])
        start = Path(*fixed)
        for match in map(Path, sorted(glob.glob(name, recursive=True))):
            if match.is_file():
                yield match, match.relative_to(start)


def _images_below(folder: Path, output: Path) -> Iterator[Path]:
    """Files that are named like images or videos; hidden ones and what an earlier run wrote are left out."""
    results = output.resolve()
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (Path(parent) / name).resolve() != results
        )
        for name in sorted(files):
            is_ours = Path(name).suffix.lower() in READABLE_SUFFIXES or video.is_video(name)
            if is_ours and not name.startswith("."):
                yield Path(parent) / name


def _check_collisions(jobs: list[Job]) -> None:
    sources = {job.source.resolve() for job in jobs}
    seen: dict[Path, Path] = {}
    for job in jobs:
        if job.target.resolve() in sources:
            raise ValueError(
                f"output: {job.target} is an input itself and would be overwritten; name another folder or file"
            )
        if job.target in seen:
            raise ValueError(f"output: {seen[job.target]} and {job.source} would both become {job.target}")
        seen[job.target] = job.source
