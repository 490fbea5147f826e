# SPDX-License-Identifier: Apache-2.0
"""Time against quality on images whose originals are known: routing at many etas, and the static networks it must beat."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from enaf.degradation import downsample
from enaf.inference import multiplies_bfloat16
from enaf.models import MultiExitNetwork, SubPixelTransposedConvolution, channels_last
from enaf.upscaler import Upscaler

ETAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
TOLERANCE_DB = 0.05
"""What a routed image may lose against the full network and still count as its equal."""
STATIC, PLAIN = "best static", "plain static"


@dataclass
class Contender:
    """One way to upscale, on all images.

    Attributes:
        name: what it is.
        milliseconds: median of its times, summed over the images.
        times: milliseconds of its calls from the fastest to the slowest, summed over the images: so their quartiles are sums
            of the images' quartiles.
        psnr_db: mean PSNR over the images against their originals (RGB, 8 bits, a border of ``scale`` pixels left out).
        paper, macs: mean cost, as in ``UpscaleInfo.cost``; None for what is not routed.
    """

    name: str
    milliseconds: float
    psnr_db: float
    paper: float | None = None
    macs: float | None = None
    times: list[float] = field(default_factory=list)


def plain(network: MultiExitNetwork, compiled: bool = False) -> Callable[[Tensor], Tensor]:
    """The full exit as it is published and as a user of a model zoo runs it: whole image, float32, contiguous, its transposed
    convolution as torch has it; or the same in channels_last under torch.compile. Takes and gives (3, H, W) uint8."""
    layout = torch.channels_last if compiled else torch.contiguous_format
    network = copy.deepcopy(network).float().eval()
    for module in network.modules():
        if isinstance(module, SubPixelTransposedConvolution):
            module.__class__ = nn.ConvTranspose2d  # type: ignore[assignment]  # whose parameters it has
        if compiled and isinstance(module, nn.Conv2d):
            channels_last(module)
    depth = network.num_exits - 1

    def forward(image: Tensor) -> Tensor:
        features = lr = (image[None].float() / 255).contiguous(memory_format=layout)
        for index in range(1, depth + 1):
            features = network.stage(index, features)
        sr = network.tail(depth, features, lr)
        if sr.shape[1] != 3:
            sr = F.pixel_shuffle(sr, network.scale)
        return sr.clamp(0, 1).mul(255).round().to(torch.uint8)[0]

    run = torch.compile(forward, dynamic=False) if compiled else forward

    @torch.inference_mode()
    def upscale(image: Tensor) -> Tensor:
        return run(image)

    return upscale


def in_other_arithmetic(upscaler: Upscaler, device: torch.device) -> dict[str, Callable[[Tensor], Tensor]]:
    """The static network and routing at eta 1 in those of float32 and, on CUDA and on CPUs that multiply in it, bfloat16 that
    are not the model's default on the device. Functions from LR to SR, both (3, H, W) uint8."""
    known = [torch.float32]
    if device.type == "cuda" or multiplies_bfloat16():
        known.append(torch.bfloat16)
    default = upscaler.fastest_dtype(device)
    dtypes = [dtype for dtype in known if dtype != default]
    ways: dict[str, Callable[..., Tensor]] = {STATIC: upscaler.static, name_of(1.0): partial(upscaler, eta=1.0)}
    return {in_dtype(name, dtype): partial(way, dtype=dtype) for dtype in dtypes for name, way in ways.items()}


def in_dtype(name: str, dtype: torch.dtype) -> str:
    """What a contender is called in another arithmetic."""
    return f"{name}, {str(dtype).removeprefix('torch.')}"


def low_resolution(hr: Tensor, scale: int, width: int, height: int) -> tuple[Tensor, Tensor]:
    """The centre of an original (3, H, W) uint8, at most ``width`` x ``height`` times the scale, and its LR image."""
    height, width = min(height, hr.shape[1] // scale), min(width, hr.shape[2] // scale)
    top, left = (hr.shape[1] - height * scale) // 2, (hr.shape[2] - width * scale) // 2
    hr = hr[:, top : top + height * scale, left : left + width * scale].contiguous()
    return hr, downsample(hr, scale)


def interleaved(
    runs: Mapping[str, Callable[[], object]],
    device: torch.device,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Milliseconds of every call of each run, in rising order, until the device has finished. The runs take turns, so that a
    change of the machine's speed meets all of them."""

    def finished() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock()

    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(1 + repeats):  # the first warms up
        for name, run in runs.items():
            began = finished()
            run()
            if repeat > 0:
                times[name].append(1e3 * (finished() - began))
    return {name: sorted(taken) for name, taken in times.items()}


def compare(
    upscaler: Upscaler,
    images: Sequence[tuple[Tensor, Tensor]],
    device: torch.device,
    *,
    etas: Sequence[float] = ETAS,
    peers: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Contender]:
    """Routing at each eta, the best and the plain static network, and other peers, in one run.

    Args:
        upscaler: on any model.
        images: (hr, lr) uint8 pairs.
        device: where it is timed.
        etas: settings.
        peers: name -> function from LR to SR, both (3, H, W) uint8 on the device.
        repeats: timed calls of each.
        clock: seconds.

    Returns:
        Static networks first, then routing by rising eta, then the peers.
    """
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        STATIC: upscaler.static,
        PLAIN: plain(copy.deepcopy(upscaler.model.network).to(device)),
    }
    ways |= {name_of(eta): partial(upscaler, eta=eta) for eta in etas}
    ways |= peers or {}
    results = {name: Contender(name, 0.0, 0.0, times=[0.0] * repeats) for name in ways}
    for hr, lr in images:
        image = lr.to(device)
        runs = {name: partial(way, image) for name, way in ways.items()}
        times = interleaved(runs, device, repeats, clock)
        for name, way in ways.items():
            entry = results[name]
            entry.times = [total + taken for total, taken in zip(entry.times, times[name], strict=True)]
            entry.milliseconds = statistics.median(entry.times)
            entry.psnr_db += _psnr_8bit(way(image).cpu(), hr, upscaler.scale) / len(images)
        for eta in etas:
            cost = upscaler(image, eta, return_info=True)[1].cost
            entry = results[name_of(eta)]
            entry.paper = (entry.paper or 0.0) + cost["paper"] / len(images)
            entry.macs = (entry.macs or 0.0) + cost["macs"] / len(images)
    return list(results.values())


def name_of(eta: float) -> str:
    """What routing at an eta is called in the results."""
    return f"eta {eta:g}"


def fastest_equal(contenders: Sequence[Contender]) -> Contender | None:
    """The fastest routed one whose PSNR is within ``TOLERANCE_DB`` of the plain static network's, which is in float32; None if
    there is none."""
    full = next(entry for entry in contenders if entry.name == PLAIN)
    equal = [entry for entry in contenders if entry.paper is not None and entry.psnr_db >= full.psnr_db - TOLERANCE_DB]
    return min(equal, key=lambda entry: entry.milliseconds, default=None)


def _psnr_8bit(sr: Tensor, hr: Tensor, border: int) -> float:
    error = (sr.float() - hr.float())[:, border:-border, border:-border] / 255
    return float(-10 * torch.log10(error.square().mean()))
