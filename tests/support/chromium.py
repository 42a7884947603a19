"""Headless Chromium, controlled through its DevTools protocol on two pipes."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CALL_TIMEOUT_S = 40.0


class Chromium:
    """One page. It is controlled by pipes because the standard library has no websocket client."""

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM is not None
        their_input, self._out = os.pipe()
        self._in, their_output = os.pipe()
        # The shell moves the pipes to where Chromium expects them: 3 to read, 4 to write.
        script = 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"'
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        flags += ["--remote-debugging-pipe", f"--user-data-dir={folder}"]
        self._process = subprocess.Popen(
            [
                "/bin/bash",
                "-c",
                script,
                "chromium",
                str(their_input),
                str(their_output),
                CHROMIUM,
                *flags,
                "about:blank",
            ],
            pass_fds=(their_input, their_output),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                "HOME": str(folder),
                "XDG_CONFIG_HOME": str(folder),
                "XDG_CACHE_HOME": str(folder),
            },
            start_new_session=True,
        )
        os.close(their_input)
        os.close(their_output)
        self._buffer, self._number = b"", 0
        self._session: str | None = None
        self.errors: list[str] = []
        pages = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in pages if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: object) -> Any:
        """Call a method of the protocol and return its result."""
        self._number += 1
        message: dict[str, object] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline_s = time.monotonic() + CALL_TIMEOUT_S
        while time.monotonic() < deadline_s:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(answer["params"]["exceptionDetails"]))
        raise AssertionError(f"no answer to {method}")

    def _read(self) -> Any:
        while b"\0" not in self._buffer:
            data = os.read(self._in, 1 << 20)
            assert data, "Chromium has ended"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def screen(self, width: int, height: int, dark: bool = False, phone: bool = False) -> None:
        """Set the size of the window and the preferred colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        """Open a URL."""
        self.call("Page.navigate", url=url)

    def value(self, script: str) -> Any:
        """Return the value of an expression on the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 30) -> None:
        """Wait until an expression is true on the page."""
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s:
            if self.value(script):
                return
            time.sleep(0.1)
        raise AssertionError(f"never became true: {script}")

    def picture(self, full: bool = False) -> bytes:
        """Return a screenshot of the page as PNG."""
        screenshot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        return base64.b64decode(screenshot["data"])

    def close(self) -> None:
        """End Chromium and its child processes."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._out)
        os.close(self._in)
