# SPDX-License-Identifier: Apache-2.0
"""One self-contained HTML page from the template beside this file; whatever is inserted is escaped."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources

import torch
from PIL import Image
from torch import Tensor

MAX_SIDE = 16383
"""Pixels a side of an image that the page holds: the limit of WebP, and of what browsers draw."""


def to_webp(pixels: Tensor, icc_profile: bytes | None = None) -> bytes:
    """A lossless WebP, encoded as fast as the format allows.

    Args:
        pixels: (C, H, W), C = 1 or 3, uint8 on the CPU, at most ``MAX_SIDE`` pixels a side.
        icc_profile: embedded as it is.
    """
    array = pixels.permute(1, 2, 0).expand(-1, -1, 3).contiguous().numpy()
    stream = io.BytesIO()
    options: dict[str, object] = {"icc_profile": icc_profile} if icc_profile else {}
    Image.fromarray(array).save(stream, format="WEBP", lossless=True, method=0, quality=0, **options)
    return stream.getvalue()


def figure(name: str, pixels: Tensor, icc_profile: bytes | None = None) -> str:
    """An image inside the page, under its name; arguments as for ``to_webp``."""
    data = base64.b64encode(to_webp(pixels, icc_profile)).decode()
    caption = escape(name)
    return (
        f'<figure><img alt="{caption}" src="data:image/webp;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def legend(entries: Sequence[tuple[str, tuple[int, int, int]]]) -> str:
    """Names with their colours (red, green, blue, 0 to 255)."""
    items = (
        f'<li><span class="swatch" style="background: rgb({red} {green} {blue})"></span>{escape(name)}</li>'
        for name, (red, green, blue) in entries
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def opacity_slider(percent: int) -> str:
    """How strongly the exit map covers the images."""
    return f"""<label for="opacity" class="slider">Exit map <output id="opacity-value" for="opacity"></output></label>
      <input type="range" id="opacity" min="0" max="100" value="{percent}">"""


def build_page(
    title: str, panel: str, images: Sequence[str], config: Mapping[str, object], scripts: Sequence[str], *, live: bool
) -> str:
    """The whole page.

    Args:
        title: of the page, plain text.
        panel: HTML of the settings and figures.
        images: HTML of the embedded images, from ``figure``.
        config: what the scripts read, JSON.
        scripts: files of this package, in order.
        live: whether the page may ask the server it came from; otherwise it may ask nobody.
    """
    sources = "'self' data:" if live else "data:"
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src {sources}"
    parts = {
        "policy": policy + ("; connect-src 'self'" if live else ""),
        "title": escape(title),
        "style": _asset("page.css").rstrip(),
        "panel": panel,
        "images": "\n".join(images),
        "config": json.dumps(config).replace("<", "\\u003c"),  # no name can end the script element
        "script": "\n".join(_asset(name) for name in scripts).rstrip(),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset("page.html"))


def to_8_bit(pixels: Tensor) -> Tensor:
    """What a screen shows of uint8 or uint16 pixels: uint8, 16 bits rounded to the nearest of 8."""
    return pixels if pixels.dtype == torch.uint8 else pixels.float().div_(257).round_().to(torch.uint8)


def _asset(name: str) -> str:
    return (resources.files("enaf.viewer") / name).read_text(encoding="utf-8")
