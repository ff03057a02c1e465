"""A headless Chromium, controlled over its DevTools Protocol.

Specification: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse

FOUND = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
"""The path of a Chromium that is installed here; ``None`` if there is none."""

PATIENCE = 60  # s, for the start of the browser, and for a response


class Page:
    """One tab. Its scripts' names are those that ``evaluate`` sees."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.errors: list[str] = []
        """The exceptions and the console's errors so far."""

    async def open(self, url: str) -> None:
        """Go to an address, in a new tab, and wait until it is loaded."""
        target = await self._call("Target.createTarget", url="about:blank")
        attached = await self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self._call(f"{domain}.enable")
        await self._call("Page.navigate", url=url)
        await self._message(lambda message: message.get("method") == "Page.loadEventFired")

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression, once it is settled if it is a promise."""
        done = await self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def until(self, condition: str) -> None:
        """Wait until an expression is true on the page."""
        look = f"const look = () => ({condition}) ? resolve() : setTimeout(look, 5); look()"
        await self.evaluate(f"new Promise(resolve => {{ {look} }})")

    async def press(self, key: str, text: str = "", *, shift: bool = False) -> None:
        """Press a key, such as ``Enter``."""
        code = {"Enter": 13, "Escape": 27, "ArrowDown": 40, "ArrowUp": 38, "Tab": 9, " ": 32}.get(key, 0)
        shared = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        text = text or {"Enter": "\r"}.get(key, "")
        await self._call("Input.dispatchKeyEvent", type="keyDown", **shared, **({"text": text} if text else {}))
        await self._call("Input.dispatchKeyEvent", type="keyUp", **shared)

    async def write(self, text: str) -> None:
        """Write into the element that has the focus."""
        await self._call("Input.insertText", text=text)

    async def look(self, *, width: int = 1280, height: int = 800, dark: bool = False) -> None:
        """Give the page a size, and a system that is dark or light."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        await self._call("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self._call("Emulation.setEmulatedMedia", features=[scheme])

    async def choose_file(self, selector: str, path: str) -> None:
        """Choose a file in an input."""
        root = (await self._call("DOM.getDocument"))["root"]["nodeId"]
        node = (await self._call("DOM.querySelector", nodeId=root, selector=selector))["nodeId"]
        await self._call("DOM.setFileInputFiles", nodeId=node, files=[path])

    async def screenshot(self) -> bytes:
        """What the page shows, as PNG."""
        return base64.b64decode((await self._call("Page.captureScreenshot", format="png"))["data"])

    async def _call(self, method: str, **parameters: Any) -> Any:
        """The result of one command."""
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": parameters}
        await self._socket.send_json(command if self._session is None else {**command, "sessionId": self._session})
        response = await self._message(lambda message: message.get("id") == number)
        assert "result" in response, (method, response)
        return response["result"]

    async def _message(self, matches: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next message that matches; others are dropped."""
        async with asyncio.timeout(PATIENCE):
            while True:
                message: dict[str, Any] = json.loads(await self._socket.receive_str())
                self._note(message)
                if matches(message):
                    return message

    def _note(self, message: dict[str, Any]) -> None:
        """Keep the errors of the page."""
        details = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                thrown = details["exceptionDetails"]
                self.errors.append(thrown.get("exception", {}).get("description", thrown["text"]))
            case "Log.entryAdded" if details["entry"]["level"] == "error":
                self.errors.append(f"{details['entry']['text']} {details['entry'].get('url', '')}")
            case "Runtime.consoleAPICalled" if details["type"] == "error":
                self.errors.append(str(details["args"]))


@asynccontextmanager
async def page(url: str, *options: str) -> AsyncIterator[Page]:
    """A tab at an address, in a browser of its own, with these options, that is gone afterwards."""
    assert FOUND is not None
    with tempfile.TemporaryDirectory(prefix="rowcast-browser-", ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            FOUND, "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}",
            "--no-sandbox", "--no-first-run", "--no-proxy-server", "--disable-gpu", "--disable-dev-shm-usage",
            "--disable-background-networking", *options, "about:blank",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            assert process.stderr is not None
            async with asyncio.timeout(PATIENCE):
                while not (line := (await process.stderr.readline()).decode()).startswith("DevTools listening on "):
                    assert line, "Chromium ended"
            async with ClientSession() as client, client.ws_connect(line.split()[-1], max_msg_size=0) as socket:
                tab = Page(socket)
                await tab.open(url)
                yield tab
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()
