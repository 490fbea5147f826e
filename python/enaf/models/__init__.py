# SPDX-License-Identifier: Apache-2.0
"""Multi-exit backbones."""

from . import carn, fsrcnn, light, srresnet  # noqa: F401  # they register themselves
from .multi_exit import MultiExitNetwork, bicubic, channels_last
from .registry import backbone_names, create_backbone, register_backbone

__all__ = ["MultiExitNetwork", "backbone_names", "bicubic", "channels_last", "create_backbone", "register_backbone"]
