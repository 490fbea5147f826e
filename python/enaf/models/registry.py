# SPDX-License-Identifier: Apache-2.0
"""Backbones by name. A new backbone is one file: a ``MultiExitNetwork`` under ``@register_backbone``."""

from __future__ import annotations

from typing import TypeVar

from .multi_exit import MultiExitNetwork

_BACKBONES: dict[str, type[MultiExitNetwork]] = {}
Backbone = TypeVar("Backbone", bound=type[MultiExitNetwork])


def register_backbone(backbone: Backbone) -> Backbone:
    """Class decorator: make ``backbone`` available under its ``name``."""
    if backbone.name in _BACKBONES:
        raise ValueError(f"backbone: the name {backbone.name!r} is already taken")
    _BACKBONES[backbone.name] = backbone
    return backbone


def backbone_names() -> list[str]:
    """Names of all registered backbones, sorted."""
    return sorted(_BACKBONES)


def create_backbone(name: str, scale: int = 4) -> MultiExitNetwork:
    """A freshly initialised backbone.

    Args:
        name: one of ``backbone_names()``.
        scale: upscaling factor, 2, 3 or 4.

    Raises:
        ValueError: unknown name or unsupported scale.
    """
    if name not in _BACKBONES:
        raise ValueError(f"backbone: expected one of {', '.join(backbone_names())}, got {name!r}")
    return _BACKBONES[name](scale=scale)
