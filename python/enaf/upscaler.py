# SPDX-License-Identifier: Apache-2.0
"""The flow of an image: bands of patches, scores, decision, exits, blend."""

from __future__ import annotations

import copy
import math
import os
import threading
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Literal, TypeAlias, overload

import torch
from torch import Tensor
from torch.nn import functional

from enaf_ext import ops
from enaf_ext.grid import PatchGrid

from . import calibration
from .adaptive import AdaptiveNetwork
from .bands import Band
from .blend import BandBlend
from .calibration import Calibration, Pace
from .checkpoint import load_model
from .cost import CostTable
from .decision import choose_exits, eta_for_budget
from .engine import Engine, Job
from .estimator import CELL
from .exits import redo_overflows, run_exits
from .fused import fused
from .heap import keep_freed_memory
from .inference import fastest_dtype, prepare, prepare_estimator
from .pixels import (
    Canvas,
    Place,
    Read,
    Write,
    as_rgb,
    blended_dtype,
    check_image,
    finish,
    nowhere,
    outside_inference,
)
from .record import Record, Request, Stopwatch, UpscaleInfo
from .scores import score, score_all
from .static import StaticRows, run_static, static_strips
from .streaming import HostRows, HostSink, ReadRows, WriteRows, beside
from .whole_or_routed import IN_MEMORY, LARGEST_SHARE, ROUTED, Prices, Way, eta_within, ways
from .workspace import Room

__all__ = ["UpscaleInfo", "Upscaler", "upscale"]

CALIBRATED_PATCHES = (7, 15)
"""Rows and columns of patches, less one, of the image that calibration times."""

DTYPES = (torch.float16, torch.bfloat16, torch.float32)

Model: TypeAlias = "str | os.PathLike[str] | AdaptiveNetwork"


