# SPDX-License-Identifier: Apache-2.0
"""`enaf prepare`: the sets that papers report on, built from the public collections."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from enaf.cli import DONE, SOME_FAILED, UsageError
from enaf.cli.eval import message_of, progress_bar

HELP = "Build Test2K, Test4K, Test8K (DIV8K), F2K (Flickr2K) or training pieces (DIV2K), with a manifest of hashes."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line."""
    parser.add_argument("source", metavar="SOURCE", type=Path, help="folder of the collection's images")
    parser.add_argument(
        "--sets", nargs="+", required=True, metavar="SET", help="Test2K, Test4K, Test8K, F2K or DIV2K-sub"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder SET is made in here")
    parser.add_argument("--scale", type=int, default=4, help="of the LR images (default: %(default)s)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")


def run(arguments: argparse.Namespace) -> int:
    """Builds the sets.

    Returns:
        0, or 1 where an original could not be read.

    Raises:
        UsageError: an unknown set, no image of it in the source, or a folder that cannot be written.
    """
    bar = progress_bar(arguments.quiet)
    from enaf.evaluate.prepare import BENCHMARKS, prepare

    unknown = [name for name in arguments.sets if name not in BENCHMARKS]
    if unknown:
        raise UsageError(f"--sets: expected some of {', '.join(BENCHMARKS)}, got {unknown[0]!r}")
    failed = False
    for name in arguments.sets:
        try:
            made = prepare(BENCHMARKS[name], arguments.source, arguments.out, arguments.scale, bar)
        except (ValueError, OSError) as error:
            raise UsageError(message_of(error)) from error
        whole = "complete" if made.complete else f"INCOMPLETE: the set has {BENCHMARKS[name].count} originals"
        print(f"{arguments.out / name}: {made.files} images, sha256 {made.sha256[:16]}, {whole}")
        for file, reason in made.failures:
            print(f"left out: {file}: {reason}", file=sys.stderr)
        failed = failed or bool(made.failures)
    return SOME_FAILED if failed else DONE
