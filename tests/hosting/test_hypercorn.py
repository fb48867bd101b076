"""The seam: Hypercorn's private names are where we look for them, and HTTP/2 stays whole."""

from __future__ import annotations

import ast
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import h2.events
import hypercorn.protocol
import hypercorn.protocol.h2
import hypercorn.protocol.h11
import hypercorn.trio.run
import pytest
import trio
import trio.testing
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h2 import BUFFER_HIGH_WATER, H2Protocol, StreamBuffer
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import Handshake, WSStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer

import echo.hosting.hypercorn as seam
from echo.hosting.hypercorn.connection import Connection
from echo.hosting.hypercorn.http2 import Protocol
from echo.hosting.hypercorn.stream import Stream
from echo.websocket import WebSocket, WebSocketOptions
from tests.harness import Peer, Service, serve
from tests.http2 import Http2Connection, Http2Tunnel

# The names of Hypercorn 0.18


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (WSStream, ("closed", "config", "context", "handshake", "scope", "send", "stream_id")),
        (HTTPStream, ("config", "context")),
        (Handshake, ("extensions",)),
        (H11Protocol, ("send",)),
        (H2Protocol, ("connection", "send", "stream_buffers", "streams")),
        (StreamBuffer, ("buffer",)),
        (TCPServer, ("app", "config", "context", "protocol", "send_lock", "state", "stream")),
        (ProtocolWrapper, ("protocol",)),
        (H11Protocol, ("keep_alive_requests",)),
    ],
)
def test_the_attributes_that_we_touch_are_set(kind: type, names: tuple[str, ...]) -> None:
    code = ast.parse(inspect.getsource(kind))
    assigned = {
        node.attr
        for node in ast.walk(code)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    assert set(names) <= assigned


@pytest.mark.parametrize(
    ("kind", "name", "parameters"),
    [
        (WSStream, "app_send", ["self", "message"]),
        (WSStream, "_send_error_response", ["self", "status_code"]),
        (HTTPStream, "app_send", ["self", "message"]),
        (H11Protocol, "stream_send", ["self", "event"]),
        (H2Protocol, "stream_send", ["self", "event"]),
        (H2Protocol, "_create_stream", ["self", "request"]),
        (H2Protocol, "_send_data", ["self", "stream_id"]),
        (H2Protocol, "_handle_events", ["self", "events"]),
        (H2Protocol, "_flush", ["self"]),
        (TCPServer, "protocol_send", ["self", "event"]),
        (TCPServer, "run", ["self"]),
        (TCPServer, "_read_data", ["self"]),
        (TCPServer, "_idle_timeout", ["self"]),
        (TCPServer, "_initiate_server_close", ["self"]),
        (ProtocolWrapper, "handle", ["self", "event"]),
        (TaskGroup, "spawn_app", ["self", "app", "config", "scope", "send"]),
    ],
)
def test_the_methods_that_we_call_or_override_take_what_we_give(
    kind: type, name: str, parameters: list[str]
) -> None:
    method = getattr(kind, name)
    assert inspect.iscoroutinefunction(method)
    assert list(inspect.signature(method).parameters) == parameters


def test_the_classes_that_we_replace_are_looked_up_where_we_replace_them() -> None:
    seam.install()
    assert hypercorn.protocol.h11.__dict__["WSStream"] is Stream
    assert hypercorn.protocol.h2.__dict__["WSStream"] is Stream
    assert hypercorn.protocol.__dict__["H2Protocol"] is Protocol
    assert hypercorn.trio.run.__dict__["TCPServer"] is Connection
    assert "TCPServer," in inspect.getsource(hypercorn.trio.run)
    assert "WSStream(" in inspect.getsource(H11Protocol)
    assert "WSStream(" in inspect.getsource(H2Protocol)
    assert "H2Protocol(" in inspect.getsource(hypercorn.protocol.ProtocolWrapper)
    assert isinstance(BUFFER_HIGH_WATER, int)


# Several streams of one HTTP/2 connection


async def echo_all(socket: WebSocket) -> None:
    async for message in socket:
        await socket.send(message)


@asynccontextmanager
async def connection_of(service: Service) -> AsyncIterator[Http2Connection]:
    """The connection on which the next tunnels are opened."""
    tunnel = await service.open_stream()
    yield tunnel.connection
    await trio.aclose_forcefully(tunnel.connection.stream)


async def open_peer(connection: Http2Connection) -> Peer:
    peer = Peer(Http2Tunnel(connection))
    await peer.shake_hands()
    return peer


async def check(peer: Peer) -> None:
    with trio.fail_after(3):
        await peer.send(0x81, b"alive")
        assert await peer.receive() == (0x81, b"alive")


class Listener:
    """Notes what comes for one stream of a connection."""

    def __init__(self, connection: Http2Connection) -> None:
        self.connection = connection
        self.stream_id = connection.h2.get_next_available_stream_id()
        self.events: list[Any] = []
        connection.tunnels[self.stream_id] = self  # type: ignore[assignment]

    def take(self, event: Any) -> None:
        self.events.append(event)

    def changed(self) -> None:
        pass

    def end(self) -> None:
        pass

    async def ask(self, *headers: tuple[str, str], end: bool = False) -> None:
        self.connection.h2.send_headers(self.stream_id, list(headers), end_stream=end)
        await self.connection.flush()
        await trio.testing.wait_all_tasks_blocked(0.01)

    @property
    def status(self) -> str | None:
        for event in self.events:
            if isinstance(event, h2.events.ResponseReceived):
                return dict((str(k), str(v)) for k, v in event.headers or [])[":status"]
        return None


PROXY = ((":method", "CONNECT"), (":authority", "example.org:443"))
OTHER = (
    (":method", "CONNECT"),
    (":protocol", "connect-udp"),
    (":scheme", "http"),
    (":path", "/ws"),
    (":authority", "localhost"),
)


@pytest.mark.parametrize("headers", [PROXY, OTHER], ids=["none", "another"])
async def test_a_connect_for_no_websocket_gets_501_and_the_connection_lives(
    headers: tuple[tuple[str, str], ...],
) -> None:
    async with serve(echo_all, "http2") as service, connection_of(service) as connection:
        peer = await open_peer(connection)
        listener = Listener(connection)
        await listener.ask(*headers)
        assert listener.status == "501"
        await check(peer)


async def test_a_connect_that_is_reset_at_once_does_not_take_down_the_others() -> None:
    async with serve(echo_all, "http2") as service, connection_of(service) as connection:
        peer = await open_peer(connection)
        listener = Listener(connection)
        connection.h2.send_headers(listener.stream_id, list(PROXY))
        connection.h2.reset_stream(listener.stream_id)
        await connection.flush()
        await trio.testing.wait_all_tasks_blocked(0.01)
        await check(peer)


async def test_data_for_a_stream_that_has_ended_does_not_take_down_the_others() -> None:
    async with serve(echo_all, "http2") as service, connection_of(service) as connection:
        peer = await open_peer(connection)
        listener = Listener(connection)
        await listener.ask(
            (":method", "POST"), (":scheme", "http"), (":path", "/none"), (":authority", "x")
        )
        assert listener.status == "404"
        for _ in range(3):
            try:
                connection.h2.send_data(listener.stream_id, b"x" * 1000)
            except h2.exceptions.ProtocolError:  # the server has ended the stream for good
                break
            await connection.flush()
        await check(peer)


async def test_data_after_the_socket_of_a_stream_was_aborted_does_not_take_down_the_others() -> (
    None
):
    async def handler(socket: WebSocket) -> None:
        async for message in socket:
            if message == "abort":
                socket.abort()
            await socket.send(message)

    async with serve(handler, "http2") as service, connection_of(service) as connection:
        peer = await open_peer(connection)
        doomed = await open_peer(connection)
        await doomed.send_raw(b"".join((b"\x81\x85\0\0\0\0abort", b"\x88\x82\0\0\0\0\x03\xe8")))
        await trio.testing.wait_all_tasks_blocked(0.01)
        await check(peer)


async def test_a_stream_with_a_full_inbox_does_not_stall_another_of_its_connection() -> None:
    go = trio.Event()
    sizes: list[int] = []

    async def handler(socket: WebSocket) -> None:
        if await socket.receive() != "slow":
            await socket.send("quick")
            await echo_all(socket)
            return
        await go.wait()
        sizes.extend([len(await socket.receive()) for _ in range(40)])
        await socket.send("all")

    options = WebSocketOptions(inbox_size=65_536)
    async with (
        serve(handler, "http2", options=options) as service,
        connection_of(service) as connection,
        trio.open_nursery() as nursery,
    ):
        slow = await open_peer(connection)
        quick = await open_peer(connection)
        await slow.send(0x81, b"slow")
        await quick.send(0x81, b"quick")
        assert await quick.receive() == (0x81, b"quick")

        async def pour() -> None:
            for _ in range(40):
                await slow.send(0x82, b"x" * 10_000)

        nursery.start_soon(pour)
        await trio.testing.wait_all_tasks_blocked(0.05)
        for _ in range(20):
            await check(quick)
        # Another stream may still send more than the connection's window in all.
        for _ in range(20):
            await quick.send(0x82, b"y" * 10_000)
            assert await quick.receive() == (0x82, b"y" * 10_000)
        go.set()
        while await slow.receive() != (0x81, b"all"):
            pass
        assert sizes == [10_000] * 40
