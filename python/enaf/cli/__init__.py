# SPDX-License-Identifier: Apache-2.0
"""The `enaf` command. One module a sub-command, each with `HELP`, `add_arguments(parser)` and `run(arguments) -> int`.

Modules import what is heavy (torch and all that needs it) inside `run`, so that help and usage errors come at once and
`enaf doctor` works where the rest does not.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from enaf.version import version

SUBCOMMANDS = (
    "upscale",
    "compare",
    "view",
    "train",
    "import_",
    "eval",
    "fit",
    "reproduce",
    "prepare",
    "bench",
    "calibrate",
    "doctor",
)
"""Modules; a command whose name is a Python keyword has an underscore behind it there."""

DONE, SOME_FAILED, USAGE = 0, 1, 2


class UsageError(Exception):
    """What was asked for makes no sense; the message says what would. Ends the command with status 2."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `enaf` with the given arguments (those of the process by default).

    Returns:
        The exit status: 0 all done, 1 some of it failed, 2 usage error, 130 interrupted.
    """
    parser = argparse.ArgumentParser(prog="enaf", description="Adaptive image super-resolution, patch by patch.")
    parser.add_argument("--version", action="version", version=f"enaf_ext {version()}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for name in SUBCOMMANDS:
        module = importlib.import_module(f"enaf.cli.{name}")
        command = commands.add_parser(name.rstrip("_"), help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.set_defaults(run=module.run, parser=command)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except UsageError as error:
        arguments.parser.print_usage(sys.stderr)
        print(f"{arguments.parser.prog}: error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has seen enough; the exit must not find the pipe again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SOME_FAILED
