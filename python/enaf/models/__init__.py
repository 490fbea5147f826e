# SPDX-License-Identifier: Apache-2.0
"""Multi-exit backbones."""

from . import fsrcnn as fsrcnn
from .multi_exit import Module, MultiExitNetwork, SubPixelTransposedConvolution, bicubic, channels_last
from .registry import backbone_names, create_backbone, register_backbone

__all__ = [
    "Module",
    "MultiExitNetwork",
    "SubPixelTransposedConvolution",
    "backbone_names",
    "bicubic",
    "channels_last",
    "create_backbone",
    "register_backbone",
]
