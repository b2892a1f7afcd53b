"""A headless Chromium driven over its DevTools pipe: keys, screenshots, and a record of what went wrong or out.

Needs no package: the protocol is JSON between NUL bytes on two file descriptors.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
    # Nothing but this machine has a name or an address.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
)  # fmt: skip
_SECONDS = 60.0
_KEYS = {
    "Tab": 9, "Enter": 13, "Escape": 27, "Space": 32, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38,
    "ArrowRight": 39, "ArrowDown": 40, "Delete": 46,
}  # fmt: skip
_SHIFT = 8


@cache
def program() -> str | None:
    """Path of an installed Chromium that runs: Ubuntu's package, for one, is a script that only names another."""
    for name in PROGRAMS:
        found = shutil.which(name)
        with suppress(OSError, subprocess.TimeoutExpired):
            if found and subprocess.run([found, "--version"], capture_output=True, timeout=_SECONDS).returncode == 0:
                return found
    return None


class Browser:
    """One page in a browser with an empty profile. Use as a context manager.

    Attributes:
        requests: Addresses of everything the page asked a server for.
        complaints: Uncaught exceptions, console errors and warnings, violations of the page's policy.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._count, self._unread = 0, b""
        self._replies: dict[int, dict[str, Any]] = {}
        self._profile = tempfile.mkdtemp(prefix="edgeb-browser-")
        found = program()
        assert found is not None, "no Chromium is installed"
        # The browser reads commands from descriptor 3 and answers on 4; high numbers so that neither is overwritten.
        there, self._out = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in os.pipe())
        self._in, back = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in os.pipe())

        def wire() -> None:
            os.dup2(there, 3)
            os.dup2(back, 4)

        self._process = subprocess.Popen(
            [found, *_FLAGS, f"--user-data-dir={self._profile}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, close_fds=False, preexec_fn=wire,
        )  # fmt: skip
        os.close(there)
        os.close(back)
        self._session: str | None = None
        try:
            pages = self.send("Target.getTargets")["targetInfos"]
            target = next(page["targetId"] for page in pages if page["type"] == "page")
            self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
                self.send(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One DevTools command and its result."""
        self._count += 1
        number = self._count
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        unsent = json.dumps(message).encode() + b"\0"
        while unsent:
            unsent = unsent[os.write(self._out, unsent) :]
        deadline = time.monotonic() + _SECONDS
        while number not in self._replies:
            self._receive(deadline, method)
        reply = self._replies.pop(number)
        assert "error" not in reply, f"{method}: {reply['error']}"
        return dict(reply["result"])

    def open(self, url: str) -> None:
        """Go to an address and wait until it has loaded."""
        self.send("Page.navigate", url=url)
        self.wait(f"document.readyState === 'complete' && location.href === {json.dumps(url)}")

    def run(self, expression: str) -> Any:
        """Value of an expression in the page; promises are awaited."""
        said = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Until the expression is true; its value."""
        deadline = time.monotonic() + _SECONDS
        while not (value := self.run(expression)):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.02)
        return value

    def press(self, *keys: str, shift: bool = False) -> None:
        """Press named keys or single characters, one after the other."""
        for key in keys:
            text = {"Enter": "\r", "Space": " "}.get(key, key if len(key) == 1 else "")
            code = _KEYS.get(key) or (ord(key.upper()) if key.isascii() and key.isalnum() else 0)
            event = {
                "key": " " if key == "Space" else key,
                "windowsVirtualKeyCode": code,
                "modifiers": _SHIFT if shift else 0,
            }
            self.send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **event)
            self.send("Input.dispatchKeyEvent", type="keyUp", **event)

    def look(self, width: int, height: int, scheme: str = "light", scale: float = 1) -> None:
        """Size of the window, color scheme, and pixels per CSS pixel."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.send("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Write a PNG of the window, or of the whole page."""
        taken = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))

    def close(self) -> None:
        """End the browser and remove its profile."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._profile, ignore_errors=True)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _receive(self, deadline: float, what: str) -> None:
        ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"the browser did not answer {what}"
        read = os.read(self._in, 1 << 16)
        assert read, f"the browser ended during {what}"
        *messages, self._unread = (self._unread + read).split(b"\0")
        for message in messages:
            self._take(json.loads(message))

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._replies[message["id"]] = message
            return
        method, said = message["method"], message["params"]
        if method == "Network.requestWillBeSent":
            # A data: address holds its content itself; the browser's own icons are such.
            if not said["request"]["url"].startswith("data:"):
                self.requests.append(said["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(f"exception: {said['exceptionDetails']}")
        elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.complaints.append(f"console: {said['args']}")
        elif method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"log: {said['entry']['text']} {said['entry'].get('url', '')}")
        elif method == "Audits.issueAdded":
            self.complaints.append(f"issue: {said['issue']['code']} {said['issue']['details']}")
