"""The page in a real Chromium against the real service: one process of each for all tests.

Nothing here is async: the service is another process, and the fake servers are threads.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[2]
START_DEADLINE = 20.0  # seconds
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_FLAGS = [
    "--no-sandbox",  # root in a container has no namespaces to build a sandbox of
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """The base URL of `echo:app` under Hypercorn."""
    port = free_port()
    command = [sys.executable, "-m", "hypercorn", "-k", "trio", "-b", f"127.0.0.1:{port}"]
    with subprocess.Popen([*command, "echo:app"], cwd=ROOT) as process:
        try:
            wait_until_it_answers(process, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if executable is None:
        pytest.skip(f"no Chromium: none of {', '.join(CHROMIUM_NAMES)} is on the PATH")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def faults() -> list[str]:
    """What the browser's console said and what scripts threw; `page` fills it."""
    return []


@pytest.fixture
def page(browser: Browser, service: str, faults: list[str]) -> Iterator[Page]:
    """The loaded page at a desktop's size."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: faults.append(f"thrown: {error}"))
    page.goto(service)
    yield page
    context.close()


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that takes the connection and never answers the handshake."""
    with peer(answers=False) as url:
        yield url


@pytest.fixture
def stubborn_server() -> Iterator[str]:
    """A server that takes the first subprotocol, and then neither echoes nor closes."""
    with peer(answers=True) as url:
        yield url


@contextmanager
def peer(*, answers: bool) -> Iterator[str]:
    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener, connections, answers))
        thread.start()
        try:
            yield f"ws://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() would not
            thread.join(10)
            for connection in connections:
                connection.close()


def serve(listener: socket.socket, connections: list[socket.socket], answers: bool) -> None:
    with suppress(OSError):  # the listener's end
        while True:
            connection, _ = listener.accept()
            connections.append(connection)
            if answers:
                connection.sendall(handshake(connection.recv(65536).decode()))


def handshake(request: str) -> bytes:
    def header(name: str) -> str:
        found = re.search(rf"^{name}: *([^,\r]*)", request, re.IGNORECASE | re.MULTILINE)
        return found[1] if found else ""

    magic = header("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    digest = hashlib.sha1(magic.encode(), usedforsecurity=False).digest()
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}",
    ]
    if protocol := header("Sec-WebSocket-Protocol"):
        lines.append(f"Sec-WebSocket-Protocol: {protocol}")
    return "\r\n".join([*lines, "", ""]).encode()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_it_answers(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_DEADLINE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"the service ended at once, with {process.returncode}")
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    pytest.fail(f"the service did not answer within {START_DEADLINE:.0f} s")
