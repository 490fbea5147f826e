# SPDX-License-Identifier: Apache-2.0
"""Which file each input becomes."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from enaf import video
from enaf.image_io import READABLE_SUFFIXES, WRITABLE

STREAM = Path("-")
"""Standard input or output."""
_DRAWN = (".png", ".jpg")


@dataclass(frozen=True)
class Job:
    """One input, its output, and where its exits are drawn, if they are."""

    source: Path
    target: Path
    exit_map: Path | None = None


def find_jobs(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    suffix: str | None,
    exit_map: str | os.PathLike[str] | None = None,
) -> list[Job]:
    """Finds the images and videos that the inputs name, and names the outputs.

    Args:
        inputs: files, folders (searched with all that is below them), patterns as of `glob` with `**`, or `-`.
        output: a file, for one input that is a file; a folder, in which those below a folder keep their places; or `-`.
        suffix: of all images, as ".png", or of all videos, as ".mp4"; where it says nothing, the input's is kept, or is
            ".png" and ".mkv" for what is only read.
        exit_map: a file, if the output is one; else a folder, in which the pictures have the places of the results.

    Returns:
        The jobs in the order of the inputs, those of a folder or a pattern by name.

    Raises:
        ValueError: nothing to do, several inputs for one file, or an output or drawing that would overwrite an input,
            another output or drawing; the message names it.
    """
    output = Path(output)
    names = [os.fspath(name) for name in inputs]
    alone = len(names) == 1 and _is_one(names[0])
    into_folder = output.is_dir() or not alone or not output.suffix
    _check_way("output", output)
    if output == STREAM:
        if not alone:
            raise ValueError(f"output: expected a folder for {' '.join(names)}, got - (the standard output)")
        if video.is_video(names[0]):
            raise ValueError(f"output: expected a file or folder for the video {names[0]}, got - (the standard output)")
        if suffix not in (None, *WRITABLE):
            raise ValueError(f"format: expected that of an image for -, got {suffix}")
        drawing = None if exit_map is None else _map_of(Path(exit_map), Path(names[0]), STREAM, False)
        jobs = [Job(Path(names[0]), STREAM, drawing)]
        _check_collisions(jobs)
        return jobs
    if into_folder and not output.is_dir() and (output.exists() or is_picture(output)):
        what = f"{len(names)} inputs" if len(names) > 1 else names[0]
        raise ValueError(f"output: expected a folder for {what}, got the file {output}")
    one_video = alone and video.is_video(names[0])
    endings = video.WRITABLE if one_video else tuple(WRITABLE)
    if not into_folder and output.suffix.lower() not in endings:
        raise ValueError(f"output: expected a folder or a name that ends in {', '.join(endings)}, got {output}")
    formats = {ending: ending for ending in video.WRITABLE} | WRITABLE
    if not into_folder and suffix is not None and formats[output.suffix.lower()] is not formats[suffix]:
        raise ValueError(f"format: {suffix} contradicts the output {output}")
    if exit_map is not None:
        _check_way("exit_map", Path(exit_map))
    results = {Path(path).resolve() for path in (output, exit_map) if path is not None}
    found = [pair for name in names for pair in _find(name, results)]
    if not found:
        raise ValueError(f"inputs: no images or videos in {', '.join(names)}")
    jobs = []
    for source, place in found:
        held, usual = (video.WRITABLE, ".mkv") if video.is_video(source) else (WRITABLE, ".png")
        ending = next((name for name in (suffix, source.suffix) if name and name.lower() in held), usual)
        stem = "stdin" if source == STREAM else place.stem
        place = place.with_name(stem + ending)
        drawing = None if exit_map is None else _map_of(Path(exit_map), source, place, into_folder)
        jobs.append(Job(source, output / place if into_folder else output, drawing))
    _check_collisions(jobs)
    return jobs


def _is_one(name: str) -> bool:
    """Whether an input is one file; a pattern or a folder may be many."""
    path = Path(name)
    return name == "-" or path.is_file() or not (glob.has_magic(name) or path.is_dir())


def is_picture(path: str | os.PathLike[str]) -> bool:
    """Whether the name is that of an image or a video."""
    return Path(path).suffix.lower() in READABLE_SUFFIXES or video.is_video(path)


def _find(name: str, results: Collection[Path]) -> Iterator[tuple[Path, Path]]:
    """(file, its place below the output folder) of everything that a name stands for."""
    path = Path(name)
    if name == "-" or path.is_file() or (not path.exists() and not glob.has_magic(name)):
        yield path, Path(path.name)  # one that is missing is reported when its turn comes
    elif path.is_dir():
        for file in _images_below(path, results):
            yield file, file.relative_to(path)
    elif path.exists():
        raise ValueError(
            f"inputs: expected a file, a folder or - (the standard input), got {name}, which is none of them"
        )
    else:
        fixed = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts[:-1])
        start = Path(*fixed)
        for match in map(Path, sorted(glob.glob(name, recursive=True))):
            if match.is_file():
                yield match, match.relative_to(start)


def _images_below(folder: Path, results: Collection[Path]) -> Iterator[Path]:
    """Files that are named like images or videos; hidden ones and what an earlier run wrote are left out."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (Path(parent) / name).resolve() not in results
        )
        for name in sorted(files):
            if is_picture(name) and not name.startswith("."):
                yield Path(parent) / name


