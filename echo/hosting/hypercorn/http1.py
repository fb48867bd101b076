"""A WebSocket that Hypercorn read the handshake of: over TLS, or on a connection used before.

The whole connection becomes ours, but for the task that reads it, which stays Hypercorn's: it
parks while the reactor reads, or goes on reading for a stream's carrier.
"""

from __future__ import annotations

from typing import Any

import trio
from hypercorn.events import Closed, RawData
from hypercorn.trio.tcp_server import TCPServer

from echo.websocket.carriers.reactor import Reactor, ReactorCarrier
from echo.websocket.carriers.stream import StreamCarrier
from echo.websocket.socket import WebSocket


def adopt(server: TCPServer, socket: WebSocket) -> None:
    reactor = socket.worker.reactor
    stream: Any = server.stream
    if reactor is not None and isinstance(stream, trio.SocketStream):
        server.protocol.protocol = _Parked(socket, reactor, stream)  # type: ignore[assignment]
    else:
        server.protocol.protocol = _Fed(socket, stream)  # type: ignore[assignment]


class _Parked:
    """Stands in for Hypercorn's protocol and parks the task that reads the connection.

    The reactor reads only after that task is here, so no bytes can overtake others.
    """

    def __init__(self, socket: WebSocket, reactor: Reactor, stream: trio.SocketStream) -> None:
        self._carrier = _ParkedCarrier(socket, reactor, stream)

    async def handle(self, event: Any) -> None:
        if isinstance(event, RawData) and event.data:
            self._carrier.socket.feed(event.data)
        self._carrier.watch()
        try:
            await self._carrier.finished.wait()
        finally:
            # Cancelled: Hypercorn closes the connection next.
            self._carrier.socket.drop("the server has ended", "shutdown")


class _ParkedCarrier(ReactorCarrier):
    __slots__ = ("finished",)

    def __init__(self, socket: WebSocket, reactor: Reactor, stream: trio.SocketStream) -> None:
        super().__init__(socket, reactor, stream)
        self.finished = trio.Event()

    def begin(self) -> None:
        # Hypercorn's task still waits for bytes: it is woken, and calls watch().
        trio.lowlevel.notify_closing(self.descriptor)

    def close(self, *, abort: bool) -> None:
        super().close(abort=abort)
        self.finished.set()


class _Fed:
    """Stands in for Hypercorn's protocol and lets the task that reads go on reading."""

    def __init__(self, socket: WebSocket, stream: Any) -> None:
        self._carrier = StreamCarrier(socket, stream)

    async def handle(self, event: Any) -> None:
        if isinstance(event, RawData):
            await self._carrier.fed(event.data)
        elif isinstance(event, Closed):
            await self._carrier.fed(b"")
