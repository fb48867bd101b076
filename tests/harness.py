"""The service under test: a Quart-Trio app with one handler, served by Hypercorn's Trio server.

`serve()` puts it on any of the carriers, in this process, so that a test sees both ends.
Clients are trio-websocket, or `Peer`, which sends whatever bytes it likes.
"""

from __future__ import annotations

import os
import ssl
import struct
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import hypercorn.trio
import trio
import trio.testing
import trio_websocket
import trustme
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from quart_trio import QuartTrio

from echo.hosting.hypercorn.connection import Connection
from echo.websocket import WebSocket, WebSocketMiddleware, WebSocketOptions, accept, use_websockets
from tests.http2 import Http2Tunnel

Handler = Callable[[WebSocket], Awaitable[None]]

CARRIERS = ("tcp", "reused", "portable", "unix", "tls", "memory", "http2", "asgi")
"""TCP on the reactor and off it, and everything else a socket can ride on.

On "reused" the connection has served another request before, as one of a proxy's may have.
"""

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="


class Service:
    """A served app; `connect()` and `peer()` are its clients."""

    def __init__(self, app: QuartTrio, middleware: WebSocketMiddleware) -> None:
        self.app = app
        self.middleware = middleware
        self.open_stream: Callable[[], Awaitable[Any]]
        self.shut_down: Callable[[], None]
        self.over = trio.Event()
        """Set when the server has ended."""

    @asynccontextmanager
    async def connect(self, **options: Any) -> AsyncIterator[trio_websocket.WebSocketConnection]:
        stream = await self.open_stream()
        try:
            async with trio.open_nursery() as nursery:
                connection = await trio_websocket.wrap_client_stream(
                    nursery, stream, "localhost", "/ws", max_message_size=1 << 26, **options
                )
                async with connection:
                    yield connection
                nursery.cancel_scope.cancel()
        finally:
            await trio.aclose_forcefully(stream)

    @asynccontextmanager
    async def peer(self, *headers: str) -> AsyncIterator[Peer]:
        peer = Peer(await self.open_stream())
        await peer.shake_hands(*headers)
        try:
            yield peer
        finally:
            await trio.aclose_forcefully(peer.stream)


class Peer:
    """A client that does as it is told, right or wrong."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self._buffer = bytearray()

    async def shake_hands(self, *headers: str) -> None:
        lines = [
            "GET /ws HTTP/1.1",
            "Host: localhost",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {KEY.decode()}",
            "Sec-WebSocket-Version: 13",
            *headers,
        ]
        await self.stream.send_all("\r\n".join([*lines, "", ""]).encode())
        self.response = (await self._until(b"\r\n\r\n")).decode()
        assert self.response.startswith("HTTP/1.1 101"), self.response

    async def send(self, first: int, payload: bytes, mask: bytes = b"\x01\x02\x03\x04") -> None:
        await self.stream.send_all(frame(first, payload, mask))

    async def send_raw(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def receive(self) -> tuple[int, bytes]:
        """The next frame: its first byte and its payload."""
        first, length = await self._exactly(2)
        if length == 126:
            (length,) = struct.unpack("!H", await self._exactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await self._exactly(8))
        return first, await self._exactly(length)

    async def receive_close(self) -> tuple[int, str]:
        """The close frame, past whatever comes before it."""
        while True:
            first, payload = await self.receive()
            if first == 0x88:
                if not payload:
                    return 1005, ""
                return int.from_bytes(payload[:2], "big"), payload[2:].decode()

    async def receive_eof(self) -> None:
        """Read until the server has ended the connection, however it does."""
        try:
            while await self.stream.receive_some(65536):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _more(self) -> None:
        data = await self.stream.receive_some(65536)
        if not data:
            raise EOFError("the server has ended the connection")
        self._buffer += data

    async def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            await self._more()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def _until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            await self._more()
        return await self._exactly(self._buffer.index(end) + len(end))


def frame(first: int, payload: bytes, mask: bytes | None = b"\x01\x02\x03\x04") -> bytes:
    """A frame as a client sends it; without a mask, as it must not."""
    bit = 0x80 if mask is not None else 0
    length = len(payload)
    if length < 126:
        header = struct.pack("!BB", first, bit | length)
    elif length < 65536:
        header = struct.pack("!BBH", first, bit | 126, length)
    else:
        header = struct.pack("!BBQ", first, bit | 127, length)
    if mask is None:
        return header + payload
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return header + mask + masked


def make_app(
    handler: Handler,
    options: WebSocketOptions,
    *,
    reactor: bool = True,
    accept_options: dict[str, Any] | None = None,
) -> tuple[QuartTrio, WebSocketMiddleware]:
    app = QuartTrio("test")
    middleware = use_websockets(app, options, reactor=reactor)

    @app.websocket("/ws")
    async def ws() -> None:
        async with accept(**accept_options or {}) as socket:
            await handler(socket)

    return app, middleware


@asynccontextmanager
async def serve(
    handler: Handler,
    carrier: str = "memory",
    *,
    options: WebSocketOptions | None = None,
    accept_options: dict[str, Any] | None = None,
    grace: float = 3.0,
    lockstep: bool = False,
) -> AsyncIterator[Service]:
    """Serve the handler at /ws on a carrier.

    Args:
        lockstep: let a memory stream hold no bytes, so that a peer that does not read is felt.
    """
    app, middleware = make_app(
        handler,
        options or WebSocketOptions(),
        reactor=carrier not in ("portable",),
        accept_options=accept_options,
    )
    service = Service(app, middleware)
    application: Any = app
    if carrier == "asgi":
        application = _without_seam(app)
    config = Config()
    config.graceful_timeout = grace
    config.errorlog = None
    if carrier in ("memory", "http2", "asgi"):
        serving = _serve_memory(service, application, config, carrier, lockstep)
    else:
        serving = _serve_socket(service, application, config, carrier)
    # A test that hangs has failed.
    with trio.fail_after(20):
        async with serving:
            yield service


def _without_seam(app: Any) -> Any:
    """Hide Hypercorn's `send` behind another, as a foreign middleware does."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        async def hidden(message: Any) -> None:
            await send(message)

        await app(scope, receive, hidden)

    return wrapped