class Upscaler:
    """Loads a model once; call it with images.

    Args:
        model: name of a shipped model, path to a safetensors file, or an ``AdaptiveNetwork``.
        scale: upscaling factor; must be the model's.
        cost: what c of the fusion rule counts: "paper" (published FLOPs), "macs" (true multiply-accumulates) or "ms"
            (milliseconds measured on the device, see `enaf calibrate`: other devices then choose other exits).

    Attributes:
        model: a copy of it, on the CPU in float32.
        scale: upscaling factor.
        column: the cost that was chosen.

    Raises:
        ValueError, FileNotFoundError: see ``enaf.checkpoint.load_model``.
        TypeError: a module that is no ``AdaptiveNetwork``.
    """

    def __init__(
        self, model: Model = "fsrcnn", scale: int = 4, *, cost: Literal["paper", "macs", "ms"] = "paper"
    ) -> None:
        if isinstance(model, torch.nn.Module):
            if not isinstance(model, AdaptiveNetwork):
                raise TypeError(f"model: expected an AdaptiveNetwork, got {type(model).__name__}")
            if model.network.scale != scale:
                raise ValueError(f"scale: the model upscales by {model.network.scale}, asked for {scale}")
        else:
            model = load_model(model, scale)
        if cost not in ("paper", "macs", "ms"):
            raise ValueError(f"cost: expected 'paper', 'macs' or 'ms', got {cost!r}")
        self.scale = scale
        self.column = cost
        self.model = copy.deepcopy(model).cpu().float().eval()
        self._table = CostTable.of(self.model)
        self._fastest: dict[torch.device, torch.dtype] = {}
        self._engines: dict[tuple[torch.device, torch.dtype], Engine] = {}
        self._calibrations: dict[calibration.Setting, tuple[Calibration, Pace]] = {}
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple[Callable[..., Upscaler], tuple[AdaptiveNetwork, int]]:
        """Copies and pickles hold the model, and get ready for a device anew."""
        return partial(type(self), cost=self.column), (self.model, self.scale)

    @property
    def num_exits(self) -> int:
        """E, bicubic included."""
        return len(self._table.paper)

    @property
    def cost(self) -> Tensor:
        """(E,) float64, published cost of every exit as a share of the full one."""
        return self._table.paper

    @overload
    def __call__(
        self, image: Tensor, eta: float = ..., gamma: float = ..., *, budget: float | None = ...,
        budget_ms: float | None = ..., force_exit: int | None = ..., patch_size: int = ..., overlap: int = ...,
        dtype: torch.dtype | None = ..., return_info: Literal[False] = ..., scores: bool = ...,
    ) -> Tensor: ...  # fmt: skip

    @overload
    def __call__(
        self, image: Tensor, eta: float = ..., gamma: float = ..., *, budget: float | None = ...,
        budget_ms: float | None = ..., force_exit: int | None = ..., patch_size: int = ..., overlap: int = ...,
        dtype: torch.dtype | None = ..., return_info: Literal[True], scores: bool = ...,
    ) -> tuple[Tensor, UpscaleInfo]: ...  # fmt: skip

    @torch.inference_mode()
    def __call__(
        self,
        image: Tensor,
        eta: float = 1.0,
        gamma: float = 1.0,
        *,
        budget: float | None = None,
        budget_ms: float | None = None,
        force_exit: int | None = None,
        patch_size: int = 32,
        overlap: int = 4,
        dtype: torch.dtype | None = None,
        return_info: bool = False,
        scores: bool = True,
    ) -> Tensor | tuple[Tensor, UpscaleInfo]:
        """Upscale; see ``enaf_ext.upscale`` for arguments, result and errors.

        Without ``scores``, ``return_info`` costs nothing: it tells what is known anyhow, with nan for scores that nothing had
        to be decided by, and milliseconds that do not wait for a GPU, as ``stream``.
        """
        check_image(image)
        request = Request(eta, gamma, budget, budget_ms, force_exit, patch_size, overlap).checked(self.num_exits)
        engine = self._engine(image.device, dtype)
        canvas = Canvas(image, self.scale)
        asked = return_info and scores
        info = self._run(
            engine, request, canvas.shape, canvas.read, canvas.write, place=canvas.rows, scores=asked, synchronize=asked
        )
        return (canvas.sr, info) if return_info else canvas.sr

    @torch.inference_mode()
    def stream(
        self,
        read: ReadRows,
        shape: tuple[int, int, int],
        write: WriteRows,
        *,
        device: torch.device | str | None = None,
        eta: float = 1.0,
        gamma: float = 1.0,
        budget: float | None = None,
        budget_ms: float | None = None,
        force_exit: int | None = None,
        patch_size: int = 32,
        overlap: int = 4,
        dtype: torch.dtype | None = None,
    ) -> UpscaleInfo:
        """Upscale an image that never is in memory as a whole; the bytes are those of the whole-image call.

        Args:
            read: (top, bottom) -> (C, bottom - top, W), a CPU tensor with these rows of the LR image. Asked for ascending,
                overlapping bands, and from the top again after a first look that some requests need (a budget at all rows,
                others at a sample); of an image of up to 2 megapixels (16 on CUDA) for all rows, once.
            shape: (C, H, W) of the LR image, C = 1 or 3.
            write: (top, rows), rows (C, n, s*W) on the CPU, of the dtype that ``read`` gave: called in order, until each SR
                row was given exactly once.
            device: where the work is done; None is CUDA where there is one, else the CPU.
            eta, gamma, budget, budget_ms, force_exit, patch_size, overlap, dtype: as for ``enaf_ext.upscale``.

        Returns:
            What happened; its stages' milliseconds do not wait for a GPU.

        Raises:
            TypeError, ValueError: an argument is out of range, or ``read`` returned something else.
        """
        if len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1:
            raise ValueError(f"shape: expected (1 or 3 channels, height, width), got {tuple(shape)}")
        request = Request(eta, gamma, budget, budget_ms, force_exit, patch_size, overlap).checked(self.num_exits)
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        engine = self._engine(device, dtype)
        rows, sink = HostRows(read, shape, device, check_image), HostSink(write, device)
        source: Read = rows
        if shape[1] * shape[2] <= IN_MEMORY[device.type]:
            source = _again(rows(0, shape[1]))
            rows.seconds = 0.0
        info = self._run(engine, request, (1, *shape), source, sink, aside=lambda: rows.seconds + sink.seconds)
        sink.flush()
        return info

    @torch.inference_mode()
    def static(self, image: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
        """Upscale by the full network without routing, as fast as it goes: the alternative that routing has to beat.

        Args:
            image: as for ``enaf_ext.upscale``.
            dtype: of the network's arithmetic, as for ``enaf_ext.upscale``.

        Returns:
            As ``enaf_ext.upscale``; whatever its size, the image is as if the network had seen it whole.

        Raises:
            TypeError, ValueError: as ``enaf_ext.upscale``.
        """
        check_image(image)
        engine = self._engine(image.device, dtype)
        canvas = Canvas(image, self.scale)
        run_static(engine, self.num_exits - 1, canvas.size, canvas.read, canvas.write, canvas.rows)
        return canvas.sr

    # --- the flow ---

    def _run(
        self, engine: Engine, request: Request, shape: tuple[int, ...], read: Read, write: Write, *, place: Place = nowhere,
        scores: bool = False, synchronize: bool = False, aside: Callable[[], float] = float,
    ) -> UpscaleInfo:  # fmt: skip
        """``aside`` tells how many seconds of it are not ours."""
        grid = PatchGrid(shape[2], shape[3], request.patch_size, request.overlap)
        record = Record(shape[0], grid, self.num_exits, engine.device)
        prices, always_routed = self._prices(engine, request, grid), self._always_routed(request)
        if always_routed:
            prices = prices._replace(whole=[math.inf] * self.num_exits)
        watch = Stopwatch(engine.device, synchronize)
        job = Job(engine, request, grid, list(range(shape[0])), read, write, record, watch, place)
        eta, expected = self._eta(job, prices)
        taken = [ROUTED] * shape[0] if always_routed else ways(job, eta, prices)
        scored = record.scored  # for the decision, not to be told of
        if scores:
            score_all(job)
        watch.mark("scores")
        for way in sorted(set(taken)):
            part = job.of([image for image in job.images if taken[image] == way])
            if way.patches:
                with engine.workspace.room() as room:
                    self._run_routed(part, eta, prices.cost, room, way.whole)
            else:
                run_static(engine, way.whole, part.shape, part.read, part.write, part.place)
                record.exit_index[part.images] = way.whole
                watch.mark("static")
        whole = [way.whole for way in taken]
        spent = self._table.spent(record.exit_index, whole, grid, self._whole_macs(engine, grid), scored)
        spent["ms"] = sum(watch.milliseconds.values())
        if expected is not None and watch.waits:
            self._calibrated(engine, grid)[1].add(expected, watch.total() - 1e3 * aside())
        return UpscaleInfo(
            outside_inference(record.exit_index),
            outside_inference(record.edge_score),
            outside_inference(record.psnr_db),
            grid,
            eta,
            [image for image in job.images if taken[image] == Way(self.num_exits - 1, patches=False)],
            whole,
            spent,
            watch.milliseconds,
        )

    def _run_routed(self, job: Job, eta: float, cost: Tensor, room: Room, whole: int = 0) -> None:
        """Band by band: scores, decision, exits, blend. Patches whose exit is no deeper than ``whole`` go through that one
        together, where it is not 0."""
        engine, network, watch = job.engine, job.engine.network, job.watch
        batch = engine.batch(job.grid.patch_size)
        together = StaticRows(static_strips(engine, whole, job.shape, job.read)) if whole else None
        blend: BandBlend | None = None
        for band, lr, order, running in beside(self._routed(job, eta, cost, whole), engine.device):
            blend = blend or BandBlend(len(job.images), self.scale, blended_dtype(lr), self.model.window)
            rgb, parts = as_rgb(lr), None
            rest = as_rgb(together(self.scale * band.top, self.scale * band.bottom)) if together else None
            while parts is None:
                try:
                    parts = run_exits(network, rgb, band.local, order, running, batch, engine.fused, room, rest)
                    if engine.dtype == torch.float16:
                        redo_overflows(engine.exact, rgb, band.local, order, running, batch, parts)
                except RuntimeError as error:
                    if batch == 1 or not _out_of_memory(error):
                        raise
                    parts, batch = None, batch // 2
            watch.mark("exits")
            first, end = (self.scale * row for row in band.finished)
            job.write(first, finish(blend(band, parts, order, job.place(first, end)), lr))
            watch.mark("blend")

    def _routed(
        self, job: Job, eta: float, cost: Tensor, whole: int
    ) -> Iterator[tuple[Band, Tensor, Tensor, list[int]]]:
        """Every band: its rows, its patches by descending exit, and how many of them reach each depth: but for those that go
        through ``whole`` together, which reach none."""
        request, record = job.request, job.record
        for scored in job.engine.scored_bands(job.grid, len(job.images)):
            lr, here = job.rows(scored), job.here(scored)
            if request.force_exit is not None:
                record.exit_index[here] = request.force_exit
            else:
                if not record.scored:
                    score(job, scored, lr)
                psnr_db, edge_score = record.psnr_db[here], record.edge_score[here]
                chosen = choose_exits(psnr_db.flatten(0, 2), edge_score.flatten(), cost, eta, request.gamma)
                record.exit_index[here] = chosen.clamp_min_(whole).view(edge_score.shape)
            job.watch.mark("scores")
            for band in scored.split(job.engine.band_rows(job.grid, len(job.images))):
                order, offsets = ops.route_exits(record.exit_index[job.here(band)].flatten(), self.num_exits)
                running = offsets.tolist()  # the one wait for the device: how many patches reach each depth
                running[1 : whole + 1] = [running[whole + 1]] * whole
                job.watch.mark("decision")
                yield band, scored.rows_of(band, lr), order, running

    # --- what it decides by ---

    def _prices(self, engine: Engine, request: Request, grid: PatchGrid) -> Prices:
        """In multiply-accumulates, or where milliseconds are asked for, in those of the device."""
        if self.column != "ms" and request.budget_ms is None:
            shares = LARGEST_SHARE * self._whole_macs(engine, grid)
            return Prices(engine.cost, self._table.patch(grid).tolist(), shares.tolist(), self._table.scores(grid))
        measured, _ = self._calibrated(engine, grid)
        pixels = grid.height * grid.width * self._overlaps(engine, grid)
        whole = [taken * seen for taken, seen in zip(measured.whole_ms, pixels.tolist(), strict=True)]
        patch = [taken - measured.score_ms for taken in measured.patch_ms]
        return Prices(measured.relative.to(engine.cost), patch, whole, measured.score_ms * grid.num_patches)

    def _overlaps(self, engine: Engine, grid: PatchGrid) -> Tensor:
        """``Engine.overlap`` of every exit, (E,) float64; 1 for bicubic."""
        learned = [engine.overlap(depth, grid.height, grid.width) for depth in range(1, self.num_exits)]
        return torch.tensor([1.0, *learned], dtype=torch.float64)

    def _whole_macs(self, engine: Engine, grid: PatchGrid) -> Tensor:
        """True multiply-accumulates of every exit over an image as a whole, over those of the full one without overlap, (E,)."""
        return self._table.relative("macs") * self._overlaps(engine, grid)

    def _eta(self, job: Job, prices: Prices) -> tuple[float, float | None]:
        """The eta asked for, or the one that a budget buys, for which all images are scored; of a budget in milliseconds also
        those that the calibration expects then."""
        request, record = job.request, job.record
        if request.budget_ms is not None:
            _, pace = self._calibrated(job.engine, job.grid)
            return eta_within(job, prices, request.budget_ms / pace.ratio)
        if request.budget is not None:
            score_all(job)
            psnr_db, edge_score = record.psnr_db.flatten(0, 2), record.edge_score.flatten()
            return eta_for_budget(psnr_db, edge_score, prices.cost, request.budget, request.gamma), None
        return request.eta, None

    def _always_routed(self, request: Request) -> bool:
        """Whether no exit as a whole is an alternative: the way was chosen, or the model is one for patches."""
        limited = request.budget is not None and request.budget < 1
        tiled = self.model.tiling == "paper" or request.patch_size < CELL
        return request.force_exit is not None or limited or tiled

    def calibration(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        patch_size: int = 32,
        overlap: int = 4,
        *,
        renew: bool = False,
    ) -> Calibration:
        """What every exit takes on a device in milliseconds: from the cache, or measured now and kept there.

        Args:
            device, dtype, patch_size, overlap: as for a call.
            renew: measure, whatever is in the cache.

        Raises:
            TypeError, ValueError: such patches cannot be.
        """
        Request(0.0, 0.0, None, None, None, patch_size, overlap).checked(self.num_exits)
        grid = PatchGrid(patch_size, patch_size, patch_size, overlap)
        return self._calibrated(self._engine(torch.device(device), dtype), grid, renew)[0]

    @torch.inference_mode()
    def _calibrated(self, engine: Engine, grid: PatchGrid, renew: bool = False) -> tuple[Calibration, Pace]:
        """For patches as a grid's; and how calls since then went."""
        patch_size, overlap = grid.patch_size, grid.overlap
        setting = calibration.Setting.of(self._fingerprint, engine.device, engine.dtype, patch_size, overlap)
        with self._lock:
            if setting in self._calibrations and not renew:
                return self._calibrations[setting]
            measured = None if renew else calibration.load(setting)
            if measured is None or len(measured.patch_ms) != self.num_exits:
                measured = self._measure(engine, patch_size, overlap)
                calibration.keep(setting, measured)
            self._calibrations[setting] = measured, Pace()
            return self._calibrations[setting]

    def _measure(self, engine: Engine, patch_size: int, overlap: int) -> Calibration:
        """Times whole calls on noise, scores included."""
        height, width = (patch_size + count * (patch_size - overlap) for count in CALIBRATED_PATCHES)
        image = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8).to(engine.device)
        grid = PatchGrid(height, width, patch_size, overlap)

        turns = torch.arange(grid.num_patches, device=engine.device) % self.num_exits
        wishes = functional.one_hot(turns, self.num_exits).float().view(1, grid.rows, grid.cols, -1)

        def scored(force_exit: int | None = None) -> Job:
            canvas, record = Canvas(image, self.scale), Record(1, grid, self.num_exits, engine.device)
            request = Request(0.0, 0.0, None, None, force_exit, patch_size, overlap)
            watch = Stopwatch(engine.device, synchronize=True)
            job = Job(engine, request, grid, [0], canvas.read, canvas.write, record, watch)
            score_all(job)
            watch.mark("scores")
            return job

        def routed(force_exit: int | None = None) -> None:
            job = scored(force_exit)
            job.record.psnr_db.copy_(wishes)  # every exit in turn, where none is forced
            with engine.workspace.room() as room:
                self._run_routed(job, 0.0, engine.cost, room)

        def whole(depth: int) -> None:
            canvas = Canvas(image, self.scale)
            run_static(engine, depth, canvas.size, canvas.read, canvas.write, canvas.rows)
            Stopwatch(engine.device, synchronize=True)

        learned = range(1, self.num_exits)
        return calibration.measure(
            exits=[partial(routed, depth) for depth in range(self.num_exits)],
            mixed=(routed, turns.bincount().tolist()),
            scores=scored,
            whole=[partial(whole, depth) for depth in learned],
            patches=grid.num_patches,
            pixels=[height * width * engine.overlap(depth, height, width) for depth in learned],
        )

    def fastest_dtype(self, device: torch.device) -> torch.dtype:
        """What ``dtype`` None stands for on a device."""
        if device not in self._fastest:
            one_operator = device.type == "cpu" and fused(self.model.network, device, torch.float32) is not None
            self._fastest[device] = torch.float32 if one_operator else fastest_dtype(device)
        return self._fastest[device]

    @cached_property
    def _fingerprint(self) -> str:
        return calibration.fingerprint(self.model)

    def _engine(self, device: torch.device, dtype: torch.dtype | None) -> Engine:
        """The model for one device and arithmetic, made once."""
        if dtype is None:
            dtype = self.fastest_dtype(device)
        if dtype not in DTYPES:
            raise TypeError(f"dtype: expected float16, bfloat16 or float32, got {dtype}")
        with self._lock:
            if (device, dtype) not in self._engines:
                if device.type == "cpu":
                    keep_freed_memory()
                network = prepare(self.model.network, device, dtype)
                exact = network if dtype != torch.float16 else prepare(self.model.network, device, torch.float32)
                estimator = prepare_estimator(self.model.estimator, device)
                whole = fused(self.model.network, device, dtype)
                cost = self._table.relative(self.column).to(device, torch.float32)
                self._engines[device, dtype] = Engine(network, exact, estimator, device, dtype, cost, whole)
            return self._engines[device, dtype]


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether it is that: through the stable ABI of our operators only the name of what failed is handed on."""
    return isinstance(error, torch.OutOfMemoryError) or '"aten::empty"' in str(error)


def _again(image: Tensor) -> Read:
    """Rows of an image that is in memory, as often as one likes."""
    return lambda top, bottom: image[:, :, top:bottom]


_shared: dict[tuple[str, int], tuple[object, Upscaler]] = {}
_shared_lock = threading.Lock()


def _version(model: str | os.PathLike[str]) -> object:
    """What changes when a file is written anew; None for a shipped name."""
    try:
        status = os.stat(model)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


@overload
def upscale(
    image: Tensor, eta: float = ..., gamma: float = ..., *, model: Model = ..., scale: int = ...,
    budget: float | None = ..., budget_ms: float | None = ..., force_exit: int | None = ..., patch_size: int = ...,
    overlap: int = ..., dtype: torch.dtype | None = ..., return_info: Literal[False] = ...,
) -> Tensor: ...  # fmt: skip


@overload
def upscale(
    image: Tensor, eta: float = ..., gamma: float = ..., *, model: Model = ..., scale: int = ...,
    budget: float | None = ..., budget_ms: float | None = ..., force_exit: int | None = ..., patch_size: int = ...,
    overlap: int = ..., dtype: torch.dtype | None = ..., return_info: Literal[True],
) -> tuple[Tensor, UpscaleInfo]: ...  # fmt: skip


def upscale(
    image: Tensor,
    eta: float = 1.0,
    gamma: float = 1.0,
    *,
    model: Model = "fsrcnn",
    scale: int = 4,
    budget: float | None = None,
    budget_ms: float | None = None,
    force_exit: int | None = None,
    patch_size: int = 32,
    overlap: int = 4,
    dtype: torch.dtype | None = None,
    return_info: bool = False,
) -> Tensor | tuple[Tensor, UpscaleInfo]:
    """Upscale an image adaptively: every patch takes the cheapest exit that is predicted to be good enough.

    Each patch goes to ``argmax_j u_j + gamma*b_j - eta*c_j`` (equation 9 of the paper): u is the predicted PSNR of exit
    j in dB, b marks bicubic on blank patches, c is the exit's cost as a share of the full network's.

    Args:
        image: (C, H, W) or (B, C, H, W), C = 1 or 3, uint8, uint16 or floating (float16, bfloat16, float32) in [0, 1]; any
            size from 1x1, any device, any memory layout.
        eta: decibels that the full cost must gain; 0 = best predicted quality, 5 = nearly everything bicubic.
        gamma: decibels granted to bicubic on blank patches; the paper uses 1.0 to 1.5.
        model: name of a shipped model, path to a safetensors file, or an ``AdaptiveNetwork``. Names and files stay loaded until
            the file changes; a module is prepared anew each time: hold an ``Upscaler`` of it.
        scale: upscaling factor of the model.
        budget: mean cost to stay within, as a share of the full network in the published convention, 0 to 1; eta is then
            solved for over this image's own estimates.
        budget_ms: milliseconds to aim at, by what `enaf calibrate` measured; measured now where it has not been. Calls that
            take longer or shorter than expected correct the next ones (the last five count). Where it is too little even for
            bicubic, all patches are bicubic.
        force_exit: send every patch to this exit (0 = bicubic, 3 = the full network).
        patch_size: side of a patch in LR pixels.
        overlap: LR pixels that neighbours share and that are blended, at most half a patch.
        dtype: arithmetic of the network: float16, bfloat16 or float32; None is the fastest: float16 on CUDA; on CPUs that
            multiply in bfloat16, that, but for FSRCNN, whose own operator is faster in float32; elsewhere float32. Half
            precision costs some hundredths of a decibel at most. Patches that overflow float16 are done again in float32.
        return_info: also return what happened to every patch.

    Returns:
        (C, s*H, s*W) or (B, C, s*H, s*W), same dtype, device and layout, clamped to the range of the dtype; with
        ``return_info`` a pair of it and an ``UpscaleInfo``.

    Raises:
        TypeError: ``image`` is no tensor or has another dtype; ``model`` is another module; a number is none.
        ValueError: an argument is out of range; the message names it.
        FileNotFoundError: ``model`` is a path that does not exist.

    Patches overlap: where that costs more than it saves, an image of up to 2 megapixels (16 on CUDA) goes through an exit as a
    whole, and only the patches that chose deeper ones are run beside it; a larger one only through the full network. So say
    ``UpscaleInfo.whole`` and ``static``. No patch takes a shallower exit than it chose. ``force_exit`` and a ``budget`` below 1
    are always routed.

    Deterministic: the same input gives the same bytes, alone or in a batch. Not differentiable.
    """
    if isinstance(model, torch.nn.Module):
        upscaler = Upscaler(model, scale)
    else:
        key, version = (os.fspath(model), scale), _version(model)
        with _shared_lock:
            if key not in _shared or _shared[key][0] != version:
                _shared[key] = version, Upscaler(model, scale)
            upscaler = _shared[key][1]
    return upscaler(  # type: ignore[call-overload]  # bool, not Literal
        image,
        eta,
        gamma,
        budget=budget,
        budget_ms=budget_ms,
        force_exit=force_exit,
        patch_size=patch_size,
        overlap=overlap,
        dtype=dtype,
        return_info=return_info,
    )
