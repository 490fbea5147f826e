# SPDX-License-Identifier: Apache-2.0
"""Many files: each is done, skipped or failed, and the rest goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from enaf.device import usable_device
from enaf.image_io import MAX_PIXELS, ImageError, check_target, create_image, open_image, sha256_of, sweep
from enaf.image_io.metadata import stripped
from enaf.upscaler import Upscaler
from enaf.video import VideoError, is_video, upscale_video
from enaf_ext.grid import PatchGrid

from .drawing import Drawing
from .ledger import BEGINS as LEDGER_BEGINS
from .ledger import NAME, FileResult, Ledger
from .one_image import upscale_rows
from .plan import STREAM, Job, check_kept, find_jobs
from .settings import Settings, checked, find_model, parse_strip, result_layout
from .standard_output import WholeWriter


class Listener:
    """Is told how a run gets on; the methods of this one do nothing."""

    def started(self, files: int | None) -> None:
        """So many files, or an unknown number of frames, will be looked at."""

    def advanced(self, share: float, megapixels: float) -> None:
        """So much of the present file was done, and so many megapixels of its result."""

    def finished(self, result: FileResult) -> None:
        """A file was done, skipped, or failed."""


def upscale_files(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] = "fsrcnn",
    scale: int = 4,
    size: tuple[int, int] | None = None,
    eta: float = 1.0,
    gamma: float = 1.0,
    budget: float | None = None,
    budget_ms: float | None = None,
    force_exit: int | None = None,
    patch_size: int = 32,
    overlap: int = 4,
    device: str = "auto",
    dtype: str | None = None,
    format: str | None = None,
    quality: int = 95,
    strip: str | Sequence[str] = (),
    max_pixels: int = MAX_PIXELS,
    exit_map: str | os.PathLike[str] | None = None,
    resume: bool = False,
    ledger: str | os.PathLike[str] | None = None,
    listener: Listener | None = None,
) -> list[FileResult]:
    """Upscales image and video files: what `enaf upscale` does. Memory is bounded by bands, not by images.

    A file that cannot be read, upscaled or written is reported in its result, and the rest goes on. Each result is written
    beside its target, flushed, read back, and renamed: a kill or a full disk leaves the old file or the new one, and what
    else it leaves is removed by the next run into that folder.

    Args:
        inputs: files, folders (with all that is below them), `glob` patterns, or `-` (standard input).
        output: a file, a folder (folders are mirrored, names and formats kept), or `-` (standard output).
        model: name of a shipped model, or a .safetensors file.
        scale: 2, 3 or 4, by a shipped model of that scale; where there is none, by the one for 4 and an antialiased reduction.
        size: (width, height) of every result in pixels, antialiased; None for the scale's.
        eta, gamma, budget, budget_ms, force_exit, patch_size, overlap: as for `enaf_ext.upscale`. Opacity is upscaled apart,
            and shares `budget_ms` half and half with the colours.
        device: "cpu", "cuda", "cuda:1", ...; "auto" is a GPU where there is one.
        dtype: arithmetic of the network, "float32", "bfloat16" or "float16"; None is the device's best. Files keep their own.
        format: of the resulting images, as "png", or videos, as "mkv"; None keeps the input's, or takes PNG and Matroska for
            what is only read.
        quality: 1..100, of JPEG, WebP and AVIF.
        strip: metadata to leave out: of "icc", "exif", "xmp", "resolution"; or "all". Of the tags of a video, "xmp" is what
            people write (titles, names, comments, rights), and "exif" all else but languages and what decides the look.
        max_pixels: larger images and frames are refused, as decompression bombs may be.
        exit_map: a file (one input) or folder for pictures of which patch took which exit; a video's is a video.
        resume: skip what the ledger shows as done from the same input bytes by the same settings and weights, if the output
            still is what it was.
        ledger: the file to which results are appended as JSON lines; None is `enaf-ledger.jsonl` in an output folder; beside
            an output file with ``resume``, else none.
        listener: is told how it gets on.

    Returns:
        What became of each file, in order.

    Raises:
        ValueError, TypeError: an option is out of range, or nothing could come of it; the message names it. Nothing was
            written.
        FileNotFoundError: the model is a path that does not exist.
    """
    settings = checked(
        Settings(
            model=os.fspath(model), scale=scale, size=size, eta=eta, gamma=gamma, budget=budget, budget_ms=budget_ms,
            force_exit=force_exit, patch_size=patch_size, overlap=overlap, dtype=dtype, format=format, quality=quality,
            strip=parse_strip(strip), max_pixels=max_pixels,
        )
    )  # fmt: skip
    names = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    jobs = find_jobs(names, output, settings.suffix, exit_map)
    run = _Run(settings, jobs, Path(output), device, resume, ledger)
    return run.all(listener or Listener())


class _Run:
    """One call of `upscale_files`."""

    def __init__(
        self,
        settings: Settings,
        jobs: list[Job],
        output: Path,
        device: str,
        resume: bool,
        ledger: str | os.PathLike[str] | None,
    ) -> None:
        self.settings, self.jobs, self.output = settings, jobs, output
        self.folder = output if jobs[0].target not in (output, STREAM) else None
        self.upscaler, self.weights = load_upscaler(settings)
        self.device = usable_device(device)
        check_request(self.upscaler, settings)
        if resume and output == STREAM:
            raise ValueError("resume: expected an output file or folder, got - (the standard output)")
        beside = (self.folder or output.parent) / NAME if self.folder or resume else None
        place = beside if ledger is None else Path(ledger)
        if place is not None:
            check_kept("ledger", place, LEDGER_BEGINS)
        self.ledger = None if place is None else Ledger(place)
        self.known = self.ledger.done() if self.ledger and resume else {}
        self.resume = resume

    def all(self, listener: Listener) -> list[FileResult]:
        """Every job, in order."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        files = [job.target for job in self.jobs if job.target != STREAM]
        maps = [job.exit_map for job in self.jobs if job.exit_map is not None]
        for folder in {path.resolve().parent for path in (*files, *maps)}:
            if folder.is_dir():
                sweep(folder)
        listener.started(len(self.jobs))
        results = []
        for job in self.jobs:
            result = self._one(job, listener)
            if self.ledger is not None and result.status != "skipped":
                result = kept(result, self.ledger)
            results.append(result)
            listener.finished(result)
        return results

    def _one(self, job: Job, listener: Listener) -> FileResult:
        result = FileResult(str(job.source), str(job.target), "failed")
        started = time.perf_counter()
        try:
            if self.ledger is not None:
                result = self._identified(result, job)
                if self._is_done(result, job):
                    return replace(result, status="skipped")
            result = (self._video if is_video(job.source) else self._image)(result, job, listener)
            return replace(result, status="done", seconds=round(time.perf_counter() - started, 3))
        except (ImageError, VideoError) as error:
            return replace(result, error=str(error))
        except (OSError, ValueError, TypeError, RuntimeError, MemoryError) as error:
            return replace(result, error=f"{job.source}: {str(error).strip() or type(error).__name__}")

    def _identified(self, result: FileResult, job: Job) -> FileResult:
        """With all that an output depends on; the standard input cannot be read twice."""
        if job.source == STREAM or not job.source.is_file():
            return result
        settings = self.settings.fingerprint(self.weights, job.target)
        return replace(result, input_sha256=sha256_of(job.source), settings_sha256=settings)

    def _is_done(self, result: FileResult, job: Job) -> bool:
        outputs = self.known.get((result.input_sha256, result.settings_sha256))
        if not outputs or not job.target.is_file() or sha256_of(job.target) not in outputs:
            return False
        return job.exit_map is None or job.exit_map.is_file()

    def _video(self, result: FileResult, job: Job, listener: Listener) -> FileResult:
        settings = self.settings
        routing: dict[str, Any] = {**settings.routing}
        if settings.dtype is not None:
            routing["dtype"] = getattr(torch, settings.dtype)
        before, megapixels = 0, 0.0

        def target_size(height: int, width: int) -> tuple[int, int]:
            nonlocal megapixels
            height, width = settings.target_size(height, width)
            megapixels = height * width / 1e6
            return height, width

        def progress(done: int, expected: int | None) -> None:
            nonlocal before
            listener.advanced((done - before) / expected if expected else 0.0, (done - before) * megapixels)
            before = done

        for path in filter(None, (job.target, job.exit_map)):
            make_folder(path.parent)
        try:
            report = upscale_video(
                job.source, job.target, self.upscaler, routing=routing, target_size=target_size,
                device=self.device, strip=settings.strip, max_pixels=settings.max_pixels, exit_map=job.exit_map,
                resume=self.resume, progress=progress,
            )  # fmt: skip
        except ModuleNotFoundError as error:
            raise VideoError(f"{job.source}: videos need PyAV: pip install 'enaf_ext[video]'") from error
        left_out = (f"left out: {name}" for name in report.dropped)
        notes = [f"{report.frames} frames", *report.damaged, *report.converted, *left_out]
        return replace(
            result, output_sha256=sha256_of(job.target), width=report.width, height=report.height, eta=report.tally.eta,
            cost=report.tally.cost, exits=report.tally.exits, notes=notes,
        )  # fmt: skip

    def _image(self, result: FileResult, job: Job, listener: Listener) -> FileResult:
        source = sys.stdin.buffer.read() if job.source == STREAM else job.source
        with contextlib.ExitStack() as stack:
            reader = stack.enter_context(open_image(source, name=str(job.source), max_pixels=self.settings.max_pixels))
            lr, layout = reader.layout, result_layout(reader.layout, self.settings)
            metadata = stripped(reader.metadata, self.settings.strip)
            target = job.target
            if target == STREAM:  # whole and checked before a byte of it goes out
                target = Path(
                    stack.enter_context(tempfile.TemporaryDirectory()), "-" + (self.settings.suffix or ".png")
                )
            check_target(target, layout, metadata)
            make_folder(target.parent)
            drawing = None if job.exit_map is None else Drawing(job.exit_map, lr, self.upscaler)
            megapixels = layout.height * layout.width / 1e6
            with create_image(target, layout, metadata, quality=self.settings.quality) as writer:
                info = upscale_rows(
                    reader, writer.write, self.upscaler, self.settings, self.device, scratch=target.parent,
                    advanced=lambda rows: listener.advanced(rows / lr.height, rows / lr.height * megapixels),
                    preview=None if drawing is None else drawing.take,
                )  # fmt: skip
            if job.target == STREAM:
                out = WholeWriter(sys.stdout.buffer)
                with open(target, "rb") as file:
                    shutil.copyfileobj(file, out, 1 << 20)
                out.flush()
        if drawing is not None:
            drawing.write(info)
        notes = list(reader.notes)
        scale = self.upscaler.scale
        if (layout.height, layout.width) != (scale * lr.height, scale * lr.width):
            notes.append(f"x{scale} resized to {layout.width}x{layout.height}")
        return replace(
            result, output_sha256=writer.sha256, width=layout.width, height=layout.height, eta=info.eta, cost=info.cost,
            exits=info.exit_index.flatten().bincount(minlength=self.upscaler.num_exits).tolist(), notes=notes,
        )  # fmt: skip


