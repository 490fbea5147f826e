# SPDX-License-Identifier: Apache-2.0
"""ENAF in Python: models, estimator, decision, runtime, files, training, evaluation and the `enaf` command.

The public doors are `enaf_ext.upscale` and `enaf_ext.Upscaler` for tensors, `enaf.upscale_files` for files, and
`enaf.upscale_frames` for frames in a pipe. They are imported on first use, so that `enaf doctor` can still explain an
installation whose native library does not load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enaf.files import upscale_files, upscale_frames

__all__ = ["upscale_files", "upscale_frames"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from enaf import files

        return getattr(files, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
