# SPDX-License-Identifier: Apache-2.0
"""`enaf view`: what the live router shows is what the runtime gives, and the server serves its own page and no more."""

from __future__ import annotations

import http.client
import io
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser
from PIL import Image
from torch import nn
from torch.nn import functional as F

from enaf.adaptive import AdaptiveNetwork
from enaf.checkpoint import save_model
from enaf.estimator import Estimator, create_estimator
from enaf.image_io import write_image
from enaf.models import create_backbone
from enaf.upscaler import Upscaler
from enaf.viewer.routing import LiveRouter
from enaf.viewer.server import TILE, ViewServer

SCALE = 4


class Contrast(Estimator):
    """The more contrast, the more the deeper exits gain: sends patches to every exit as eta changes."""

    name = "contrast"

    def __init__(self) -> None:
        super().__init__(4)
        self.gain_db = nn.Parameter(torch.tensor(40.0))

    def features(self, lr: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d((lr - 0.5).abs(), 4)

    def readout(self, pooled: torch.Tensor) -> torch.Tensor:
        return 30 + self.gain_db * pooled.mean(dim=1, keepdim=True) * (1 - 0.5 ** torch.arange(4))

    def loss(self, lr: torch.Tensor, targets: object) -> torch.Tensor:
        raise NotImplementedError("never trained: its scores are written above")


@pytest.fixture(scope="module")
def model() -> AdaptiveNetwork:
    torch.manual_seed(0)
    network = create_backbone("fsrcnn", SCALE)
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return AdaptiveNetwork(network, Contrast(), "paper")


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    """Flat at the left, noise at the right, so that patches differ; far from 0 and 255, where Pillow clips between passes."""
    torch.manual_seed(0)
    return (128 + torch.linspace(0, 50, 203) * (2 * torch.rand(3, 131, 203) - 1)).byte()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(131, 203), (5, 7), (32, 33), (60, 32)])
def test_is_what_the_runtime_gives_whatever_came_before(
    model: AdaptiveNetwork, channels: int, size: tuple[int, int]
) -> None:
    image = torch.randint(0, 256, (channels, *size), dtype=torch.uint8)
    upscaler, router = Upscaler(model), LiveRouter(model, image)
    for eta in (0.0, 1.0, 0.3, 5.0, 0.0):
        routing = router.route(eta)
        expected, info = upscaler(image, eta, return_info=True)
        assert torch.equal(routing.exit_index, info.exit_index[0])
        assert (router.sr.int() - expected.int()).abs().max() <= 1  # a convolution may round otherwise in another batch
        assert torch.equal(routing.counts, info.exit_index.flatten().bincount(minlength=4))
        assert routing.cost == {name: info.cost[name] for name in ("paper", "macs")}


def test_runs_what_changes_and_remembers_it(model: AdaptiveNetwork, image: torch.Tensor) -> None:
    router = LiveRouter(model, image)
    patches = router.grid.num_patches
    first = router.route(1.0)
    assert (first.changed, first.run) == (patches, patches)
    again = router.route(1.0)
    assert (again.changed, again.run) == (0, 0)
    other = router.route(0.2)
    assert 0 < other.changed < patches
    assert other.run == other.changed == int((other.exit_index != first.exit_index).sum())
    back = router.route(1.0)
    assert (back.changed, back.run) == (other.changed, 0)
    assert len(first.counts.nonzero()) > 1


def test_memory_is_bounded_and_the_result_the_same(model: AdaptiveNetwork, image: torch.Tensor) -> None:
    few = 5 * 4 * 3 * (SCALE * 32) ** 2
    roomy, tight = LiveRouter(model, image), LiveRouter(model, image, cache_bytes=few)
    for eta in (1.0, 0.2, 1.0):
        roomy.route(eta)
        routing = tight.route(eta)
        assert len(tight._outputs) <= 5
        assert torch.equal(tight.sr, roomy.sr)
    assert routing.run >= routing.changed


