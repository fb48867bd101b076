"""Plain ASGI messages, where nobody lets us at the frames.

The carrier plays the peer: it turns the server's messages into frames for the socket and the
socket's frames into messages for the server. So the socket behaves as on any other carrier, as
far as ASGI can tell: there are no pings on it (the server's own keep-alive applies), messages
come whole, and a server may not report the peer's close code.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from echo.websocket.carriers.task import TaskCarrier
from echo.websocket.codec import (
    ABNORMAL,
    BINARY,
    CLOSE,
    FIN,
    MASK,
    NO_STATUS,
    PONG,
    TEXT,
    Chunk,
    Close,
    Decoder,
    Ping,
    close_payload,
    frame_header,
    is_close_code,
)
from echo.websocket.socket import WebSocket

Message = MutableMapping[str, Any]

_NO_MASK = bytes(4)  # masking with zeros changes nothing
_ANY_SIZE = 1 << 62


class AsgiCarrier(TaskCarrier):
    """A socket on an ASGI connection.

    Args:
        socket: the WebSocket to carry.
        receive: the server's; `deliver` takes what it gives.
        send: the server's.
    """

    kind = "asgi"
    __slots__ = ("_frames", "_parts", "_peer", "_receive", "_send")

    def __init__(
        self,
        socket: WebSocket,
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        super().__init__(socket)
        self._receive = receive
        self._send = send
        self._frames: list[Chunk] = []
        self._peer = Decoder(
            self._frames, max_message_size=_ANY_SIZE, chunk_size=_ANY_SIZE, masked=False
        )
        self._parts: list[bytes] = []

    # From the server to the socket

    async def pump(self) -> None:
        """Take messages from the server until the connection ends."""
        while not self.closed:
            await self.deliver(await self._receive())

    async def deliver(self, message: Message) -> None:
        """Take one message from the server, and wait while the inbox is full."""
        if self.closed:
            return
        if message["type"] == "websocket.receive":
            text = message.get("text")
            if text is not None:
                self._feed(FIN | TEXT, text.encode(errors="surrogatepass"))
            else:
                self._feed(FIN | BINARY, message["bytes"])
            await self.until_room()
        elif message["type"] == "websocket.disconnect":
            code = message.get("code", NO_STATUS)
            if code == NO_STATUS or is_close_code(code):
                self._feed(FIN | CLOSE, close_payload(code, message.get("reason") or ""))
            if not self.closed:
                self.socket.lost(f"server reports {code}" if code != ABNORMAL else "peer vanished")

    def _feed(self, first: int, payload: bytes) -> None:
        header = bytearray(frame_header(first, len(payload)))
        header[1] |= MASK
        self.socket.feed(b"".join((header, _NO_MASK, payload)))

    # From the socket to the server

    async def _write(self) -> None:
        try:
            await super()._write()
        except Exception as error:  # whatever this server raises when the peer is gone
            self.socket.lost(f"connection lost while writing: {error!r}")

    async def _write_some(self) -> None:
        size = self.size
        data = b"".join(self.pieces)
        self.socket.worker.counters.pieces += len(self.pieces)
        self.pieces.clear()
        events = self._peer.feed(data)
        # A server may shield its writes: the clock drops the socket, not a cancellation.
        self.expect_progress()
        frames = list(self._frames)
        self._frames.clear()
        for frame in frames:
            await self._write_chunk(*frame)
        for event in events:
            if isinstance(event, Ping):
                self._feed(FIN | PONG, event.payload)
            elif isinstance(event, Close):
                await self._write_close(event)
        if not self.closed:
            self.taken(size)

    async def _write_chunk(self, data: bytes, kind: int, end: bool) -> None:
        self._parts.append(data)
        if end:
            message = b"".join(self._parts)
            self._parts.clear()
            await self._send(
                {"type": "websocket.send", "bytes": None, "text": message.decode()}
                if kind is TEXT
                else {"type": "websocket.send", "bytes": message, "text": None}
            )

    async def _write_close(self, event: Close) -> None:
        code = 1000 if event.code == NO_STATUS else event.code
        await self._send({"type": "websocket.close", "code": code, "reason": event.reason})
