# SPDX-License-Identifier: Apache-2.0
"""`enaf upscale`: image files in, larger image files out. A thin skin over `enaf.upscale_files`."""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enaf.cli import DONE, SOME_FAILED, UsageError

if TYPE_CHECKING:
    from enaf.files import FileResult

HELP = "Upscale images and videos; every patch takes the cheapest exit that is predicted to be good enough."


REPORT_BEGINS = b"{\n"
"""A report, and no ledger."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line."""
    parser.add_argument(
        "inputs", metavar="IN", nargs="+",
        help="image (PNG, JPEG, WebP, AVIF, TIFF, PPM, BMP), video (extra `video`), folder with all below it, glob pattern, "
        "or - (standard input)",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="OUT", required=True,
        help="file (.png, .tif, .jpg, .webp, .avif, .ppm, .bmp; .mkv, .mp4, .mov, .webm), folder (names and formats are kept "
        "where they can be), or -",
    )  # fmt: skip
    parser.add_argument("--model", default="fsrcnn", help="shipped model or .safetensors file (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="arithmetic of the network (default: the fastest that the device has; `enaf bench` shows the others)",
    )

    size = parser.add_argument_group("size").add_mutually_exclusive_group()
    size.add_argument(
        "--scale", type=int, default=4, choices=(2, 3, 4),
        help="by a model of that scale, or by the one for 4 and an antialiased reduction (default: %(default)s)",
    )  # fmt: skip
    size.add_argument("--size", type=_size, metavar="WxH", help="of the result in pixels, antialiased")

    routing = parser.add_argument_group("how much work to do")
    routing.add_argument(
        "--eta", type=float, default=1.0,
        help="weight of the cost, in dB for a full network; more is faster (default: %(default)s)",
    )  # fmt: skip
    routing.add_argument(
        "--gamma", type=float, default=1.0, help="bonus in dB for bicubic on blank patches (default: %(default)s)"
    )
    choice = routing.add_mutually_exclusive_group()
    choice.add_argument(
        "--budget", type=float, metavar="0..1", help="share of the full cost to spend; finds eta by itself"
    )
    choice.add_argument(
        "--budget-ms", type=float, metavar="MS", help="milliseconds an image to spend; finds eta by itself"
    )
    choice.add_argument(
        "--force-exit", type=int, metavar="J", help="send every patch to exit J (0 = bicubic, 3 = full)"
    )
    routing.add_argument("--patch-size", type=int, default=32, help="side of a patch in pixels (default: %(default)s)")
    routing.add_argument("--overlap", type=int, default=4, help="pixels that neighbours share (default: %(default)s)")

    files = parser.add_argument_group("files")
    files.add_argument(
        "--format",
        metavar="EXT",
        help="of the resulting images, as png, or videos, as mkv (default: the inputs'; png and mkv for what is only read)",
    )
    files.add_argument(
        "--quality", type=int, default=95, metavar="1..100", help="of JPEG, WebP and AVIF (default: %(default)s)"
    )
    files.add_argument(
        "--strip",
        metavar="KINDS",
        default="",
        help="leave out metadata: of icc,exif,xmp,resolution; or all (of a video's tags: xmp what people write, exif the rest "
        "but language and look)",
    )
    files.add_argument(
        "--max-megapixels", type=float, default=179, metavar="N", help="refuse larger inputs (default: %(default)s)"
    )
    files.add_argument(
        "--resume", action="store_true", help="skip what was done from the same bytes by the same settings"
    )
    files.add_argument(
        "--ledger", metavar="FILE", help="append results here (default: enaf-ledger.jsonl in an output folder)"
    )
    files.add_argument(
        "--exit-map",
        metavar="FILE",
        help="also draw which patch took which exit: a picture, or for a video a video; a folder for many inputs, and for "
        "frames (00000000.png and on)",
    )
    files.add_argument(
        "--raw", metavar="WxH:FORMAT",
        help="bare frames from - to -, FORMAT of gray, gray16le, rgb24, rgb48le; PPM frames (--format ppm) need no sizes",
    )  # fmt: skip

    talk = parser.add_argument_group("what is said")
    talk.add_argument("--report", metavar="FILE", help="write what became of every file as JSON")
    how = talk.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="one JSON object a file on the standard output")
    how.add_argument("-q", "--quiet", action="store_true", help="only speak of failures")


