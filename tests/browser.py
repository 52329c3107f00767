"""Headless Chromium driven over its DevTools protocol, for looking at the page as a person would."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

from tests.patience import OutOfPatienceError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --use-angle=swiftshader --enable-unsafe-swiftshader "
    "--disable-background-networking --disable-component-update --disable-sync --no-first-run "
    "--remote-debugging-port=0 --window-size=1500,900"
).split()
_AWAY = (
    "Inspected target navigated or closed",
    "Execution context was destroyed.",
    "Cannot find context with specified id",
)


class NavigatedError(AssertionError):
    """The page went away while it was being asked; the next one can answer."""


class Browser:
    """One page; use as an async context manager."""

    def __init__(self) -> None:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._number = 0
        self.errors: list[str] = []

    async def __aenter__(self) -> Browser:
        assert CHROMIUM
        command = [CHROMIUM, *_FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        marker = Path(self._profile.name) / "DevToolsActivePort"
        for _ in range(300):
            if marker.exists() and len(marker.read_text().splitlines()) >= 2:
                break
            await asyncio.sleep(0.1)
        port = marker.read_text().splitlines()[0]
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            target = next(t for t in await answer.json() if t["type"] == "page")
        self._socket = await self._session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=1 << 28)
        await self.call("Runtime.enable")
        await self.call("Log.enable")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._socket.close()
        await self._session.close()
        self._process.kill()
        self._process.wait()
        self._profile.cleanup()

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One DevTools command and its result."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = json.loads((await self._socket.receive(timeout=60)).data)
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(message["params"]["exceptionDetails"])[:500])
            if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.errors.append(message["params"]["entry"]["text"])
            if message.get("id") == self._number:
                if message.get("error", {}).get("message") in _AWAY:
                    raise NavigatedError(message)
                assert "error" not in message, message
                return dict(message["result"])

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)

    async def reload(self) -> None:
        """The page again, and nothing of the one before."""
        await self.evaluate("window.before = true")
        await self.call("Page.reload")
        await self.wait_for("!window.before")

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression.

        Raises:
            NavigatedError: The page was left before it answered.
        """
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return result["result"].get("value")

    async def wait_for(self, expression: str, timeout_s: float = 60.0) -> None:
        """Until a JavaScript expression is true, on this page or the one that takes its place."""
        for _ in range(int(timeout_s / 0.1)):
            with contextlib.suppress(NavigatedError):
                if await self.evaluate(expression):
                    return
            await asyncio.sleep(0.1)
        raise OutOfPatienceError(f"not true within {timeout_s} s: {expression}")

    async def screenshot(self, path: Path) -> None:
        result = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(result["data"]))
