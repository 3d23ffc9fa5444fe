"""Headless Chromium for tests, spoken to over its pipe: no driver and no port is needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
                None)
TEST_SECONDS = 20


class Page:
    """One page of a browser. complaints: errors and warnings of its console, and what its policy refused."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._left, self._number, self._session = write, read, b"", 0, ""
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """Send one command and return its result; events that come before it are looked at."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            more = os.read(self._read, 2**16)
            assert more, "the browser is gone"
            self._left += more
        message, _, self._left = self._left.partition(b"\0")
        event = json.loads(message)
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        if event.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])
        if event.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(params["args"]))
        return event

    def open(self, address: str) -> None:
        """Load a page, and wait until all of it is there."""
        self.call("Page.navigate", url=address)
        self.run("new Promise(done => { const wait = () => document.readyState === 'complete' && "
                 f"location.href.startsWith({json.dumps(address)}) ? done(1) : setTimeout(wait, 20); wait(); }})")

    def run(self, source: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=source, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press and release a key, as a person at the keyboard does."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)


@contextmanager
def browser_page() -> Iterator[Page]:
    """Context manager: a page of a fresh browser, which is ended afterwards."""
    assert CHROMIUM, "the caller skips without it"
    to_read, to_write = os.pipe(), os.pipe()

    def take_pipes() -> None:
        # it reads commands from 3 and writes answers to 4
        os.dup2(to_read[0], 30)
        os.dup2(to_write[1], 31)
        os.dup2(30, 3)
        os.dup2(31, 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
                 "--disable-dev-shm-usage", "--window-size=1280,900", f"--user-data-dir={Path(profile)}"]
        running = subprocess.Popen(words, close_fds=False, preexec_fn=take_pipes, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, env={**os.environ, "HOME": profile})
        os.close(to_read[0])
        os.close(to_write[1])
        try:
            yield Page(to_read[1], to_write[0])
        finally:
            running.terminate()
            with suppress(subprocess.TimeoutExpired):
                running.wait(TEST_SECONDS)
            running.kill()
            running.wait()
            os.close(to_read[1])
            os.close(to_write[0])
