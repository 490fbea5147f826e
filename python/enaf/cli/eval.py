# SPDX-License-Identifier: Apache-2.0
"""`enaf eval`: a model's quality and cost on images whose originals are known."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from enaf.cli import DONE, SOME_FAILED, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from enaf.evaluate.points import Costs, Point
    from enaf.evaluate.policies import Policy
    from enaf.evaluate.record import ImageRecord
    from enaf.evaluate.sets import Progress

HELP = "Measure a model on folders of originals: quality, cost in three columns, patches per exit."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line."""
    add_common_arguments(parser)
    parser.add_argument("--model", default="fsrcnn", help="shipped model or .safetensors file (default: %(default)s)")
    parser.add_argument("--scale", type=int, default=4, help="of the model (default: %(default)s)")
    parser.add_argument(
        "--protocol",
        default="paper",
        choices=("paper", "full"),
        help="paper: covered area, border left out, floats; full: every pixel, 8 bits (default: %(default)s)",
    )
    parser.add_argument(
        "--policy",
        default="enaf",
        help="how patches find their exit: enaf, enaf-nb (no blank vector), edge-lut, class, uniform-J, random, oracle "
        "(default: %(default)s)",
    )
    parser.add_argument("--policies", type=Path, metavar="FILE", help="what `enaf fit` wrote, for edge-lut and class")
    parser.add_argument("--gamma", type=float, default=1.0, help="bonus in dB on blank patches (default: %(default)s)")
    setting = parser.add_mutually_exclusive_group()
    setting.add_argument(
        "--eta",
        type=float,
        nargs="+",
        default=[0, 0.2, 0.5, 1, 2],
        metavar="ETA",
        help="settings (default: 0 0.2 0.5 1 2)",
    )
    setting.add_argument(
        "--budget", type=float, metavar="SHARE", help="the best setting within this share of the published cost"
    )
    setting.add_argument(
        "--match-psnr",
        metavar="full|DB",
        help="the cheapest setting within 0.02 dB of the full network, or of at least so many dB",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write one line a setting here")


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command that measures models on sets of images takes."""
    parser.add_argument(
        "--data",
        metavar="DIR|NAME",
        required=True,
        help="folder of originals, or of folders of originals, or the name of one below $ENAF_DATA",
    )
    parser.add_argument(
        "--crop",
        type=int,
        nargs=2,
        metavar=("W", "H"),
        help="only the centre of each original, corner at multiples of 4",
    )
    parser.add_argument("--device", default="cpu", help="where the networks run (default: %(default)s)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")


def run(arguments: argparse.Namespace) -> int:
    """Prints the figures.

    Returns:
        0, or 1 where an image could not be measured.

    Raises:
        UsageError: a missing package, no usable image, an unknown model, device or policy, an eta that cannot be, a
            target that is not reached, a file that cannot be where it is wanted.
    """
    for option, path in (("--json", arguments.json), ("--csv", arguments.csv)):
        check_place(option, path)
    for eta in arguments.eta:
        if not 0 <= eta < math.inf:
            raise UsageError(f"--eta: expected finite numbers of at least 0, got {eta:g}")
    bar = progress_bar(arguments.quiet)
    from enaf.checkpoint import load_model
    from enaf.device import usable_device
    from enaf.evaluate.fit import Fit
    from enaf.evaluate.points import Costs
    from enaf.evaluate.policies import create_policy
    from enaf.evaluate.protocol import PROTOCOLS
    from enaf.evaluate.sets import find_sets, measure_set, weights_sha256
    from enaf.evaluate.study import Candidate
    from enaf.evaluate.summary import summarise, write_csv, write_json
    from enaf.evaluate.timing import time_exits

    protocol = PROTOCOLS[arguments.protocol]
    crop = None if arguments.crop is None else (arguments.crop[0], arguments.crop[1])
    summaries = []
    try:
        device = usable_device(arguments.device)
        model = load_model(arguments.model, arguments.scale).to(device)
        weights = weights_sha256(model)
        fit = None if arguments.policies is None else Fit.load(arguments.policies, weights)
        policy = create_policy(arguments.policy, model.network.num_exits, arguments.gamma, fit)
        costs = Costs.of(model, time_exits(model, protocol))
        candidate = Candidate(arguments.model, model, weights, costs, fit, arguments.gamma)
        for images in find_sets(arguments.data):
            measured = measure_set(model, images, protocol, crop, progress=bar)
            if not measured.records:
                reasons = "; ".join(f"{name}: {reason}" for name, reason in measured.failures)
                raise UsageError(f"data: no usable image in {images.name} ({reasons})")
            points = _settings(arguments, policy, measured.records, costs)
            summary = summarise(candidate, measured, protocol, policy, points, crop, progress=bar)
            print(summary.text(), end="\n\n")
            summaries.append(summary)
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    if arguments.json is not None:
        write_json(summaries, arguments.json)
    if arguments.csv is not None:
        write_csv(summaries, arguments.csv)
    return SOME_FAILED if any(summary.failures for summary in summaries) else DONE


def _settings(
    arguments: argparse.Namespace, policy: Policy, records: Sequence[ImageRecord], costs: Costs
) -> list[Point]:
    """The points that were asked for."""
    from enaf.evaluate.points import TOLERANCE_DB, best_within, cheapest_reaching, curve, evaluate
    from enaf.evaluate.policies import Uniform

    if arguments.budget is None and arguments.match_psnr is None:
        return curve(policy, records, costs, arguments.eta)
    points = curve(policy, records, costs)
    best = max(points, key=lambda point: point.psnr_db)
    if arguments.budget is not None:
        if not 0 <= arguments.budget <= 1:
            raise UsageError(f"--budget: expected a share between 0 and 1, got {arguments.budget:g}")
        found = best_within(points, arguments.budget)
        if found is None:
            cheapest = min(point.paper for point in points)
            raise UsageError(f"--budget: {policy.name} takes at least {cheapest:.1%} of the published cost")
        return [found]
    if arguments.match_psnr == "full":
        full = evaluate(Uniform(len(costs.table.paper) - 1), 0.0, records, costs)
        target = full.psnr_db - TOLERANCE_DB
    else:
        try:
            target = float(arguments.match_psnr)
        except ValueError:
            raise UsageError(f"--match-psnr: expected `full` or a number of dB, got {arguments.match_psnr!r}") from None
    found = cheapest_reaching(points, target)
    if found is None:
        raise UsageError(f"--match-psnr: {policy.name} reaches at most {best.psnr_db:.3f} dB, asked for {target:.3f}")
    return [found]


def check_place(option: str, path: Path | None) -> None:
    """Looks before the work whether a file can be written after it.

    Raises:
        UsageError: its folder does not exist, or it is a folder itself.
    """
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise UsageError(f"{option}: expected a file in a folder that exists, got {path}")


def message_of(error: Exception) -> str:
    """What is told of an error: of a file that cannot be read or written, its name and why."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def progress_bar(quiet: bool) -> Progress:
    """Wraps a sequence of images in a progress bar on the terminal.

    Raises:
        UsageError: a package of the extra `eval` is missing.
    """
    try:
        import skimage.metrics  # noqa: F401  # needed at the end; its absence has to be known at the start
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        raise UsageError(f"evaluation needs {error.name}: pip install 'enaf_ext[eval]'") from error
    disable = quiet or not sys.stderr.isatty()
    return lambda items, name: tqdm(items, desc=name, disable=disable, leave=False, unit="image")
