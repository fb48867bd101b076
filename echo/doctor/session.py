"""One open WebSocket, frame by frame: a thin shell around wsproto, which others wrote.

`dial()` makes the opening handshake and hands out whatever the answer was; with a 101 there is a
`Session`. It answers pings as it must, and every wait has a limit; messages are bounded, for the
peer may be hostile.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.extensions import Extension, PerMessageDeflate
from wsproto.utilities import LocalProtocolError

from echo.doctor.causes import connection, service
from echo.doctor.report import shown
from echo.doctor.wire import Response, Trouble, Wire

MAX_MESSAGE: Final = 4 * 1024 * 1024
_MOST_FRAMES: Final = 4096  # of one message, empty ones too
_READ: Final = 4096  # inflated at most a thousandfold
_NOT_CLOSED: Final = (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING)
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Closed(Exception):
    """The peer closed the connection; 1006 if it ended without a close frame."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {shown(reason)}".strip())
        self.code = code
        self.reason = reason


@dataclass(slots=True)
class Dial:
    """What came of an opening handshake."""

    response: Response
    accept: str
    """The Sec-WebSocket-Accept that belongs to our key."""
    session: Session | None
    """None if the answer is not 101."""


@asynccontextmanager
async def dial(
    wire: Wire,
    path: str | None = None,
    *,
    origin: str | None = None,
    subprotocols: Sequence[str] = (),
    deflate: bool = False,
    headers: Sequence[tuple[str, str]] = (),
) -> AsyncIterator[Dial]:
    """The opening handshake; the connection is dropped after the block.

    Args:
        path: where to; None is the target's WebSocket.
        origin: as a browser's page sends it; None sends none.
        deflate: offer compression.

    Raises:
        Trouble: there was no answer.
    """
    key = base64.b64encode(os.urandom(16))
    fields = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", key.decode()),
        ("Sec-WebSocket-Version", "13"),
    ]
    extension = PerMessageDeflate()
    if origin is not None:
        fields.append(("Origin", origin))
    if subprotocols:
        fields.append(("Sec-WebSocket-Protocol", ", ".join(subprotocols)))
    if deflate:
        fields.append(("Sec-WebSocket-Extensions", f"{extension.name}; client_max_window_bits"))
    async with wire.open() as stream:
        response = await wire.exchange(stream, path or wire.target.path, [*fields, *headers])
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
        session = None
        if response.status == 101:
            taken = response.headers.get("sec-websocket-extensions", "")
            extensions: list[Extension] = []
            if deflate and taken.partition(";")[0].strip() == extension.name:
                _agree(extension, taken)
                extensions.append(extension)
            session = Session(stream, response.trailing, extensions, wire.limit)
        yield Dial(response, accept, session)


def _agree(extension: PerMessageDeflate, taken: str) -> None:
    try:
        extension.finalize(taken)
    except (ValueError, IndexError):
        raise Trouble(service.BROKEN, f"compression is answered with {shown(taken)!r}") from None


