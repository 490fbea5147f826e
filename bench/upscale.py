# SPDX-License-Identifier: Apache-2.0
"""A whole frame, time against quality: ENAF at many etas, the static networks, tiling and the one-patch-at-a-time loop.

python bench/upscale.py [--model fsrcnn ...] [--size 480x270 ...] [--data DIR] [--device cpu|cuda] [--clock wall|thread]
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from common import Report, Row, Timing
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from enaf.checkpoint import load_model
from enaf.decision import choose_exits
from enaf.evaluate.speed import (
    PLAIN,
    STATIC,
    Contender,
    compare,
    fastest_equal,
    in_other_arithmetic,
    interleaved,
    low_resolution,
    plain,
)
from enaf.image_io import ImageError, read_image
from enaf.upscaler import Upscaler
from enaf_ext import ops
from enaf_ext.grid import PatchGrid

PHOTOGRAPH = Path(__file__).resolve().parent.parent / "examples" / "bridge.webp"
TILED, WINDOW, LOOP, BICUBIC, COMPILED = (
    "full network, tiled",
    "MONAI sliding window",
    "one patch at a time",
    "bicubic everywhere",
    "plain static, compiled",
)
LOOP_ETA = 0.3
LARGEST_LOOP = 1 << 18
"""LR pixels up to which a GPU is given one patch at a time: it takes milliseconds for each."""
BUDGETS = (0.6, 0.75, 0.9)
"""Shares of the time of eta 0 that are asked for in milliseconds."""
TARGETS = {"srresnet": (0.35, 0.60), "carn": (0.50, 0.70), "fsrcnn": (0.30, 0.80)}
"""Time at the full exit's PSNR that is aimed at, as a share of the plain and of the best static network's."""


def photographs(data: Path | None, scale: int, width: int, height: int, least: int) -> list[tuple[Tensor, Tensor]]:
    """(hr, lr) of every photograph that is as large as the size asked for, or where none is, of four of them side by side; of
    the bundled one without a folder."""
    originals = []
    for path in [PHOTOGRAPH] if data is None else sorted(data.iterdir()):
        try:
            pixels = read_image(path).pixels
        except ImageError:
            continue
        if pixels.dtype == torch.uint8 and pixels.shape[0] == 3:
            originals.append(pixels)
    pairs = [low_resolution(pixels, scale, width, height) for pixels in originals]
    if data is not None and len(pairs) >= 4 and all(lr[0].numel() < least for _, lr in pairs):
        quarters = [low_resolution(pixels, scale, width // 2, height // 2)[0] for pixels in originals[:4]]
        rows, columns = (min(quarter.shape[side] for quarter in quarters) for side in (1, 2))
        a, b, c, d = (quarter[:, :rows, :columns] for quarter in quarters)
        four = torch.cat([torch.cat([a, b], dim=2), torch.cat([c, d], dim=2)], dim=1)
        pairs = [low_resolution(four, scale, width, height)]
    return [(hr, lr) for hr, lr in pairs if lr[0].numel() >= least]


def patch_loop(upscaler: Upscaler, eta: float, device: torch.device) -> Callable[[Tensor], Tensor]:
    """One patch at a time, in torch alone, as the paper's evaluation runs: estimate, decide, upscale, add up."""
    model, scale = copy.deepcopy(upscaler.model).to(device), upscaler.scale
    cost = upscaler.cost.to(device)

    @torch.inference_mode()
    def run(image: Tensor) -> Tensor:
        unit = image[None].float() / 255
        grid = PatchGrid(image.shape[1], image.shape[2])
        edges = ops.edge_score(image[None], grid)
        padded = F.pad(unit, (0, grid.padded_width - grid.width, 0, grid.padded_height - grid.height), mode="replicate")
        margin, side = model.estimator.margin, grid.patch_size
        wide = F.pad(padded, (margin,) * 4, mode="replicate")
        total = unit.new_zeros(1, 3, scale * grid.padded_height, scale * grid.padded_width)
        count = torch.zeros_like(total)
        for index in range(grid.num_patches):
            y, x = grid.origin(index)
            patch = padded[:, :, y : y + side, x : x + side]
            scores = model.estimator(wide[:, :, y : y + side + 2 * margin, x : x + side + 2 * margin])
            chosen = int(choose_exits(scores, edges[index : index + 1], cost, eta, 1.0))
            area = (..., slice(scale * y, scale * (y + side)), slice(scale * x, scale * (x + side)))
            total[area] += model.network.exit(chosen, patch)
            count[area] += 1
        return _to_uint8((total / count)[:, :, : scale * grid.height, : scale * grid.width])

    return run