@pytest.mark.parametrize("eta", [-1, float("nan"), float("inf")])
def test_rejects_eta(model: AdaptiveNetwork, image: torch.Tensor, eta: float) -> None:
    with pytest.raises(ValueError, match="eta: expected a finite number of at least 0"):
        LiveRouter(model, image).route(eta)


# --- the server ---


@pytest.fixture(scope="module")
def server(model: AdaptiveNetwork, image: torch.Tensor) -> Iterator[ViewServer]:
    with ViewServer("<b>name</b>.png", image, LiveRouter(model, image), eta=1.0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server: ViewServer, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=180)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


def route(server: ViewServer, eta: object) -> tuple[int, bytes]:
    return ask(server, "POST", "/route", json.dumps({"eta": eta}), Content_Type="application/json")


def test_serves_its_page(server: ViewServer) -> None:
    status, page = ask(server, "GET", "/")
    assert status == 200
    assert b"&lt;b&gt;name" in page
    assert b"<b>name" not in page
    assert not re.search(rb"https?:|@import|url\(", page)
    assert b"connect-src 'self'" in page
    assert server.server_address[0] == "127.0.0.1"


def test_tiles_are_the_result(server: ViewServer) -> None:
    status, answer = route(server, 0.4)
    routing = json.loads(answer)
    grid = server.router.grid
    assert status == 200
    assert sum(routing["counts"]) == grid.num_patches
    assert set(routing["milliseconds"]) == {"decision", "exits", "blend"}
    sr = server.router.sr
    for column, row in ((0, 0), (1, 0), (1, 1)):
        status, data = ask(server, "GET", f"/enaf/1/0/{column}/{row}.webp")
        part = sr[:, row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE].permute(1, 2, 0).numpy()
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), part)
    reduced = Image.open(io.BytesIO(ask(server, "GET", "/enaf/1/1/0/0.webp")[1]))
    assert reduced.size == (406, 262)
    blocks = sr[:, :524, :812].float().view(3, 262, 2, 406, 2).mean(dim=(2, 4)).permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(reduced) - blocks).max() <= 0.5