@dataclass(slots=True)
class Session:
    """An open WebSocket. `limit` is in seconds and for one answer, which may be a message."""

    stream: trio.abc.Stream
    trailing: bytes
    extensions: list[Extension]
    limit: float
    pings: int = 0
    """How many came from the server, or from something in between."""
    _connection: Connection = field(init=False)
    _events: deque[Event] = field(init=False, default_factory=deque)
    _over: Closed | None = None

    def __post_init__(self) -> None:
        self._connection = Connection(ConnectionType.CLIENT, self.extensions, self.trailing)
        self._gather()

    async def send(self, event: Event) -> None:
        """Send an event; a peer that does not read, or is gone, is a `Closed`."""
        with trio.move_on_after(self.limit) as scope:
            try:
                await self.stream.send_all(self._connection.send(event))
            except trio.BrokenResourceError:
                raise Closed(1006, "") from None
            except LocalProtocolError:  # a close frame is here and was not looked at yet
                raise await self.closed() from None
        if scope.cancelled_caught:
            raise Trouble(connection.NO_ANSWER, f"the server reads nothing for {self.limit:g} s")

    async def text(self, data: str, *, end: bool = True) -> None:
        await self.send(TextMessage(data=data, message_finished=end))

    async def message(self) -> str | bytes:
        """The next message, whole.

        Raises:
            Closed: the connection ended instead.
            Trouble: it does not come, is too large, or is no message.
        """
        parts: list[str] = []
        pieces: list[bytes] = []
        size = 0
        with trio.move_on_after(self.limit):
            while True:
                event = await self.event()
                if isinstance(event, TextMessage):
                    parts.append(event.data)
                elif isinstance(event, BytesMessage):
                    pieces.append(bytes(event.data))
                else:
                    continue
                size += len(event.data)
                if size > MAX_MESSAGE or len(parts) + len(pieces) > _MOST_FRAMES:
                    raise Trouble(service.BROKEN, "a message comes that nobody asked for, and more")
                if event.message_finished:
                    return "".join(parts) if isinstance(event, TextMessage) else b"".join(pieces)
        raise Trouble(service.SILENT, f"no message within {self.limit:g} s")

    async def event(self) -> Event:
        """The next event but pings, which are answered. The caller limits the wait.

        Raises:
            Closed: the connection ended.
            Trouble: what came is no WebSocket frame.
        """
        if self._over is not None:
            raise self._over
        while True:
            while not self._events:
                await self._read()
            event = self._events.popleft()
            if isinstance(event, Ping):
                self.pings += 1
                if self._connection.state is ConnectionState.OPEN:
                    await self.send(event.response())
            elif isinstance(event, CloseConnection):
                if self._connection.state in _NOT_CLOSED:  # it is wsproto that complains
                    raise Trouble(
                        service.BROKEN, f"a frame breaks the protocol: {shown(event.reason or '')}"
                    )
                self._over = Closed(int(event.code), event.reason or "")
                if self._connection.state is ConnectionState.REMOTE_CLOSING:
                    await self.send(event.response())
                raise self._over
            else:
                return event

    async def ping(self, payload: bytes) -> float:
        """Send a ping; the seconds until its pong, past whatever else comes.

        Raises:
            Closed: the connection ended instead.
            Trouble: the pong does not come.
        """
        begun = trio.current_time()
        await self.send(Ping(payload=payload))
        with trio.move_on_after(self.limit):
            while True:
                event = await self.event()
                if isinstance(event, Pong) and bytes(event.payload) == payload:
                    return trio.current_time() - begun
        raise Trouble(service.PING_LOST, f"no pong within {self.limit:g} s")

    async def close(self, code: int, reason: str) -> Closed:
        """Close, and what the peer answers.

        Raises:
            Trouble: no answer.
        """
        try:
            await self.send(CloseConnection(code=code, reason=reason))
            return await self.closed()
        except Closed as closed:
            return closed

    async def closed(self) -> Closed:
        """How the peer closes the connection, past whatever comes before that."""
        with trio.move_on_after(self.limit):
            try:
                while True:
                    await self.event()
            except Closed as closed:
                return closed
        raise Trouble(service.CLOSE_LOST, f"no close frame within {self.limit:g} s")

    async def _read(self) -> None:
        try:
            data = bytes(await self.stream.receive_some(_READ))
        except trio.BrokenResourceError:
            data = b""
        if not data:
            self._over = Closed(1006, "")
            raise self._over
        self._connection.receive_data(data)
        self._gather()

    def _gather(self) -> None:
        try:
            for event in self._connection.events():
                self._events.append(event)
                if isinstance(event, CloseConnection):
                    return  # nothing after it counts
        except Exception as error:
            # wsproto asserts where it does not expect what a hostile peer can send.
            raise Trouble(service.BROKEN, f"a frame breaks the protocol: {error!r:.60}") from None
