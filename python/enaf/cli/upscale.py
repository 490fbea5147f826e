# SPDX-License-Identifier: Apache-2.0
"""`enaf upscale`: image files in, larger image files out."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from enaf.cli import DONE, SOME_FAILED, UsageError

HELP = "Upscale images four times; every patch takes the cheapest exit that is predicted to be good enough."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line."""
    parser.add_argument("inputs", metavar="IN", nargs="+", type=Path, help="image: PNG, JPEG, WebP, TIFF, BMP or PPM")
    parser.add_argument(
        "-o", "--output", metavar="OUT", type=Path, required=True,
        help="file to write (.png, .tif, .jpg, .webp), or a folder: then names and formats are kept where they can be",
    )  # fmt: skip
    parser.add_argument("--model", default="fsrcnn", help="shipped model or .safetensors file (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    parser.add_argument(
        "--quality", type=int, default=95, metavar="1..100", help="of JPEG and WebP (default: %(default)s)"
    )
    parser.add_argument("--exit-map", metavar="FILE", type=Path, help="also draw which patch took which exit")
    parser.add_argument("-q", "--quiet", action="store_true", help="only speak of failures")

    routing = parser.add_argument_group("how much work to do")
    routing.add_argument(
        "--eta",
        type=float,
        default=1.0,
        help="weight of the cost, in dB for a full network; more is faster (default: %(default)s)",
    )
    routing.add_argument(
        "--gamma", type=float, default=1.0, help="bonus in dB for bicubic on blank patches (default: %(default)s)"
    )
    choice = routing.add_mutually_exclusive_group()
    choice.add_argument(
        "--budget", type=float, metavar="0..1", help="share of the full cost to spend; finds eta by itself"
    )
    choice.add_argument(
        "--force-exit", type=int, metavar="J", help="send every patch to exit J (0 = bicubic, 3 = full)"
    )
    routing.add_argument("--patch-size", type=int, default=32, help="side of a patch in pixels (default: %(default)s)")
    routing.add_argument("--overlap", type=int, default=4, help="pixels that neighbours share (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Upscales every input; a failure is reported and the rest goes on.

    Returns:
        0 if all inputs were done, 1 if some failed.

    Raises:
        UsageError: the options contradict each other, or nothing could come of them.
    """
    targets = _targets(arguments.inputs, arguments.output)
    if arguments.exit_map is not None and len(arguments.inputs) > 1:
        raise UsageError(f"--exit-map: expected one input image, got {len(arguments.inputs)}")
    if not 1 <= arguments.quality <= 100:
        raise UsageError(f"--quality: expected 1..100, got {arguments.quality}")

    from enaf.image_io import ImageError

    upscaler, device = _load(arguments)
    failures = []
    for source, target in targets:
        try:
            _upscale(source, target, upscaler, device, arguments)
        except (ImageError, ValueError, RuntimeError, MemoryError) as error:
            message = str(error) if isinstance(error, ImageError) else f"{source}: {error or type(error).__name__}"
            failures.append(message)
            print(f"failed: {message}", file=sys.stderr)
    if len(failures) > 0 and len(targets) > 1:
        print(f"\n{len(failures)} of {len(targets)} failed:", *failures, sep="\n  ", file=sys.stderr)
    return SOME_FAILED if failures else DONE


def _targets(inputs: list[Path], output: Path) -> list[tuple[Path, Path]]:
    """Which file each input becomes; refuses outputs that would meet each other or an input."""
    from enaf.image_io import WRITABLE

    is_folder = output.is_dir() or len(inputs) > 1 or not output.suffix
    if is_folder:
        if output.exists() and not output.is_dir():
            raise UsageError(f"-o: expected a folder for {len(inputs)} inputs, got the file {output}")
        suffixes = [source.suffix if source.suffix.lower() in WRITABLE else ".png" for source in inputs]
        targets = [output / (source.stem + suffix) for source, suffix in zip(inputs, suffixes, strict=True)]
    else:
        if output.suffix.lower() not in WRITABLE:
            raise UsageError(f"-o: expected a folder or a name that ends in {', '.join(WRITABLE)}, got {output}")
        targets = [output]
    sources = {source.resolve() for source in inputs}
    seen: dict[Path, Path] = {}
    for source, target in zip(inputs, targets, strict=True):
        if target.resolve() in sources:
            raise UsageError(f"-o: {target} is an input itself and would be overwritten; name another folder or file")
        if target in seen:
            raise UsageError(f"-o: {seen[target]} and {source} would both become {target}")
        seen[target] = source
    if is_folder:
        output.mkdir(parents=True, exist_ok=True)
    return list(zip(inputs, targets, strict=True))


def _load(arguments: argparse.Namespace) -> tuple[Any, str]:
    """The upscaler and the device it runs on; what is wrong with the options is said before any image is read."""
    import torch

    import enaf_ext
    from enaf_ext.grid import PatchGrid

    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
        PatchGrid(1, 1, arguments.patch_size, arguments.overlap)
        return enaf_ext.Upscaler(model=arguments.model), device
    except (
        ValueError,
        OSError,
        RuntimeError,
        AssertionError,
    ) as error:  # torch has an AssertionError for a missing CUDA
        raise UsageError(str(error).splitlines()[0]) from error


def _upscale(source: Path, target: Path, upscaler: Any, device: str, arguments: argparse.Namespace) -> None:
    """One image from file to file."""
    import torch

    from enaf.exit_map import draw_exit_map, exit_names
    from enaf.image_io import check_target, read_image, write_image

    started = time.perf_counter()
    image = read_image(source)
    height, width = (upscaler.scale * side for side in image.pixels.shape[-2:])
    check_target(target, height, width, image.pixels)
    pixels = image.pixels.to(device)
    deep = pixels.dtype == torch.uint16
    sr, info = upscaler(
        pixels.float() / 65535 if deep else pixels,
        eta=arguments.eta,
        gamma=arguments.gamma,
        budget=arguments.budget,
        force_exit=arguments.force_exit,
        patch_size=arguments.patch_size,
        overlap=arguments.overlap,
        return_info=True,
    )
    result = (sr * 65535).round().int().to(torch.uint16) if deep else sr
    write_image(target, result, icc_profile=image.icc_profile, quality=arguments.quality)
    num_exits = upscaler.num_exits
    if arguments.exit_map is not None:
        picture = (sr * 255).round().to(torch.uint8) if deep else sr
        write_image(arguments.exit_map, draw_exit_map(picture, info.exit_index[0], info.grid, num_exits))
    if not arguments.quiet:
        counts = info.exit_index.flatten().bincount(minlength=num_exits).tolist()
        shares = ", ".join(
            f"{name} {100 * count / sum(counts):.0f} %"
            for name, count in zip(exit_names(num_exits), counts, strict=True)
        )
        cost = f"cost {100 * info.cost['paper']:.0f} % (published FLOPs), {100 * info.cost['macs']:.0f} % (true MACs)"
        print(f"{target}  {width}x{height}  {time.perf_counter() - started:.2f} s  {shares}; {cost}", flush=True)
