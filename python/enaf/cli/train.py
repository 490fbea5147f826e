# SPDX-License-Identifier: Apache-2.0
"""`enaf train`: a folder of photographs in, a model file out."""

from __future__ import annotations

import argparse
import logging
from dataclasses import fields
from pathlib import Path

from enaf.cli import DONE, UsageError
from enaf.cli.eval import message_of
from enaf.train.config import RECIPES, TrainConfig

HELP = "Train a backbone, its early exits and its estimator; stop it whenever you like and go on with --resume."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line: the run, then every number of ``TrainConfig``."""
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of training images, searched recursively")
    parser.add_argument("--out", type=Path, metavar="RUN", help="folder of the run: log, curves, checkpoints, model")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with this run, with its own data and numbers")
    parser.add_argument("--init", metavar="MODEL", help="start from this model: a file, or a name such as fsrcnn-x4")
    parser.add_argument(
        "--validation", type=Path, metavar="DIR", help="validation images (default: some of the training)"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's own choice)")
    parser.add_argument(
        "--device", default="cpu", help="where the networks are trained and the images kept (default: %(default)s)"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    numbers = parser.add_argument_group("numbers of the run")
    for entry in fields(TrainConfig):
        flag, kind = "--" + entry.name.replace("_", "-"), type(entry.default)
        if kind is bool:
            numbers.add_argument(flag, action="store_true", default=None, help=entry.metadata["help"])
            continue
        others = [f"{name}: {recipe[entry.name]}" for name, recipe in RECIPES.items() if entry.name in recipe]
        defaults = ", ".join([str(entry.default), *others])
        numbers.add_argument(
            flag, type=kind, metavar=kind.__name__.upper(), help=f"{entry.metadata['help']} (default: {defaults})"
        )


def run(arguments: argparse.Namespace) -> int:
    """Trains to the end, or goes on with an interrupted run.

    Returns:
        0.

    Raises:
        UsageError: a missing package, contradictory options, an unknown device, unusable data, or a run folder that is taken,
            not there or cannot be written.
    """
    try:
        import matplotlib  # noqa: F401  # draws at the end of a run; its absence has to be known at the start

        from enaf.device import usable_device
        from enaf.train import parallel
        from enaf.train.run import resume_run, start_run
    except ModuleNotFoundError as error:
        raise UsageError(f"training needs {error.name}: pip install 'enaf_ext[train]'") from error

    given = {
        entry.name: value for entry in fields(TrainConfig) if (value := getattr(arguments, entry.name)) is not None
    }
    try:
        with parallel.processes(usable_device(arguments.device)) as device:
            logging.basicConfig(level=logging.INFO if parallel.rank() == 0 else logging.ERROR, format="%(message)s")
            if arguments.resume is not None:
                if arguments.data or arguments.out or arguments.validation or arguments.init or given:
                    raise UsageError("--resume: expected no other setting, a run keeps its own")
                resume_run(arguments.resume, arguments.threads, arguments.quiet, device)
            else:
                if arguments.data is None or arguments.out is None:
                    raise UsageError("expected --data and --out, or --resume")
                start_run(
                    TrainConfig.of(given.pop("backbone", TrainConfig.backbone), **given),
                    arguments.data,
                    arguments.out,
                    arguments.validation,
                    arguments.init,
                    arguments.threads,
                    arguments.quiet,
                    device,
                )
    except (ValueError, OSError) as error:
        raise UsageError(message_of(error)) from error
    return DONE
