# SPDX-License-Identifier: Apache-2.0
"""`enaf import`: checkpoints of the paper's authors, of ClassSR and of BasicSR become model files."""

from __future__ import annotations

import argparse
from pathlib import Path

from enaf.cli import DONE, UsageError
from enaf.cli.eval import message_of

HELP = "Turn a checkpoint of the paper's authors, of ClassSR or of BasicSR into a model file."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line."""
    parser.add_argument(
        "file", metavar="FILE", type=Path, help="torch state dict (.t7, .pth); nothing in it is executed"
    )
    parser.add_argument("--backbone", required=True, metavar="NAME", help="carn, fsrcnn or srresnet")
    parser.add_argument("--scale", type=int, help="upscaling factor (default: what the tensors tell; 4 for fsrcnn)")
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, required=True, help="file to write (.safetensors)")


def run(arguments: argparse.Namespace) -> int:
    """Writes the model file and says what is in it.

    Returns:
        0.

    Raises:
        UsageError: the checkpoint is not of that backbone, damaged, or not only tensors; or OUT cannot be written.
    """
    target = arguments.output
    if target.suffix != ".safetensors":
        raise UsageError(f"-o: expected a name that ends in .safetensors, got {target}")

    from enaf.adaptive import AdaptiveNetwork
    from enaf.checkpoint import save_backbone, save_model
    from enaf.foreign import import_checkpoint

    notes = {"imported_from": arguments.file.name}
    try:
        imported = import_checkpoint(arguments.file, arguments.backbone, arguments.scale)
        if isinstance(imported, AdaptiveNetwork):
            save_model(imported, target, notes)
            print(f"{target}  {arguments.backbone} x{imported.network.scale} with its exits and estimator")
        else:
            save_backbone(imported, target, notes)
            print(f"{target}  {arguments.backbone} x{imported.scale} alone; exits and estimator have yet to be trained")
    except (ValueError, OSError) as error:
        raise UsageError(message_of(error)) from error
    return DONE
