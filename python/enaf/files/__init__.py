# SPDX-License-Identifier: Apache-2.0
"""Files in, larger files out: `plan` finds the jobs, `run` does them, `one_image` is the flow of each, `ledger` remembers."""

from .frames import upscale_frames
from .ledger import FileResult, Ledger
from .run import Listener, upscale_files

__all__ = ["FileResult", "Ledger", "Listener", "upscale_files", "upscale_frames"]
