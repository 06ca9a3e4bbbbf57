"""Headless Chromium, spoken to through its DevTools protocol; CHROMIUM may name it."""

import asyncio
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from tornado.websocket import WebSocketClientConnection

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-background-networking "
    "--disable-component-update --no-first-run --remote-debugging-port=0"
).split()


class Page:
    """A tab, spoken to through the DevTools protocol."""

    def __init__(self, socket: WebSocketClientConnection) -> None:
        self.socket = socket
        self.messages: list[str] = []
        self._number = 0
        self._loaded = False

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params}
        await self.socket.write_message(json.dumps(message))
        while True:
            answer = await self._next()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    async def _next(self) -> dict[str, Any]:
        text = await asyncio.wait_for(self.socket.read_message(), 60)
        message: dict[str, Any] = json.loads(text)
        method, params = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        if method == "Runtime.exceptionThrown":
            self.messages.append(str(params["exceptionDetails"].get("text")))
        if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.messages.append(f"console.{params['type']}")
        if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.messages.append(params["entry"]["text"])
        return message

    async def open(self, url: str) -> None:
        self._loaded = False
        await self.call("Page.navigate", url=url)
        while not self._loaded:
            await self._next()

    async def value(self, expression: str) -> Any:
        answer = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    async def press(self, key: str) -> None:
        code = {"Enter": 13, "Tab": 9, "Escape": 27}.get(key, 0)
        code = code or {"ArrowDown": 40, "ArrowUp": 38, "ArrowRight": 39, "ArrowLeft": 37}.get(
            key, 0
        )
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        event = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **event)


def browser(home: str) -> tuple[subprocess.Popen[bytes], int]:
    """Chromium with a profile of its own, and the port that it listens on."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        raise SystemExit("there is no Chromium; install it, or name it in CHROMIUM")
    process = subprocess.Popen(
        [found, *FLAGS, f"--user-data-dir={home}", "about:blank"], stderr=subprocess.DEVNULL
    )
    port = Path(home) / "DevToolsActivePort"
    for _ in range(300):
        if port.exists() and port.read_text().strip():
            return process, int(port.read_text().split()[0])
        time.sleep(0.1)
    process.terminate()
    raise SystemExit("Chromium did not start within 30 s")


def version() -> str:
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    return subprocess.run([str(found), "--version"], capture_output=True, text=True).stdout.strip()
