# SPDX-License-Identifier: Apache-2.0
"""Videos, frame by frame: decode, upscale in batches, encode in segments, put together with all that is not pictures.

The result is written segment by segment into a folder beside the target; a segment file is whole or not there. At the
end the segments are joined without encoding anything again. Whatever ends the process, ``resume`` goes on after the
last whole segment. `run` is the flow; `decode`, `look`, `encode`, `segments` and `join` are its steps.
"""

from .containers import READABLE, WRITABLE, is_video
from .report import VideoError, VideoReport
from .run import upscale_video

__all__ = ["READABLE", "WRITABLE", "VideoError", "VideoReport", "is_video", "upscale_video"]
