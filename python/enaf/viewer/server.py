# SPDX-License-Identifier: Apache-2.0
"""The server of `enaf view`: this page, its tiles and its eta, for this machine alone. It opens no files."""

from __future__ import annotations

import base64
import json
import math
import re
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from enaf.exit_map import exit_colours, exit_names
from enaf.viewer.page import build_page, opacity_slider, to_webp
from enaf.viewer.routing import LiveRouter, LiveRouting

TILE = 512
"""Pixels a side of a tile. Level L shows the image reduced by 2**L."""
_TILE_PATH = re.compile(r"/(bicubic|enaf)/\d{1,9}/(\d{1,2})/(\d{1,5})/(\d{1,5})\.webp")
_LARGEST_BODY = 1000


class ViewServer(ThreadingHTTPServer):
    """Listens on 127.0.0.1; ``serve_forever`` as usual.

    Args:
        name: what the page calls the image.
        image: (C, H, W), C = 1 or 3, uint8.
        router: of ``image``.
        eta: where the slider starts.
        icc_profile: the image's colour profile.
        port: 0 takes a free one.

    Attributes:
        url: of the page.
    """

    daemon_threads = True

    def __init__(
        self, name: str, image: Tensor, router: LiveRouter, eta: float, icc_profile: bytes | None = None, port: int = 0
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/"
        self.hosts = {f"{host}:{self.server_port}" for host in ("127.0.0.1", "localhost")}
        self.router = router
        self.icc_profile = icc_profile
        self.height, self.width = router.sr.shape[-2:]
        self.levels = max(0, math.ceil(math.log2(max(self.height, self.width) / TILE)))
        self.page = _page(name, self, eta).encode()
        array = image.permute(1, 2, 0).contiguous().numpy()
        self._lr = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that goes away in the middle of an answer is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # passed on as it came

    def tile(self, source: str, level: int, column: int, row: int) -> bytes | None:
        """A lossless WebP of at most ``TILE`` pixels a side, or None outside the image."""
        step = TILE << level
        x, y = column * step, row * step
        if level > self.levels or x >= self.width or y >= self.height:
            return None
        right, bottom = min(x + step, self.width), min(y + step, self.height)
        size = (-(-(right - x) >> level), -(-(bottom - y) >> level))
        if source == "enaf":
            with self.router.lock:
                part = self.router.sr[:, y:bottom, x:right].permute(1, 2, 0).contiguous().numpy()
            tile = Image.fromarray(part[:, :, 0] if part.shape[2] == 1 else part).reduce(1 << level)
        else:
            box = tuple(edge / self.router.scale for edge in (x, y, right, bottom))
            tile = self._lr.resize(size, Image.Resampling.BICUBIC, box=(box[0], box[1], box[2], box[3]))
        pixels = torch.from_numpy(np.array(tile))
        return to_webp(pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1), self.icc_profile)


def _page(name: str, server: ViewServer, eta: float) -> str:
    grid, router = server.router.grid, server.router
    colours = exit_colours(router.num_exits)
    config = {
        "width": server.width, "height": server.height, "levels": server.levels, "tile": TILE,
        "names": {"bicubic": f"Bicubic ×{router.scale}", "enaf": "ENAF"},
        "colours": colours,
        "rows": grid.rows, "cols": grid.cols,
        "stride": grid.stride * router.scale, "overlap": grid.overlap * router.scale,
    }  # fmt: skip
    exits = "".join(
        f"""<tr><th scope="row"><span class="swatch" style="background: rgb({red} {green} {blue})"></span>{exit_name}</th>
          <td class="wide"><div class="bar"><i style="background: rgb({red} {green} {blue})"></i></div></td>
          <td class="share"></td><td class="count"></td></tr>"""
        for exit_name, (red, green, blue) in zip(exit_names(router.num_exits), colours, strict=True)
    )
    panel = f"""<section>
      <label for="eta" class="slider">Price of the full network, η <output id="eta-value" for="eta"></output></label>
      <input type="range" id="eta" min="0" max="{max(5, math.ceil(eta))}" step="0.05" value="{eta:g}" aria-describedby="ends">
      <p class="ends" id="ends"><span>best predicted quality</span><span>least work</span></p>
    </section>
    <section>
      <table id="exits">
        <caption>Patches per exit</caption>
        <tbody>{exits}</tbody>
      </table>
    </section>
    <section>{opacity_slider(0)}</section>
    <section>
      <table>
        <caption>Cost against the full network</caption>
        <tbody>
          <tr><th scope="row">Published FLOPs</th><td id="paper"></td></tr>
          <tr><th scope="row">True MACs, estimator and overlap included</th><td id="macs"></td></tr>
        </tbody>
      </table>
    </section>
    <section>
      <table>
        <caption>The last change</caption>
        <tbody>
          <tr><th scope="row">Patches with another exit</th><td id="changed"></td></tr>
          <tr><th scope="row">Patches run, the rest remembered</th><td id="run"></td></tr>
          <tr><th scope="row">Milliseconds</th><td id="milliseconds"></td></tr>
        </tbody>
      </table>
      <p class="quiet" id="stages"></p>
      <p class="quiet">Estimates, once: {router.estimate_milliseconds:.0f} ms.</p>
      <p class="quiet" id="status" role="status"></p>
    </section>"""
    return build_page(name, panel, [], config, ["page.js", "live.js"], live=True)


def _json(routing: LiveRouting) -> bytes:
    return json.dumps(
        {
            "exits": base64.b64encode(routing.exit_index.to(torch.uint8).numpy().tobytes()).decode(),
            "counts": routing.counts.tolist(),
            "cost": routing.cost,
            "changed": routing.changed,
            "run": routing.run,
            "milliseconds": routing.milliseconds,
        }
    ).encode()


class _Handler(BaseHTTPRequestHandler):
    server: ViewServer
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        if not self._is_for_us():
            return
        if self.path == "/":
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page)
        elif match := _TILE_PATH.fullmatch(self.path):
            tile = self.server.tile(match[1], *(int(number) for number in match.group(2, 3, 4)))
            if tile is None:
                self._refuse(HTTPStatus.NOT_FOUND, "no such tile")
            else:
                self._answer(HTTPStatus.OK, "image/webp", tile)
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "no such page")

    def do_POST(self) -> None:
        if not self._is_for_us():
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _LARGEST_BODY:
            self._refuse(HTTPStatus.BAD_REQUEST, f"expected a body of at most {_LARGEST_BODY} bytes")
            return
        body = self.rfile.read(int(length))
        # A page of another origin cannot send this type without asking first, and nobody answers that question here.
        if self.path != "/route" or self.headers.get_content_type() != "application/json":
            self._refuse(HTTPStatus.NOT_FOUND, "expected JSON for /route")
            return
        try:
            eta = float(json.loads(body)["eta"])
            routing = self.server.router.route(eta)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, f'expected {{"eta": number}}: {error}')
            return
        self._answer(HTTPStatus.OK, "application/json", _json(routing))

    def _is_for_us(self) -> bool:
        """Whether the browser means this server: a foreign name that resolves to it, or a foreign page, does not."""
        origin = self.headers.get("Origin", self.server.url[:-1])
        if self.headers.get("Host") in self.server.hosts and origin.removeprefix("http://") in self.server.hosts:
            return True
        self._refuse(HTTPStatus.FORBIDDEN, "expected a request from this page")
        return False

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        self.close_connection = True  # a body may not have been read
        self._answer(status, "text/plain; charset=utf-8", reason.encode())

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")  # the next image may be served under the same port
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing to log: the page says what fails."""