def make_folder(path: Path) -> None:
    """With those above it, if it is missing.

    Raises:
        ImageError: it cannot be.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"{path}: no folder can be made: {error.strerror or error}") from error


def kept(result: FileResult, ledger: Ledger) -> FileResult:
    """The result, failed if the ledger cannot take it: what is not in it cannot be resumed."""
    try:
        ledger.append(result)
    except OSError as error:
        return replace(result, status="failed", error=f"{ledger.path}: cannot be written: {error.strerror or error}")
    return result


def load_upscaler(settings: Settings) -> tuple[Upscaler, str]:
    """The upscaler of the best fitting model, and the SHA-256 of its weights.

    Raises:
        ValueError, FileNotFoundError: there is no such model.
    """
    path, native, weights = find_model(settings.model, settings.scale)
    return Upscaler(path if path.is_file() else settings.model, native), weights


def check_request(upscaler: Upscaler, settings: Settings) -> None:
    """Lets the upscaler itself complain about its arguments, on one pixel.

    Raises:
        ValueError, TypeError: it does.
    """
    PatchGrid(1, 1, settings.patch_size, settings.overlap)
    if settings.dtype not in (None, "float32", "bfloat16", "float16"):
        raise ValueError(f"dtype: expected float32, bfloat16 or float16, got {settings.dtype}")
    routing = settings.routing
    if (
        settings.budget_ms is not None
        and settings.budget_ms > 0
        and settings.budget is None
        and settings.force_exit is None
    ):
        routing["budget_ms"] = None  # in order, and using it would measure the device
    upscaler(torch.zeros(3, 1, 1, dtype=torch.uint8), **routing)
