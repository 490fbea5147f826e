# SPDX-License-Identifier: Apache-2.0
"""Sets of originals on the disk, measured image by image; what is known of an image is kept, what fails is named."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol as Protocol_
from typing import TypeVar

import torch
from torch import Tensor

from enaf.adaptive import AdaptiveNetwork
from enaf.checkpoint import tensors_hash
from enaf.image_io import READABLE_SUFFIXES, ImageError, read_image
from enaf.image_io.folders import list_images, manifest_hash

from .protocol import Protocol
from .record import ImageRecord, measure

MANIFEST = "manifest.json"
"""What `enaf prepare` leaves beside the images of a set."""

FORMAT = "record-1"
"""Part of every key of the cache: change it when a record's content changes its meaning."""

Crop = tuple[int, int]
Item = TypeVar("Item")


class Progress(Protocol_):
    """Wraps a sequence to show how far it is; the text says of what."""

    def __call__(self, items: Sequence[Item], name: str, /) -> Iterable[Item]: ...


def silent(items: Sequence[Item], name: str, /) -> Iterable[Item]:
    """No progress bar."""
    return items


@dataclass(frozen=True)
class ImageSet:
    """Attributes: name: of the folder; paths: the originals; benchmark: which one `enaf prepare` built there, if it is whole."""

    name: str
    paths: list[Path]
    benchmark: str | None = None

    @property
    def sha256(self) -> str:
        """Over names and contents."""
        return manifest_hash(self.paths)


@dataclass(frozen=True)
class MeasuredSet:
    """A set after measurement.

    Attributes:
        name: of the set.
        benchmark: see ``ImageSet``.
        sha256: over the names and contents of all of its images, measured or not.
        paths: the measured images, in the order of ``records``.
        records: one an image.
        failures: (file name, reason) of images that could not be measured.
    """

    name: str
    benchmark: str | None
    sha256: str
    paths: list[Path]
    records: list[ImageRecord]
    failures: list[tuple[str, str]]


def find_sets(data: str | os.PathLike[str]) -> list[ImageSet]:
    """The sets of images in a folder: one for every sub-folder with images, or the folder itself.

    A sub-folder `HR` holds a set's originals where there is one.

    Args:
        data: a folder, or the name of one below the folder that the environment variable ``ENAF_DATA`` names.

    Raises:
        ValueError: no such folder, or no image in it.
    """
    folder = Path(data)
    if not folder.is_dir() and os.environ.get("ENAF_DATA"):
        folder = Path(os.environ["ENAF_DATA"]) / data
    if not folder.is_dir():
        raise ValueError(f"data: expected a folder, or the name of one below $ENAF_DATA, got {os.fspath(data)}")
    folder = folder.resolve()
    single = (folder / "HR").is_dir() or any(path.suffix.lower() in READABLE_SUFFIXES for path in folder.iterdir())
    sets = []
    for candidate in [folder] if single else sorted(path for path in folder.iterdir() if path.is_dir()):
        originals = candidate / "HR" if (candidate / "HR").is_dir() else candidate
        with contextlib.suppress(ValueError):
            sets.append(ImageSet(candidate.name, list_images(originals), whole_benchmark(candidate)))
    if not sets:
        raise ValueError(f"data: no image ({', '.join(sorted(READABLE_SUFFIXES))}) below {folder}")
    return sets


def whole_benchmark(folder: Path) -> str | None:
    """The benchmark that `enaf prepare` built in a folder; None where there is none, or not all of it."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        return str(manifest["benchmark"]) if manifest["complete"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_original(path: Path, crop: Crop | None = None) -> Tensor:
    """An original as (3, H, W) uint8.

    Args:
        path: an 8-bit RGB or grey image.
        crop: (width, height) of the centre to use of larger originals, its corner at multiples of 4.

    Raises:
        ImageError: unreadable, or of another kind.
    """
    hr = read_image(path).pixels
    if hr.dtype != torch.uint8 or len(hr) not in (1, 3):
        kind = str(hr.dtype).removeprefix("torch.")
        raise ImageError(f"{path}: expected 8-bit grey or RGB without alpha, got {len(hr)} channels of {kind}")
    if crop is not None:
        top, left = (max(0, side - wanted) // 2 // 4 * 4 for side, wanted in zip(hr.shape[1:], crop[::-1], strict=True))
        hr = hr[:, top : top + crop[1], left : left + crop[0]]
    return hr.expand(3, -1, -1).contiguous()


def weights_sha256(model: AdaptiveNetwork) -> str:
    """What the header of the model's file says: SHA-256 of its tensors."""
    return tensors_hash({name: tensor.detach().float().cpu() for name, tensor in model.state_dict().items()})


def measure_set(
    model: AdaptiveNetwork,
    images: ImageSet,
    protocol: Protocol,
    crop: Crop | None = None,
    cache: Path | None = None,
    progress: Progress = silent,
) -> MeasuredSet:
    """Measure every image of a set; an image that fails is named and left out.

    Args:
        model: in evaluation mode.
        images: the set.
        protocol: which pixels count and how.
        crop: see ``read_original``.
        cache: folder of finished records, keyed by the content of the image, the weights, the protocol and the crop; a run that
            was interrupted goes on where it stopped.
        progress: wraps the images, to show how far it is; called with the images and the name of the set.
    """
    weights = weights_sha256(model)
    paths, records, failures = [], [], []
    for path in progress(images.paths, images.name):
        try:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            about = json.dumps([FORMAT, content, weights, repr(protocol), protocol.window(model), crop])
            key = hashlib.sha256(about.encode()).hexdigest()[:32]
            kept = None if cache is None else cache / f"{key}.safetensors"
            record = None if kept is None else ImageRecord.load(kept)
            if record is None:
                record = measure(model, read_original(path, crop), protocol, path.name)
                if kept is not None:
                    record.save(kept)
        except (ImageError, OSError, ValueError, RuntimeError, MemoryError) as error:
            failures.append((path.name, str(error).replace(f"{path}: ", "")))
            continue
        paths.append(path)
        records.append(replace(record, key=key))
    return MeasuredSet(images.name, images.benchmark, images.sha256, paths, records, failures)