def _map_of(exit_map: Path, source: Path, place: Path, into_folder: bool) -> Path:
    """Where the exits of an input are drawn, given the place of its result below an output folder."""
    endings = video.WRITABLE if video.is_video(source) else _DRAWN
    if into_folder:
        check_drawings_folder(exit_map)
        return exit_map / place.with_suffix(place.suffix if endings is video.WRITABLE else ".png")
    if exit_map.suffix.lower() not in endings:
        raise ValueError(f"exit_map: expected a name that ends in {', '.join(endings)} for {source}, got {exit_map}")
    return exit_map


def check_drawings_folder(path: Path) -> None:
    """Complains if there can be no folder of this name, or if it is that of a picture.

    Raises:
        ValueError: as it says.
    """
    if not path.is_dir() and (path.exists() or path.suffix.lower() in (*WRITABLE, *video.WRITABLE)):
        raise ValueError(f"exit_map: expected a folder for many pictures, got {path}")


def check_kept(option: str, path: Path, begins: bytes) -> None:
    """Complains if what is kept about a run would take the place of a picture, or of a file of another kind.

    Args:
        option: what names the file.
        path: of the file.
        begins: its first bytes, if it is one of ours.

    Raises:
        ValueError: as it says.
    """
    if is_picture(path):
        raise ValueError(f"{option}: expected a name that is not that of an image or video, got {path}")
    if not path.is_file():
        return
    with contextlib.suppress(OSError):  # whoever writes it will say so
        with open(path, "rb") as file:
            found = file.read(len(begins))
        if found and found != begins:
            raise ValueError(f"{option}: expected a new file or the {option} of an earlier run, got {path}")


def _check_way(option: str, path: Path) -> None:
    """Complains if a file stands where the path needs a folder."""
    first = next((parent for parent in path.parents if os.path.lexists(parent)), None)
    if first is not None and not first.is_dir():
        raise ValueError(f"{option}: expected a folder on the way to {path}, got the file {first}")


def _check_collisions(jobs: list[Job]) -> None:
    sources = {job.source.resolve() for job in jobs}
    seen: dict[Path, Path] = {}
    for job in jobs:
        for option, path in (("output", job.target), ("exit_map", job.exit_map)):
            if path is None or path == STREAM:
                continue
            if path.resolve() in sources:
                raise ValueError(
                    f"{option}: {path} is an input itself and would be overwritten; name another folder or file"
                )
            if path.resolve() in seen:
                raise ValueError(f"{option}: {seen[path.resolve()]} and {job.source} would both become {path}")
            seen[path.resolve()] = job.source
