"""What is answered while the process drains: come back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import hypercorn.trio
import pytest
import trio
from hypercorn.config import Config

from echo.application import create_app
from echo.hosting.lifecycle import Lifecycle
from echo.settings import Settings
from tests.harness import KEY


@asynccontextmanager
async def service(lifecycle: Lifecycle) -> AsyncIterator[int]:
    """The service under Hypercorn, and its port."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    ended = trio.Event()

    async def serve(task_status: trio.TaskStatus[list[str]]) -> None:
        await hypercorn.trio.serve(
            create_app(Settings(), lifecycle),
            config,
            shutdown_trigger=ended.wait,
            task_status=task_status,
        )

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            binds = await nursery.start(serve)
            yield int(binds[0].rpartition(":")[2])
            ended.set()


async def ask(port: int, path: str, *headers: str) -> tuple[int, list[str], str]:
    """Status, headers and body of the answer."""
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all("\r\n".join(lines).encode())
        answer = b""
        async for data in stream:
            answer += data
    head, _, body = answer.decode().partition("\r\n\r\n")
    status, *rest = head.lower().split("\r\n")
    return int(status.split()[1]), rest, body


CLOSE = "Connection: close"
HANDSHAKE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    f"Sec-WebSocket-Key: {KEY.decode()}",
    "Sec-WebSocket-Version: 13",
)


async def test_while_it_drains_it_is_alive_but_not_ready() -> None:
    lifecycle = Lifecycle()
    async with service(lifecycle) as port:
        assert (await ask(port, "/readyz", CLOSE))[0] == 200
        assert not lifecycle.draining
        worker = lifecycle.worker
        assert worker is not None
        # Hypercorn, in this test, still takes connections.
        worker.nursery.start_soon(worker.drain, 3.0)
        await worker.shutting_down.wait()
        status, headers, body = await ask(port, "/readyz", CLOSE)
        assert (status, json.loads(body)) == (503, {"status": "draining"})
        assert "retry-after: 1" in headers and "cache-control: no-store" in headers
        status, _, body = await ask(port, "/healthz", CLOSE)
        assert (status, json.loads(body)) == (200, {"status": "ok"})
        for path in ("/", "/whoami", "/ticks", "/nowhere"):
            status, headers, body = await ask(port, path, CLOSE)
            assert status == 503
            assert "retry-after: 1" in headers
            assert body == "The server is shutting down.\n"
        status, headers, _ = await ask(port, "/ws", *HANDSHAKE)
        assert status == 503
        assert "retry-after: 1" in headers


@pytest.mark.parametrize("path", ["/healthz", "/"])
async def test_without_a_process_that_asks_it_works_as_well(path: str) -> None:
    async with create_app(Settings()).test_app() as app:
        response = await app.test_client().get(path)
        assert response.status_code == 200