def run(arguments: argparse.Namespace) -> int:
    """Upscales every input; a failure is reported and the rest goes on.

    Returns:
        0 if all inputs were done, 1 if some failed.

    Raises:
        UsageError: the options contradict each other, or nothing could come of them.
    """
    from enaf.files import upscale_files
    from enaf.files.plan import check_kept

    started = time.perf_counter()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files are bytes
    listener = _listener(arguments)
    options = _options(arguments)
    report = None if arguments.report is None else Path(arguments.report)
    if report is not None and (report.is_dir() or not report.parent.is_dir()):
        raise UsageError(f"report: expected a file in a folder that exists, got {report}")
    for option in ("report", "ledger"):
        path = getattr(arguments, option)
        if path is not None and any(path != "-" and _same(path, name) for name in arguments.inputs):
            raise UsageError(f"{option}: {path} is an input itself and would be overwritten")
    if report is not None and arguments.ledger is not None and _same(arguments.report, arguments.ledger):
        raise UsageError(f"report: expected another file than the ledger, got {report}")
    try:
        if report is not None:
            check_kept("report", report, REPORT_BEGINS)
        if arguments.inputs == ["-"] and arguments.output == "-" and (arguments.raw or arguments.format == "ppm"):
            results = [_frames(arguments, options, listener)]
        elif arguments.raw:
            raise ValueError("raw: expected - for both the input and the output")
        else:
            results = upscale_files(arguments.inputs, arguments.output, listener=listener, **options)
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise UsageError(str(error).splitlines()[0]) from error
    except OSError as error:  # the standard output is full or closed, or no folder can be made
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"enaf upscale: {where}{error.strerror or error}", file=sys.stderr)
        return SOME_FAILED
    finally:
        listener.close()
    failed = [result for result in results if result.status == "failed"]
    if report is not None:
        try:
            _write_report(report, results, time.perf_counter() - started)
        except OSError as error:
            print(f"{report}: cannot be written: {error.strerror or error}", file=sys.stderr)
            return SOME_FAILED
    if failed and len(results) > 1:
        messages = [result.error or "" for result in failed]
        print(f"\n{len(failed)} of {len(results)} failed:", *messages, sep="\n  ", file=sys.stderr)
    return SOME_FAILED if failed else DONE


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keywords of `upscale_files`."""
    names = (
        "model", "scale", "size", "eta", "gamma", "budget", "budget_ms", "force_exit", "patch_size", "overlap", "device",
        "dtype", "format", "quality", "strip", "exit_map", "resume", "ledger",
    )  # fmt: skip
    options = {name: getattr(arguments, name) for name in names}
    if not arguments.max_megapixels > 0:
        raise UsageError(f"--max-megapixels: expected a number above 0, got {arguments.max_megapixels}")
    return {**options, "max_pixels": int(arguments.max_megapixels * 1e6)}


def _same(path: str, other: str) -> bool:
    return Path(path).resolve() == Path(other).resolve()


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT, got {text}")
    return int(width), int(height)


def _frames(arguments: argparse.Namespace, options: dict[str, Any], listener: Any) -> FileResult:
    from enaf.files import upscale_frames
    from enaf.files.settings import Settings, checked, parse_strip

    if options.pop("resume"):
        raise ValueError("resume: expected an output file or folder, got - (the standard output)")
    places = ("device", "exit_map", "ledger")
    rest = {name: value for name, value in options.items() if name not in places}
    checked(Settings(**rest | {"strip": parse_strip(options["strip"])}))
    for name in ("format", "quality", "strip"):  # of no effect on frames, but not to be nonsense
        options.pop(name)
    return upscale_frames(sys.stdin.buffer, sys.stdout.buffer, raw=arguments.raw, listener=listener, **options)


def _write_report(path: Path, results: list[FileResult], seconds: float) -> None:
    """One JSON document: the sums, and what became of every file."""
    counts = {status: sum(result.status == status for result in results) for status in ("done", "skipped", "failed")}
    megapixels = sum((result.width or 0) * (result.height or 0) for result in results) / 1e6
    report = {
        **counts, "seconds": round(seconds, 3), "megapixels": round(megapixels, 3),
        "files": [json.loads(result.json()) for result in results],
    }  # fmt: skip
    path.write_text(json.dumps(report, indent=2) + "\n")


def _listener(arguments: argparse.Namespace) -> Any:
    """Progress for people where they look, one line or one JSON object a file elsewhere."""
    from tqdm import tqdm

    from enaf.exit_map import exit_names
    from enaf.files import Listener

    lines = sys.stderr if arguments.output == "-" else sys.stdout

    class Terminal(Listener):
        """A bar of files with megapixels per second and the time left, and a line for each file."""

        def started(self, files: int | None) -> None:
            self.since, self.megapixels, self.files = time.perf_counter(), 0.0, 0
            quiet = arguments.quiet or arguments.json or not sys.stderr.isatty()
            form = "{l_bar}{bar}| {n:.1f}/{total} files [{elapsed}<{remaining}{postfix}]" if files else None
            self.bar = tqdm(total=files, disable=quiet, bar_format=form, leave=False)

        def advanced(self, share: float, megapixels: float) -> None:
            self.megapixels += megapixels
            rate = self.megapixels / max(1e-9, time.perf_counter() - self.since)
            self.bar.set_postfix_str(f"{rate:.1f} MP/s", refresh=False)
            self.bar.update(share)

        def finished(self, result: FileResult) -> None:
            self.files += 1
            if self.bar.total:
                self.bar.update(self.files - self.bar.n)  # also for what was skipped or failed half way
            if arguments.json:
                tqdm.write(result.json(), file=lines)
                lines.flush()
            elif result.status == "failed":
                tqdm.write(f"failed: {result.error}", file=sys.stderr)
            elif not arguments.quiet:
                tqdm.write(_line(result, exit_names(len(result.exits))), file=lines)
                lines.flush()

        def close(self) -> None:
            if hasattr(self, "bar"):
                self.bar.close()

    return Terminal()


def _line(result: FileResult, names: list[str]) -> str:
    """What a person wants to know of a file."""
    if result.status == "skipped":
        return f"{result.target}  skipped: done before"
    if not result.exits:
        return f"{result.target}  {'; '.join(result.notes)}"
    counts = result.exits
    shares = ", ".join(f"{name} {100 * count / sum(counts):.0f} %" for name, count in zip(names, counts, strict=True))
    cost = f"cost {100 * result.cost['paper']:.0f} % (published FLOPs), {100 * result.cost['macs']:.0f} % (true MACs)"
    notes = "".join(f"; {note}" for note in result.notes)
    return f"{result.target}  {result.width}x{result.height}  {result.seconds:.2f} s  {shares}; {cost}{notes}"
