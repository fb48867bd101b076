"""WebSockets as links: one that ends with its socket, and one that outlives it.

Text frames for text, binary frames for binary: a client refuses the other way round. A socket's
own buffers and deadlines are the link's; nothing waits here a second time.
"""

from __future__ import annotations

from typing import Any

from trio.lowlevel import ParkingLot

from echo.hubs.protocol import TransferFormat
from echo.hubs.transports.deadline import Deadline
from echo.hubs.transports.link import Link, LinkResumed, User, logger
from echo.hubs.transports.options import ConnectionOptions
from echo.hubs.transports.request import Request
from echo.hubs.transports.text import whole_characters
from echo.websocket import (
    Chunk,
    ConnectionClosed,
    ConnectionClosedOK,
    MessageType,
    State,
    WebSocket,
    WebSocketOptions,
)
from echo.websocket.clock import Clock
from echo.websocket.options import Overrides

_KINDS = {"Text": MessageType.TEXT, "Binary": MessageType.BINARY}


def overrides(options: ConnectionOptions, app: WebSocketOptions) -> Overrides:
    """What `accept()` is to change for a socket of a hub."""
    wanted: Overrides = {
        "inbox_size": options.application_buffer_size,
        "send_buffer_size": options.transport_buffer_size,
        "send_timeout": options.transport_send_timeout,
        "close_timeout": options.close_timeout,
    }
    changes = {name: value for name, value in wanted.items() if getattr(app, name) != value}
    return changes  # type: ignore[return-value]


class WebSocketLink(Link):
    """A link that ends with its socket."""

    __slots__ = ("_begun", "_kind", "_over", "_socket")

    transport = "WebSockets"

    def __init__(self, socket: WebSocket, **about: Any) -> None:
        self._socket = socket
        self._kind = MessageType.TEXT
        self._begun = b""  # of a character that has not come whole
        super().__init__(**about)

    @property
    def ended(self) -> bool:
        return self._over or self._socket.is_over

    @ended.setter
    def ended(self, over: bool) -> None:
        self._over = over

    def set_format(self, transfer_format: TransferFormat) -> None:
        self._kind = _KINDS[transfer_format]

    async def receive(self) -> bytes:
        data = b""
        try:
            while not data:
                data = self._whole(await self._socket.receive_chunk())
        except ConnectionClosed as closed:
            self._note_end(closed.why)
        return data

    def _whole(self, chunk: Chunk) -> bytes:
        """What came, without a character that has not come whole; it may be nothing."""
        data, kind, end = chunk
        if self._begun:
            data = self._begun + data
            self._begun = b""
        if not end and kind is MessageType.TEXT:
            whole = whole_characters(data)
            self._begun = data[whole:]
            data = data[:whole]
        return data

    def send(self, data: bytes) -> None:
        try:
            self._socket.send_nowait(data, self._kind)
        except ConnectionClosed:
            return
        if self.most_unsent is not None:
            self._check_unsent()

    @property
    def unsent(self) -> int:
        return self._socket.unsent

    async def drain(self) -> None:
        await self._socket.drained()

    async def wait_ended(self) -> None:
        await self._socket.wait_closed()

    async def close(self, error: str | None = None) -> None:
        await self._socket.close(1000 if error is None else 1011)
        self._note_end("we closed it")

    def abort(self, reason: str) -> None:
        if not self.ended:
            logger.info("Connection %s aborted: %s", self.id, reason)
            self._note_end(reason)
            self._socket.abort()

    def left(self, socket: WebSocket) -> None:
        """A socket of this link has ended."""
        self._note_end(f"its WebSocket ended with {socket.close_code}")


class ReconnectingLink(WebSocketLink):
    """A link that may lose its socket and go on with another, within `disconnect_timeout`."""

    __slots__ = ("_absence", "_changed", "_coming")

    def __init__(
        self, options: ConnectionOptions, clock: Clock, socket: WebSocket, **about: Any
    ) -> None:
        super().__init__(socket, **about)
        self._coming: WebSocket | None = None  # waits until receive() has told of it
        self._changed = ParkingLot()
        self._absence = Deadline(clock, options.disconnect_timeout, self._give_up)

    @property
    def ended(self) -> bool:
        return self._over

    @ended.setter
    def ended(self, over: bool) -> None:
        self._over = over

    async def receive(self) -> bytes:
        while True:
            if self._coming is not None:
                self._socket, self._coming = self._coming, None
                self._begun = b""
                raise LinkResumed
            try:
                while not (data := self._whole(await self._socket.receive_chunk())):
                    pass
                return data
            except ConnectionClosed as closed:
                if isinstance(closed, ConnectionClosedOK) or not self.stateful:
                    self._end(closed.why)
                elif self._coming is None and not self._over:
                    await self._changed.park()
            if self._over:
                return b""

    def resume(self, socket: WebSocket, request: Request, user: User | None) -> None:
        """Another socket of the client takes over, even if the last one seems well."""
        for old in (self._socket, self._coming):
            if old is not None:
                old.abort()
        self.request = request
        self.user = user
        self._absence.end()
        self._coming = socket
        self._changed.unpark_all()

    async def wait_ended(self) -> None:
        await Link.wait_ended(self)

    async def close(self, error: str | None = None) -> None:
        if not self._over:
            self._end("we closed it")
            await (self._coming or self._socket).close(1000 if error is None else 1011)

    def abort(self, reason: str) -> None:
        if not self._over:
            logger.info("Connection %s aborted: %s", self.id, reason)
            self._end(reason)
            (self._coming or self._socket).abort()

    def left(self, socket: WebSocket) -> None:
        if socket is not (self._coming or self._socket):
            return  # it was replaced
        # A close frame says that the client will not be back.
        if socket.state is State.CLOSED or not self.stateful:
            self._end(f"its WebSocket ended with {socket.close_code}")
        elif not self._over:
            self._absence.begin()

    def _end(self, why: str) -> None:
        if self._note_end(why):
            self._changed.unpark_all()

    def _give_up(self) -> None:
        self._end("the client did not come back")
