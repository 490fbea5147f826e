# SPDX-License-Identifier: Apache-2.0
"""Adaptive image super-resolution: every patch takes the cheapest path through a network that is good enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enaf.upscaler import Upscaler, upscale

__all__ = ["Upscaler", "__version__", "upscale"]


def __getattr__(name: str) -> Any:
    # `enaf` stands on this package: looking up to it only on first use keeps `import enaf_ext` light and free of cycles.
    if name in ("upscale", "Upscaler"):
        from enaf import upscaler

        return getattr(upscaler, name)
    if name == "__version__":
        from enaf.version import version

        return version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