class _MemorySocket:
    family = trio.socket.AF_INET

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 80)

    def getpeername(self) -> tuple[str, int]:
        return ("127.0.0.1", 9)


@asynccontextmanager
async def _serve_memory(
    service: Service, app: Any, config: Config, carrier: str, lockstep: bool
) -> AsyncIterator[None]:
    """Hypercorn's own server on `trio.testing.memory_stream_pair`, and its lifespan."""
    wrapper = ASGIWrapper(app)
    lifespan = Lifespan(wrapper, config, {})
    context = WorkerContext(None)
    async with trio.open_nursery() as lifespan_nursery:
        await lifespan_nursery.start(lifespan.handle_lifespan)
        await lifespan.wait_for_startup()
        async with trio.open_nursery() as nursery:

            async def open_stream() -> Any:
                # The lockstep pair holds nothing back: its sender waits for the receiver.
                make = (
                    trio.testing.lockstep_stream_pair
                    if lockstep and carrier != "http2"  # which has windows of its own
                    else trio.testing.memory_stream_pair
                )
                server: Any  # Hypercorn names TLS streams only, and asks plain ones for a socket
                client, server = make()
                server.socket = _MemorySocket()

                async def run() -> None:
                    await Connection(wrapper, config, context, ConnectionState({}), server)

                nursery.start_soon(run)
                if carrier == "http2":
                    return await Http2Tunnel.open(nursery, client)
                return client

            def shut_down() -> None:
                async def end() -> None:
                    await context.terminated.set()
                    nursery.cancel_scope.deadline = trio.current_time() + config.graceful_timeout

                nursery.start_soon(end)

            service.open_stream = open_stream
            service.shut_down = shut_down
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()
        await lifespan.wait_for_shutdown()
        lifespan_nursery.cancel_scope.cancel()


@asynccontextmanager
async def _serve_socket(
    service: Service, app: Any, config: Config, carrier: str
) -> AsyncIterator[None]:
    """Hypercorn's own server on a real listener."""
    shutdown = trio.Event()
    with tempfile.TemporaryDirectory() as folder:
        client_context = None
        config.bind = ["127.0.0.1:0"]
        path = os.path.join(folder, "echo.sock")
        if carrier == "unix":
            config.bind = [f"unix:{path}"]
        if carrier == "tls":
            client_context = _make_certificates(config, Path(folder))
        async with trio.open_nursery() as nursery:

            async def run(task_status: Any) -> None:
                try:
                    await hypercorn.trio.serve(
                        app, config, shutdown_trigger=shutdown.wait, task_status=task_status
                    )
                finally:
                    service.over.set()

            binds = await nursery.start(run)

            async def open_stream() -> Any:
                if carrier == "unix":
                    return await trio.open_unix_socket(path)
                port = int(binds[0].rsplit(":", 1)[1])
                stream: Any = await trio.open_tcp_stream("127.0.0.1", port)
                if carrier == "reused":
                    await stream.send_all(b"HEAD /none HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    answer = b""
                    while not answer.endswith(b"\r\n\r\n"):
                        answer += await stream.receive_some(65536)
                if client_context is not None:
                    stream = trio.SSLStream(
                        stream, client_context, server_hostname="localhost", https_compatible=True
                    )
                return stream

            service.open_stream = open_stream
            service.shut_down = shutdown.set
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()


def _make_certificates(config: Config, folder: Path) -> ssl.SSLContext:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    config.certfile = str(folder / "certificate.pem")
    config.keyfile = str(folder / "key.pem")
    Path(config.certfile).write_bytes(b"".join(b.bytes() for b in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(config.keyfile)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