def test_bicubic_tiles_fit_together(server: ViewServer, image: torch.Tensor) -> None:
    lr = Image.fromarray(image.permute(1, 2, 0).numpy())
    whole = np.asarray(lr.resize((812, 524), Image.Resampling.BICUBIC)).astype(int)
    for column, row in ((0, 0), (1, 0), (0, 1), (1, 1)):
        tile = np.asarray(Image.open(io.BytesIO(ask(server, "GET", f"/bicubic/0/0/{column}/{row}.webp")[1])))
        part = whole[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
        assert np.abs(tile - part).max() <= 1


@pytest.mark.parametrize(
    "path",
    [
        *("/../../etc/passwd", "/..%2f..%2fetc/passwd", "//etc/passwd", "/page.html", "/enaf/1/0/2/0.webp", "/favicon.ico"),
        *("/enaf/1/9/0/0.webp", "/enaf/1/99/0/0.webp", "/enaf/1/0/99999/0.webp", "/enaf/-1/0/0/0.webp", "/secret/1/0/0/0.webp"),
        *("/?a=1", "/enaf/1/0/0/0.webp?x", "/enaf/1/0/0/0.png", "/%D9%A1"),
    ],
)  # fmt: skip
def test_nothing_else_is_served(server: ViewServer, path: str) -> None:
    assert ask(server, "GET", path)[0] == 404


def test_foreign_names_and_pages_are_refused(server: ViewServer) -> None:
    assert ask(server, "GET", "/", Host="evil.example")[0] == 403
    assert ask(server, "GET", "/", Host=f"localhost:{server.server_port}")[0] == 200
    body, kind = '{"eta": 1}', "application/json"
    assert ask(server, "POST", "/route", body, Content_Type=kind, Origin="http://evil.example")[0] == 403
    assert ask(server, "POST", "/route", body, Content_Type="text/plain")[0] == 404
    for method in ("PUT", "DELETE", "OPTIONS", "HEAD"):
        assert ask(server, method, "/")[0] == 501


@pytest.mark.parametrize("eta", [-1, float("nan"), float("inf"), "x", None, [], "9" * 5000])
def test_a_foolish_eta_is_answered_and_the_server_lives(server: ViewServer, eta: object) -> None:
    assert route(server, eta)[0] == 400
    assert route(server, 1.0)[0] == 200


@pytest.mark.parametrize("body", ["", "{", "[]", "{}", "[" * 900])
def test_a_damaged_body_is_answered(server: ViewServer, body: str) -> None:
    assert ask(server, "POST", "/route", body, Content_Type="application/json")[0] == 400


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_slider_routes_anew(server: ViewServer, tmp_path: Path) -> None:
    with Browser(tmp_path) as browser:
        browser.open(server.url)
        settled = "viewer.sources.every((source) => source.settled)"
        count = "[...document.querySelectorAll('#exits .count')].map((cell) => Number(cell.textContent))"
        for eta in (0.2, 5):
            browser.evaluate(f"element('eta').value = {eta}; element('eta').dispatchEvent(new Event('input')); 0")
            browser.wait(f"shownEta === '{eta}' && !asking")
            browser.frame()
            browser.wait(settled)
            browser.evaluate("viewer.setZoom(1); viewer.setDivider(0.5)")
            browser.frame()
            browser.wait(settled)
            expected = server.router.route(eta)  # where it already is: nothing is run
            assert expected.changed == 0
            assert browser.evaluate(count) == expected.counts.tolist()
            left, top = browser.evaluate("[0, 1].map((axis) => Math.round([viewer.canvas.width, viewer.canvas.height]"
                                         "[axis] / 2 - viewer.centre[axis] * viewer.zoom))")  # fmt: skip
            for x, y in ((700, 300), (600, 520)):
                assert browser.pixel(left + x, top + y) == server.router.sr[:, y, x].tolist()
        browser.evaluate("viewer.setOpacity(1)")
        # The border of two patches lies in the middle of what they share.
        stride, overlap = 4 * server.router.grid.stride, 4 * server.router.grid.overlap
        colours = browser.evaluate("config.colours")
        exits = expected.exit_index
        for x, y in ((0, 0), (stride + overlap // 2 - 1, 5), (stride + overlap // 2, 5), (811, 523)):
            row, column = (max(0, (at - overlap // 2) // stride) for at in (y, x))
            index = int(exits[min(row, exits.shape[0] - 1), min(column, exits.shape[1] - 1)])
            assert browser.pixel(left + x, top + y) == colours[index]
        assert browser.errors == []
        assert all(url.startswith((server.url, "data:")) for url in browser.requests)


# --- the command ---


def test_ends_on_ctrl_c(tmp_path: Path) -> None:
    network = create_backbone("fsrcnn", SCALE)
    save_model(AdaptiveNetwork(network, create_estimator("paper", network.num_exits)), tmp_path / "m.safetensors")
    write_image(tmp_path / "x.png", torch.zeros(3, 20, 30, dtype=torch.uint8))
    command = [sys.executable, "-m", "enaf", "view", tmp_path / "x.png", "--model", tmp_path / "m.safetensors"]
    # A shell may have its background jobs ignore SIGINT, and children inherit that.
    process = subprocess.Popen(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"http://127\.0\.0\.1:(\d+)/", line)
        assert found, line
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=180)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        connection.close()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=180)
    finally:
        process.kill()
    assert process.returncode == 0
    assert errors == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.png"], "none.png: no such file"),
        (["x.png", "--eta=-1"], "--eta: expected a finite number of at least 0, got -1.0"),
        (["x.png", "--port=70000"], "--port: expected 0 to 65535, got 70000"),
        (["x.png", "--model=none.safetensors"], "model: no such file"),
        (["large.png"], "expected at most 8.4 megapixels, got 4096x2049; cut out the part that matters"),
    ],
)
def test_usage_errors(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    from enaf.cli import main

    monkeypatch.chdir(tmp_path)
    write_image("x.png", torch.zeros(3, 20, 30, dtype=torch.uint8))
    write_image("large.png", torch.zeros(1, 2049, 4096, dtype=torch.uint8))
    assert main(["view", *arguments]) == 2
    assert words in capsys.readouterr().err
