# SPDX-License-Identifier: Apache-2.0
"""Everything that decides what a file becomes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypedDict

from enaf import video
from enaf.checkpoint import model_header, shipped_models
from enaf.image_io import WRITABLE, Layout
from enaf.image_io.metadata import KINDS

MAX_SIDE, MAX_RESULT = 1_000_000, 1 << 32
"""Pixels of a side, and of the whole, up to which a size is taken as meant."""


class Routing(TypedDict):
    """Keywords of the upscaler."""

    eta: float
    gamma: float
    budget: float | None
    budget_ms: float | None
    force_exit: int | None
    patch_size: int
    overlap: int


@dataclass(frozen=True)
class Settings:
    """The options of `upscale_files`, checked; see there."""

    model: str
    scale: int
    size: tuple[int, int] | None
    eta: float
    gamma: float
    budget: float | None
    budget_ms: float | None
    force_exit: int | None
    patch_size: int
    overlap: int
    dtype: str | None
    format: str | None
    quality: int
    strip: tuple[str, ...]
    max_pixels: int

    @property
    def suffix(self) -> str | None:
        """The format as the ending of a name."""
        return None if self.format is None else "." + self.format

    @property
    def routing(self) -> Routing:
        """The keywords of the upscaler that choose exits."""
        return {
            "eta": self.eta,
            "gamma": self.gamma,
            "budget": self.budget,
            "budget_ms": self.budget_ms,
            "force_exit": self.force_exit,
            "patch_size": self.patch_size,
            "overlap": self.overlap,
        }

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the result of an input of this size."""
        if self.size is not None:
            return self.size[1], self.size[0]
        return self.scale * height, self.scale * width

    def fingerprint(self, weights: str, target: Path) -> str:
        """SHA-256 of all that decides an output's bytes besides the input's: settings, weights, format, version."""
        facts = asdict(self) | {"weights": weights, "suffix": target.suffix.lower(), "version": _version()}
        for name in ("model", "format", "max_pixels"):  # told by the weights, by the suffix, and of no effect
            del facts[name]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def checked(settings: Settings) -> Settings:
    """Itself.

    Raises:
        ValueError: an option is out of range; the message names it.
    """
    if settings.scale not in (2, 3, 4):
        raise ValueError(f"scale: expected 2, 3 or 4, got {settings.scale}")
    if settings.size is not None:
        width, height = settings.size
        if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_RESULT):
            limits = f"at least 1 and at most {MAX_SIDE}, and at most {MAX_RESULT} pixels"
            raise ValueError(f"size: expected width and height of {limits}, got {width}x{height}")
    endings = (*WRITABLE, *video.WRITABLE)
    if settings.format is not None and settings.suffix not in endings:
        raise ValueError(f"format: expected {', '.join(suffix[1:] for suffix in endings)}, got {settings.format}")
    if not 1 <= settings.quality <= 100:
        raise ValueError(f"quality: expected 1..100, got {settings.quality}")
    for kind in settings.strip:
        if kind not in KINDS:
            raise ValueError(f"strip: expected of {', '.join(KINDS)}, got {kind}")
    if settings.max_pixels < 1:
        raise ValueError(f"max_pixels: expected at least 1, got {settings.max_pixels}")
    return settings


def find_model(model: str | os.PathLike[str], scale: int) -> tuple[Path, int, str]:
    """The file of a model, the scale it upscales by, and the SHA-256 of its weights.

    A shipped model of that scale, else the shipped one for four, else a file, which tells its own scale.

    Raises:
        ValueError, FileNotFoundError: as `enaf.checkpoint.load_model`, when it is loaded.
    """
    name, shipped = os.fspath(model), shipped_models()
    path = shipped.get(name) or shipped.get(f"{name}-x{scale}") or shipped.get(f"{name}-x4")
    if path is None and not Path(name).is_file():
        return Path(name), scale, ""  # loading it says what is wrong
    path = path or Path(name)
    try:
        header = model_header(path)
    except Exception:  # as above
        return path, scale, ""
    native = header.get("scale", "")
    return path, int(native) if native.isdigit() else scale, header.get("sha256", "")


def parse_strip(strip: str | Sequence[str]) -> tuple[str, ...]:
    """`"exif,xmp"`, `"all"` or a sequence of names."""
    names = strip.split(",") if isinstance(strip, str) else list(strip)
    return KINDS if names == ["all"] else tuple(sorted({name for name in names if name}))


def result_layout(layout: Layout, settings: Settings) -> Layout:
    """The result's, of an input of this layout."""
    height, width = settings.target_size(layout.height, layout.width)
    return Layout(height, width, layout.channels, layout.dtype)


def _version() -> str:
    try:
        return version("enaf_ext")
    except PackageNotFoundError:
        return "unknown"
