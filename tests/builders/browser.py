"""A real Chromium (Debian's), driven over its debugging protocol: pages as people see them."""

import asyncio
import base64
import itertools
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

START_SECONDS = 60.0
CALL_SECONDS = 60.0


class Page:
    """One page; `errors` is what it wrote to its console as errors."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.errors: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(CALL_SECONDS):
            while True:
                message = await self._socket.receive_json()
                if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                    self.errors.append(message["params"]["entry"]["text"])
                if message.get("method") == "Runtime.exceptionThrown":
                    self.errors.append(str(message["params"]["exceptionDetails"]))
                if message.get("id") == number:
                    assert "error" not in message, message
                    result: dict[str, Any] = message["result"]
                    return result

    async def open(self, address: str, *, width: int, height: int) -> None:
        for domain in ("Page", "Log", "Runtime"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        await self.call("Page.navigate", url=address)

    async def value(self, expression: str) -> Any:
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def wait_for(self, expression: str, seconds: float = 20.0) -> None:
        async with asyncio.timeout(seconds):
            while not await self.value(f"Boolean({expression})"):
                await asyncio.sleep(0.1)

    async def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    async def screenshot(self, file: Path) -> None:
        taken = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(taken["data"]))


@asynccontextmanager
async def a_page(folder: Path) -> AsyncIterator[Page]:
    """A page of a browser of its own, which ends with the context."""
    program = shutil.which("chromium")
    assert program, "chromium is not installed: apt-get install chromium"
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0")
    with (folder / "chromium.log").open("wb") as log:
        browser = await asyncio.create_subprocess_exec(
            program, *options, f"--user-data-dir={folder / 'profile'}", "about:blank", stdout=log, stderr=log
        )
    try:
        port_file = folder / "profile" / "DevToolsActivePort"
        async with asyncio.timeout(START_SECONDS):
            while not port_file.exists() or not port_file.read_text().strip():
                await asyncio.sleep(0.1)
        port = port_file.read_text().split()[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                target = next(one for one in await answer.json() if one["type"] == "page")
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Page(socket)
    finally:
        browser.terminate()
        try:
            await asyncio.wait_for(browser.wait(), 20)
        except TimeoutError:
            browser.kill()
            await browser.wait()
