"""The drain: when each socket is told, with which code, and that none is forgotten."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed as ClientClosed

from echo.websocket import WebSocket, accept
from tests.harness import KEY, Service, serve


async def echo_all(socket: WebSocket) -> None:
    async for message in socket:
        await socket.send(message)


class Clients:
    """Clients that note when and how they are told to leave."""

    def __init__(self) -> None:
        self.told: list[tuple[float, int, int]] = []
        """Time, number of the client, close code."""

    async def hold(self, service: Service, number: int, task_status: trio.TaskStatus) -> None:
        async with service.connect() as client:
            task_status.started()
            try:
                await client.get_message()
            except ClientClosed as closed:
                assert closed.reason is not None
                self.told.append((trio.current_time(), number, closed.reason.code))

    async def open(self, nursery: trio.Nursery, service: Service, count: int) -> None:
        for number in range(count):
            await nursery.start(self.hold, service, number)


async def test_close_frames_are_spread_evenly_in_random_order() -> None:
    clients = Clients()
    async with serve(echo_all) as service, trio.open_nursery() as nursery:
        await clients.open(nursery, service, 20)
        worker = service.middleware.worker
        worker.shutdown_spread = 1.0
        worker.shutdown_code = 1012
        begun = trio.current_time()
        service.shut_down()
    times = [time - begun for time, _, _ in clients.told]
    order = [number for _, number, _ in clients.told]
    assert {code for _, _, code in clients.told} == {1012}
    assert sorted(order) == list(range(20)) != order
    assert times[0] < 0.5
    assert 0.9 < times[-1] < 2
    assert max(late - early for early, late in itertools.pairwise(times)) < 0.5


async def test_the_spread_leaves_time_in_the_grace_period_for_the_answers() -> None:
    clients = Clients()
    async with serve(echo_all, grace=1.0) as service, trio.open_nursery() as nursery:
        await clients.open(nursery, service, 10)
        service.middleware.worker.shutdown_spread = 60
        service.shut_down()
    assert len(clients.told) == 10
    assert {code for _, _, code in clients.told} == {1001}


async def test_a_socket_whose_handshake_was_under_way_is_told_at_once() -> None:
    go = trio.Event()
    async with serve(echo_all, "tcp") as service:

        @service.app.websocket("/slow")
        async def slow() -> None:
            await go.wait()
            async with accept() as socket:
                await echo_all(socket)

        stream = await service.open_stream()
        await stream.send_all(
            b"GET /slow HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: " + KEY + b"\r\n\r\n"
        )
        await trio.sleep(0.1)
        service.shut_down()
        await service.middleware.shutting_down()
        go.set()
        begun = trio.current_time()
        received = b""
        while b"\x88\x13\x03\xe9" not in received:  # 1001
            data = await stream.receive_some(4096)
            assert data, received
            received += data
        assert trio.current_time() - begun < 1
        await stream.send_all(b"\x88\x82\0\0\0\0\x03\xe9")
        await trio.aclose_forcefully(stream)


async def test_who_connected_just_before_the_end_is_served() -> None:
    async with serve(echo_all, "tcp") as service:
        stream = await service.open_stream()
        await trio.sleep(0.1)
        service.shut_down()
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: " + KEY + b"\r\n\r\n"
        )
        assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 101")
        await trio.aclose_forcefully(stream)


class Defective:
    """A transport with a defect of ours in it."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    async def send_all(self, data: bytes) -> None:
        raise LookupError("on purpose")


async def test_a_defect_at_one_socket_ends_only_that_one(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(socket: WebSocket) -> None:
        carrier: Any = socket.carrier
        async for message in socket:
            if message == "break":
                carrier._transport = Defective(carrier._transport)
            await socket.send(message)

    async with serve(handler, "memory") as service, service.connect() as good:
        async with service.connect() as bad:
            await bad.send_message("break")
            with pytest.raises(ClientClosed), trio.fail_after(5):
                await bad.get_message()
        await good.send_message("still here")
        assert await good.get_message() == "still here"
    assert "A task of a WebSocket failed" in caplog.text
