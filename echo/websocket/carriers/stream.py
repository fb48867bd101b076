"""The portable path: any stream that somebody else reads for us, with one task that writes.

Used for TLS, HTTP/2, memory streams, and wherever there is no epoll. Who reads calls `fed`
with what came and waits in it while the inbox is full: that is the back-pressure.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

import trio

from echo.websocket.carriers.task import TaskCarrier
from echo.websocket.socket import WebSocket

_READ_SIZE = 65_536
_WRITE_SIZE = 65_536  # bytes handed to the stream at once; each has the send deadline


class Transport(Protocol):
    """The part of a Trio stream that a carrier needs."""

    async def send_all(self, data: bytes) -> None: ...
    async def aclose(self) -> None: ...


class StreamCarrier(TaskCarrier):
    """A socket on a stream.

    Args:
        socket: the WebSocket to carry.
        transport: where its frames go.
    """

    kind = "stream"
    __slots__ = ("_abort", "_half_close", "_transport")

    def __init__(self, socket: WebSocket, transport: Transport) -> None:
        super().__init__(socket)
        self._transport = transport
        self._half_close = False
        self._abort = False

    async def fed(self, data: bytes) -> None:
        """Hand over what the peer sent, and wait while the inbox is full. Empty: its end."""
        if self.closed:
            return
        if not data:
            self.socket.lost()
            return
        self.socket.feed(data)
        await self.until_room()

    def half_close(self) -> None:
        self._half_close = True
        self.wake()

    def close(self, *, abort: bool) -> None:
        self._abort = abort
        super().close(abort=abort)

    async def _write(self) -> None:
        """Write the outbox until the connection is closed, then close the stream."""
        try:
            await super()._write()
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            self.socket.lost("connection lost while writing")
        finally:
            # What the transport does to say goodbye has the same bound as ours.
            with trio.move_on_after(self.socket.options.close_timeout) as scope:
                if self._abort:
                    scope.cancel()
                await self._transport.aclose()

    async def _rest(self) -> None:
        if self._half_close:
            self._half_close = False
            await self._send_eof()
        else:
            await super()._rest()

    async def _write_some(self) -> None:
        data = b"".join(self._some_pieces())
        with trio.move_on_after(self.socket.options.send_timeout) as deadline:
            await self._transport.send_all(data)
        if deadline.cancelled_caught:
            self.socket.drop("peer does not read: send_timeout passed", "slow_client")
        elif not self.closed:
            self.taken(len(data))

    def _some_pieces(self) -> list[bytes | memoryview]:
        """Take about as much out of the outbox as one write may hold."""
        pieces = self.pieces
        if len(pieces[0]) > _WRITE_SIZE:
            first = memoryview(pieces[0])
            pieces[0] = first[_WRITE_SIZE:]  # and so not gone yet
            return [first[:_WRITE_SIZE]]
        size = 0
        for count, piece in enumerate(pieces, 1):  # noqa: B007
            size += len(piece)
            if size >= _WRITE_SIZE:
                break
        some = pieces[:count]
        del pieces[:count]
        self.socket.worker.counters.pieces += count
        return some

    async def _send_eof(self) -> None:
        send_eof = getattr(self._transport, "send_eof", None)
        if send_eof is not None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await send_eof()


class ReadingCarrier(StreamCarrier):
    """A socket on a stream that nobody else reads: a task of its own does."""

    __slots__ = ("_source",)

    def __init__(self, socket: WebSocket, stream: trio.abc.Stream) -> None:
        super().__init__(socket, stream)
        self._source = stream

    def start(self) -> None:
        super().start()
        self.socket.worker.spawn(self.socket, self._read)

    async def _read(self) -> None:
        try:
            while not self.closed:
                await self.fed(bytes(await self._source.receive_some(_READ_SIZE)))
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            self.socket.lost("connection lost while reading")
