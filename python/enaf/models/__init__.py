# SPDX-License-Identifier: Apache-2.0
"""Multi-exit backbones. Every module of this package is imported, so that a backbone in it registers itself."""

from importlib import import_module
from pkgutil import iter_modules

from .layers import Concatenation, Residual
from .multi_exit import Module, MultiExitNetwork, SubPixelTransposedConvolution, bicubic, channels_last
from .registry import backbone_names, create_backbone, register_backbone

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "Concatenation",
    "Module",
    "MultiExitNetwork",
    "Residual",
    "SubPixelTransposedConvolution",
    "backbone_names",
    "bicubic",
    "channels_last",
    "create_backbone",
    "register_backbone",
]