def sliding_window(upscaler: Upscaler, device: torch.device) -> Callable[[Tensor], Tensor] | None:
    """The full network under MONAI's tiler, in its 32-pixel patches with an eighth of overlap; None without MONAI."""
    try:
        from monai.inferers import sliding_window_inference
    except ImportError:
        return None
    network = copy.deepcopy(upscaler.model.network).to(device)

    @torch.inference_mode()
    def run(image: Tensor) -> Tensor:
        predict = partial(network.exit, network.num_exits - 1)
        return _to_uint8(sliding_window_inference(image[None].float() / 255, (32, 32), 16, predict, overlap=0.125))

    return run


def _to_uint8(sr: Tensor) -> Tensor:
    return sr.clamp_(0, 1).mul_(255).round_().to(torch.uint8)[0]


def shares(upscaler: Upscaler, image: Tensor, eta: float) -> dict[str, float]:
    """Where the time goes by the profiler's own times: the networks, our operators, everything else. On a GPU operators have
    the times of the kernels that they launched, which are events of their own too and would count twice."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if image.is_cuda else [])
    upscaler(image, eta)
    with profile(activities=activities, record_shapes=True) as recorded:
        for _ in range(3):
            upscaler(image, eta)
    groups = dict.fromkeys(("layers of the networks", "bicubic exit", "our other operators", "the rest"), 0.0)
    networks = (
        "fsrcnn_",
        "convolution",
        "conv2d",
        "prelu",
        "leaky_relu",
        "pixel_shuffle",
        "upsample_bilinear",
        "cumsum",
        "avg_pool",
        "thnn",
        "mkldnn",
        "cudnn",
    )
    for event in recorded.key_averages(group_by_input_shape=True):
        if event.device_type != DeviceType.CPU:
            continue
        shuffles = event.key == "aten::copy_" and len(event.input_shapes[0]) == 6  # pixels by runs of channels
        own = event.self_device_time_total if image.is_cuda else event.self_cpu_time_total
        if "bicubic_patches" in event.key:
            groups["bicubic exit"] += own
        elif shuffles or any(name in event.key for name in networks):
            groups["layers of the networks"] += own
        elif "enaf_ext" in event.key:
            groups["our other operators"] += own
        else:
            groups["the rest"] += own
    total = sum(groups.values())
    return {name: value / total for name, value in groups.items()}


def row(case: str, entry: Contender, full: Contender, exact: Contender) -> Row:
    """Beside the best static network in time, beside the plain one, which is in float32, in PSNR."""
    note = f"{entry.milliseconds / full.milliseconds:.0%} of best static, {entry.psnr_db - exact.psnr_db:+.3f} dB beside plain"
    if entry.paper is not None:
        note += f", published cost {entry.paper:.0%}, true {entry.macs:.0%}"
    return Row(case, entry.name, Timing.of(entry.times), note=note)


def chart(results: dict[str, list[Contender]], path: Path) -> None:
    """Time beside the best static network's against PSNR beside the plain one's, a panel for every case."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(results), figsize=(4.2 * len(results), 3.6), squeeze=False)
    for panel, (case, contenders) in zip(panels[0], results.items(), strict=True):
        full, exact = (next(entry for entry in contenders if entry.name == name) for name in (STATIC, PLAIN))
        routed = [entry for entry in contenders if entry.paper is not None]
        others = [entry for entry in contenders if entry.paper is None and entry.name not in (BICUBIC, LOOP)]
        x, y = ([(e.milliseconds / full.milliseconds, e.psnr_db - exact.psnr_db)[i] for e in routed] for i in (0, 1))
        panel.plot(x, y, "o-", markersize=3, label="ENAF, eta 0 to 3")
        for entry in others:
            panel.plot(entry.milliseconds / full.milliseconds, entry.psnr_db - exact.psnr_db, "s", label=entry.name)
        panel.axhline(-0.05, color="grey", linewidth=0.6, linestyle=":")
        panel.set(title=case, xlabel="time / best static network", ylabel="PSNR beside plain static, dB")
        panel.grid(alpha=0.3)
    panels[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", nargs="+", default=["480x270", "960x540"], help="LR sizes, WxH")
    parser.add_argument("--model", nargs="+", default=["fsrcnn"], help="shipped names or .safetensors files")
    parser.add_argument("--data", type=Path, help="folder of photographs (default: the bundled one)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=7, help="timed calls of each, at least 2; their median counts")
    parser.add_argument(
        "--clock",
        choices=["wall", "thread"],
        default="wall",
        help="thread: CPU time of one thread, for a machine that does other work (with OMP_NUM_THREADS=1)",
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.clock == "thread" and torch.get_num_threads() != 1:
        parser.error("--clock thread: expected OMP_NUM_THREADS=1 in the environment")
    if arguments.repeats < 2:
        parser.error(f"--repeats: expected at least 2, got {arguments.repeats}")
    clock = time.thread_time if arguments.clock == "thread" else time.perf_counter

    device = torch.device(arguments.device)
    settings: dict[str, Any] = {"clock": arguments.clock, "repeats": arguments.repeats}
    report = Report("upscale", device, settings)
    report.header()
    results: dict[str, list[Contender]] = {}
    for name in arguments.model:
        upscaler = Upscaler(load_model(name))
        for size in arguments.size:
            width, height = map(int, size.split("x"))
            pairs = photographs(arguments.data, upscaler.scale, width, height, width * height // 2)
            if not pairs:
                print(f"{size}: no photograph of {width * upscaler.scale}x{height * upscaler.scale}")
                continue
            height, width = max(lr.shape[1:] for _, lr in pairs)
            case = f"{Path(name).stem} {width}x{height}"
            peers: dict[str, Callable[[Tensor], Tensor]] = {
                TILED: partial(_forced, upscaler, upscaler.num_exits - 1),
                BICUBIC: partial(_forced, upscaler, 0),
                COMPILED: plain(copy.deepcopy(upscaler.model.network).to(device), compiled=True),
            }
            peers |= in_other_arithmetic(upscaler, device)
            if device.type == "cpu" or width * height <= LARGEST_LOOP:
                peers[LOOP] = patch_loop(upscaler, LOOP_ETA, device)
            window = sliding_window(upscaler, device)
            peers |= {} if window is None else {WINDOW: window}
            contenders = compare(upscaler, pairs, device, peers=peers, repeats=arguments.repeats, clock=clock)
            results[case] = contenders
            full, exact = (next(entry for entry in contenders if entry.name == each) for each in (STATIC, PLAIN))
            report.add([row(case, entry, full, exact) for entry in contenders])
            image = pairs[0][1].to(device)
            settings[case] = {
                "low_resolution": [list(lr.shape[1:]) for _, lr in pairs],
                "contenders": [asdict(entry) for entry in contenders],
                "verdict": verdict(name, contenders),
                "noise": worst_case(upscaler, image, arguments.repeats, clock),
                "budgets": budgets(upscaler, [lr.to(device) for _, lr in pairs], arguments.repeats, clock),
                "shares": {f"eta {eta:g}": shares(upscaler, image, eta) for eta in (0.1, LOOP_ETA, 1.0)},
            }
            for what in ("verdict", "noise", "budgets", "shares"):
                print(f"  {what}: {settings[case][what]}")
            print()
            # at once: a later case may take more memory than there is, and the process with it
            chart(results, report.write(arguments.json).with_suffix(".png"))


def verdict(name: str, contenders: list[Contender]) -> dict[str, Any]:
    """The fastest eta within the tolerance of the plain static network, beside what is aimed at."""
    times = {entry.name: entry.milliseconds for entry in contenders}
    best = fastest_equal(contenders)
    if best is None:
        return {"eta": None}
    found = {
        "eta": best.name,
        "of plain": best.milliseconds / times[PLAIN],
        "of best": best.milliseconds / fastest_static(contenders),
    }
    if LOOP in times:
        found["loop"] = times[LOOP] / times[f"eta {LOOP_ETA:g}"]
    return found | {"targets": TARGETS.get(name)}


def fastest_static(contenders: Iterable[Contender]) -> float:
    """Milliseconds of our full network, whole or on patches, whichever is faster."""
    return min(entry.milliseconds for entry in contenders if entry.name in (STATIC, TILED))


def worst_case(upscaler: Upscaler, like: Tensor, repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """Time of a noise image at each eta as a share of the static network's."""
    noise = torch.randint_like(like, 0, 256)
    runs = {f"eta {eta:g}": partial(upscaler, noise, eta) for eta in (0.0, 0.1, LOOP_ETA)}
    times = interleaved({STATIC: partial(upscaler.static, noise), **runs}, like.device, repeats, clock)
    static = median(times.pop(STATIC))
    return {name: median(taken) / static for name, taken in times.items()}


def budgets(
    upscaler: Upscaler, images: list[Tensor], repeats: int, clock: Callable[[], float]
) -> dict[str, dict[str, float]]:
    """Milliseconds asked for and taken, mean over the images; those asked for are shares of what eta 0 takes."""

    def timed(image: Tensor, **keywords: float) -> float:
        run = {"call": partial(upscaler, image, **keywords)}
        return median(interleaved(run, image.device, repeats, clock)["call"])

    upscaler.calibration(images[0].device, renew=True)
    result = {}
    for share in BUDGETS:
        asked, taken = [], []
        for image in images:
            asked.append(share * timed(image, eta=0.0, budget=0.9999))
            taken.append(timed(image, budget_ms=asked[-1]))
        result[f"{share:.0%} of eta 0"] = {"asked": sum(asked) / len(asked), "taken": sum(taken) / len(taken)}
    return result


def _forced(upscaler: Upscaler, depth: int, image: Tensor) -> Tensor:
    return upscaler(image, force_exit=depth)


if __name__ == "__main__":
    main()
