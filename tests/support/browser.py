"""A headless Chromium, spoken to over its pipe in the DevTools protocol, without any driver."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
    "chromium-headless-shell",
)  # fmt: skip


def found() -> str | None:
    """The path of a Chromium: CHROMIUM's, else one on the PATH."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page.

    Parameters
    ----------
    flags: further ones of the command line.

    Attributes
    ----------
    errors: what its console and its scripts complained of. pages: by address, what is shown in
        place of what the network would answer; ``Fetch.enable`` names their addresses.
    """

    def __init__(self, program: str, profile: Path, *flags: str, dark: bool = False) -> None:
        to_read, self._out = os.pipe()
        self._in, to_write = os.pipe()
        # The browser reads from 3 and writes to 4; high numbers first, so that none is lost.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (to_read, to_write)]

        def place() -> None:
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        arguments = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", "--disable-extensions", "--window-size=1280,1150",
            "--remote-debugging-pipe", f"--user-data-dir={profile}", *flags, "about:blank",
        ]  # fmt: skip
        if dark:
            arguments.insert(0, "--force-dark-mode")
        self.process = subprocess.Popen(
            [program, *arguments],
            preexec_fn=place,
            pass_fds=(3, 4, *ends),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (to_read, to_write, *ends):
            os.close(end)
        self.errors: list[str] = []
        self.pages: dict[str, str] = {}
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(one["targetId"] for one in targets if one["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, seconds: float = 60.0, **params: Any) -> dict[str, Any]:
        """A command's result."""
        number = self._send(method, params)
        end = time.monotonic() + seconds
        while True:
            told = self._next(end)
            if told.get("id") == number:
                assert "error" not in told, f"{method}: {told['error']}"
                return told["result"]

    def _send(self, method: str, params: dict[str, Any]) -> int:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        return self._number

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            piece = os.read(self._in, 1 << 20)
            assert piece, "the browser is gone"
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\0")
        told = json.loads(line)
        about = told.get("params", {})
        if told.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(about["exceptionDetails"]))
        elif told.get("method") == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.errors.append(about["entry"]["text"])
        elif told.get("method") == "Fetch.requestPaused":
            page = self.pages[about["request"]["url"]]
            answer = {"requestId": about["requestId"], "responseCode": 200}
            answer["body"] = base64.b64encode(page.encode()).decode()
            answer["responseHeaders"] = [{"name": "Content-Type", "value": "text/html"}]
            self._send("Fetch.fulfillRequest", answer)
        elif told.get("method") == "Runtime.consoleAPICalled" and about["type"] == "error":
            self.errors.append(str(about["args"]))
        return told

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        told = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def open(self, url: str) -> None:
        """Goes to an address and waits until its page is there."""
        self.call("Page.navigate", url=url)
        self.wait(f"location.href.startsWith({url!r}) && document.readyState === 'complete'")

    def wait(self, script: str, seconds: float = 60.0) -> Any:
        """Waits until an expression is true; gives it."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"{script} did not come true"
            time.sleep(0.1)
        return value

    def screenshot(self, file: Path) -> None:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self.process.kill()
        self.process.wait(30)
        os.close(self._out)
        os.close(self._in)
