# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium for tests, driven over the pipe of its DevTools protocol (no driver, no socket, no network)."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


class Browser:
    """One page of a browser of its own; everything it writes stays in `profile`."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        read_commands, self._commands = os.pipe()
        self._replies, write_replies = os.pipe()

        def as_3_and_4() -> None:
            # By way of high numbers: the pipes may themselves be 3 and 4.
            commands, replies = (os.dup(end) for end in (read_commands, write_replies))
            high = [os.dup2(end, 100 + index) for index, end in enumerate((commands, replies))]
            for index, end in enumerate(high):
                os.dup2(end, 3 + index, inheritable=True)

        command = [
            *(CHROMIUM, "--headless", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run"),
            *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "about:blank"),
        ]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, preexec_fn=as_3_and_4, close_fds=False, **quiet)
        os.close(read_commands)
        os.close(write_replies)
        self._number, self._received, self._session = 0, bytearray(), ""
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(20)
        os.close(self._commands)
        os.close(self._replies)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command and its answer; events on the way are looked at for errors and requests."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data) :]
        while (reply := self._next()).get("id") != self._number:
            parameters = reply.get("params", {})
            if reply.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(parameters["exceptionDetails"]))
            elif reply.get("method") == "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"][:200])
        assert "error" not in reply, (method, reply["error"])
        return reply["result"]

    def _next(self) -> dict[str, Any]:
        searched = 0
        while (end := self._received.find(b"\0", searched)) < 0:
            searched = len(self._received)
            assert select.select([self._replies], [], [], 180)[0], "the browser does not answer"
            received = os.read(self._replies, 1 << 20)
            assert received, "the browser has ended"
            self._received += received
        message = bytes(self._received[:end])
        del self._received[: end + 1]
        return json.loads(message)

    def open(self, url: str, width: int = 1280, height: int = 800, *, dark: bool = False, touch: bool = False) -> None:
        """Loads a page into a window of this size; waits until the viewer shows its images."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self.send("Emulation.setTouchEmulationEnabled", enabled=touch)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && window.viewer && document.getElementById('loading').hidden")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        result = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition: str, seconds: float = 180) -> None:
        """Until a JavaScript expression is true."""
        until = time.monotonic() + seconds
        while not self.evaluate(condition):
            assert time.monotonic() < until, f"never became true: {condition}; {self.errors}"
            time.sleep(0.02)

    def frame(self) -> None:
        """Until what was asked for is drawn."""
        self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def pixel(self, x: int, y: int) -> list[int]:
        """Red, green and blue of the canvas."""
        self.frame()
        return self.evaluate(f"[...viewer.context.getImageData({x}, {y}, 1, 1).data].slice(0, 3)")

    def key(self, name: str) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": name} if kind == "keyDown" and len(name) == 1 else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=name, **text)

    def drag(self, start: tuple[float, float], stop: tuple[float, float]) -> None:
        """With the left button of a mouse."""
        for kind, (x, y) in (("mousePressed", start), ("mouseMoved", stop), ("mouseReleased", stop)):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def touch(self, *moments: list[tuple[float, float]]) -> None:
        """Fingers on the screen, moment by moment."""
        for index, fingers in enumerate(moments):
            points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(fingers)]
            kind = "touchMove" if index else "touchStart"
            self.send("Input.dispatchTouchEvent", type=kind, touchPoints=points)
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        self.frame()
        result = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(result["data"]))
