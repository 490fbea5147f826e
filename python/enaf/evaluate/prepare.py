# SPDX-License-Identifier: Apache-2.0
"""The sets of the papers of this field, built from the public collections as ClassSR describes (Kong et al. 2021).

Test2K, Test4K, Test8K: DIV8K images 1201 to 1300 reduced four times, 1301 to 1400 reduced twice, 1401 to 1500 as they are.
F2K: Flickr2K as it is. DIV2K-sub: images 0001 to 0800 at 1, 0.9, 0.8, 0.7 and 0.6 of their size, in 128x128 every 64 pixels.
HR sides are cut to multiples of the scale; LR is ``downsample`` of the whole HR, cut into pieces with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from enaf.degradation import downsample, resize
from enaf.image_io import ImageError, read_image, write_image
from enaf.image_io.folders import list_images

from .sets import MANIFEST, Progress, read_original, silent

PIECE, STEP, REMAINDER = 128, 64, 48
"""HR pixels of a piece, from one piece to the next, and what must be left at the edge for one more."""


@dataclass(frozen=True)
class Benchmark:
    """One set and how it is made.

    Attributes:
        name: as papers call it.
        source: the collection it is made from.
        first, last: numbers at the end of the file names that belong to it; None takes every image.
        count: images it has when it is whole.
        factors: sizes that are made of each image, as shares of the original.
        pieces: whether images are cut into pieces.
    """

    name: str
    source: str
    first: int | None
    last: int | None
    count: int
    factors: tuple[float, ...] = (1.0,)
    pieces: bool = False

    def takes(self, path: Path) -> bool:
        """Whether an image belongs to the set."""
        if self.first is None or self.last is None:
            return True
        digits = path.stem[len(path.stem.rstrip("0123456789")) :]
        return digits.isdigit() and self.first <= int(digits) <= self.last


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("Test2K", "DIV8K", 1201, 1300, 100, (0.25,)),
        Benchmark("Test4K", "DIV8K", 1301, 1400, 100, (0.5,)),
        Benchmark("Test8K", "DIV8K", 1401, 1500, 100),
        Benchmark("F2K", "Flickr2K", None, None, 2650),
        Benchmark("DIV2K-sub", "DIV2K", 1, 800, 800, (1.0, 0.9, 0.8, 0.7, 0.6), pieces=True),
    )
}


@dataclass(frozen=True)
class Prepared:
    """Attributes: name: of the set; files: HR images written; sha256: over all names and contents; complete: all originals were
    there; failures: (file, reason)."""

    name: str
    files: int
    sha256: str
    complete: bool
    failures: list[tuple[str, str]]


def prepare(benchmark: Benchmark, source: Path, out: Path, scale: int = 4, progress: Progress = silent) -> Prepared:
    """Build one set: OUT/NAME/HR, OUT/NAME/LR/xSCALE and OUT/NAME/manifest.json.

    The manifest lists the SHA-256 of the pixels of every image, so that two people can tell whether they hold the same set
    whatever their PNG encoders do. Started again, after an interruption or with other originals, it makes only what is missing
    or has other pixels.

    Args:
        benchmark: one of ``BENCHMARKS``.
        source: folder of the collection's originals, searched recursively.
        out: where the sets go.
        scale: of the LR images.
        progress: wraps the originals, to show how far it is.

    Raises:
        ValueError: no such folder, or no image of the set in it.
    """
    originals = [path for path in list_images(source) if benchmark.takes(path)]
    if not originals:
        wanted = "" if benchmark.first is None else f" with numbers {benchmark.first} to {benchmark.last}"
        raise ValueError(f"source: no image{wanted} below {source}, expected {benchmark.source}")
    names = [path.stem for path in originals]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"source: expected every image once, {twice} is there more than once")
    folder = out / benchmark.name
    hr_folder, lr_folder = folder / "HR", folder / "LR" / f"x{scale}"
    for target in (hr_folder, lr_folder):
        target.mkdir(parents=True, exist_ok=True)
    entries, failures = {}, []
    for path in progress(originals, benchmark.name):
        try:
            for name, hr, lr in _images(benchmark, path, scale):
                entries[name] = {"hr": pixels_sha256(hr), "lr": pixels_sha256(lr)}
                for target, image in ((hr_folder / name, hr), (lr_folder / name, lr)):
                    if not _holds(target, image):
                        write_image(target, image)
        except ImageError as error:
            failures.append((path.name, str(error).replace(f"{path}: ", "")))
    digest = hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
    complete = len(originals) == benchmark.count and not failures
    manifest = {
        "benchmark": benchmark.name,
        "source": benchmark.source,
        "scale": scale,
        "originals": len(originals) - len(failures),
        "of": benchmark.count,
        "complete": complete,
        "sha256": digest,
        "images": entries,
    }
    temporary = folder / f"{MANIFEST}.part"
    temporary.write_text(json.dumps(manifest, indent=1) + "\n")
    temporary.replace(folder / MANIFEST)
    return Prepared(benchmark.name, len(entries), digest, complete, failures)


def pixels_sha256(image: Tensor) -> str:
    """SHA-256 of the size and the pixels of an image (3, H, W) uint8, row by row, R, G, B."""
    digest = hashlib.sha256(f"{image.shape[2]}x{image.shape[1]} ".encode())
    digest.update(image.permute(1, 2, 0).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _holds(path: Path, image: Tensor) -> bool:
    """Whether a file has these pixels."""
    try:
        return torch.equal(read_image(path).pixels, image)
    except ImageError:  # also where there is none
        return False


def _images(benchmark: Benchmark, path: Path, scale: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(file name, HR, LR) of everything that is made of one original."""
    original = read_original(path)
    for factor in benchmark.factors:
        if (1 / factor).is_integer():  # sides that divide, as the authors cut them before they reduce
            step = round(1 / factor)
            hr = original[:, : original.shape[1] // step * step, : original.shape[2] // step * step]
        else:
            hr = original
        # MATLAB's imresize rounds the size up
        hr = resize(hr, *(-(-side * round(factor * 100) // 100) for side in hr.shape[-2:]))
        hr = hr[:, : hr.shape[1] // scale * scale, : hr.shape[2] // scale * scale].contiguous()
        lr = downsample(hr, scale)
        stem = path.stem if len(benchmark.factors) == 1 else f"{factor:g}_{path.stem}"
        if not benchmark.pieces:
            yield f"{stem}.png", hr, lr
            continue
        corners = [(y, x) for y in piece_origins(hr.shape[1]) for x in piece_origins(hr.shape[2])]
        for index, (y, x) in enumerate(corners, start=1):
            top, left, side = y // scale, x // scale, PIECE // scale
            yield (
                f"{stem}_s{index:03d}.png",
                hr[:, y : y + PIECE, x : x + PIECE].contiguous(),
                lr[:, top : top + side, left : left + side].contiguous(),
            )


def piece_origins(side: int) -> list[int]:
    """Where pieces begin along one axis: every ``STEP``, and once more at the edge where more than ``REMAINDER`` is left."""
    origins = list(range(0, side - PIECE + 1, STEP))
    if origins and side - (origins[-1] + PIECE) > REMAINDER:
        origins.append(side - PIECE)
    return origins
