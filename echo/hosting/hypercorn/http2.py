"""HTTP/2 (RFC 8441): one stream of a connection is a WebSocket, and the others stay whole.

The stream's flow control is ours: a pending socket shuts its own window, not the connection's.
What one stream does wrong stays its own affair.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from typing import Any

import h2.exceptions
import trio
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import Data, EndBody, EndData, Event, StreamClosed
from hypercorn.protocol.h2 import BUFFER_HIGH_WATER, H2Protocol
from hypercorn.trio.tcp_server import TCPServer

from echo.websocket.carriers.stream import StreamCarrier
from echo.websocket.socket import State, WebSocket
from echo.websocket.worker import Worker


def adopt(protocol: H2Protocol, stream_id: int, socket: WebSocket) -> None:
    _bound_sends(protocol, socket)
    protocol.streams[stream_id] = Tunnel(protocol, stream_id, socket)  # type: ignore[assignment]


class Tunnel:
    """Stands in for Hypercorn's stream, and is the transport of its carrier."""

    idle = False

    def __init__(self, protocol: H2Protocol, stream_id: int, socket: WebSocket) -> None:
        self._protocol = protocol
        self._stream_id = stream_id
        self._owed = 0  # bytes that the peer may not send again before the inbox has room
        self._progress = trio.Event()
        self._carrier = TunnelCarrier(socket, self)

    async def handle(self, event: Event) -> None:
        if isinstance(event, EndBody | StreamClosed):
            self._progress.set()
            if isinstance(event, EndBody) and self._carrier.socket.state is State.CLOSE_RECEIVED:
                return  # it ended the stream with its close frame, and ours is still to come
            await self._carrier.fed(b"")

    def received(self, event: DataReceived) -> None:
        """Take data without ever waiting: the connection has other streams."""
        connection = self._protocol.connection
        size = event.flow_controlled_length
        if event.data and not self._carrier.closed:
            self._carrier.socket.feed(event.data)
        if self._carrier.socket.full:
            # The window of this stream stays shut, that of the connection does not.
            self._owed += size
            if size:
                connection.increment_flow_control_window(size)
        else:
            connection.acknowledge_received_data(size, self._stream_id)

    async def reopen(self) -> None:
        """The inbox has room: let the peer send on."""
        owed, self._owed = self._owed, 0
        if owed and self._stream_id in self._protocol.streams:
            self._protocol.connection.increment_flow_control_window(owed, self._stream_id)
            await self._protocol._flush()

    async def send_all(self, data: bytes) -> None:
        if self._stream_id not in self._protocol.stream_buffers:
            raise trio.BrokenResourceError("the HTTP/2 stream is gone")
        await self._protocol.stream_send(Data(stream_id=self._stream_id, data=data))
        # Hypercorn's buffer takes any amount while the peer's window is shut.
        while self._buffered() > BUFFER_HIGH_WATER:
            self._progress = trio.Event()
            await self._progress.wait()

    def _buffered(self) -> int:
        buffer = self._protocol.stream_buffers.get(self._stream_id)
        return len(buffer.buffer) if buffer is not None else 0

    def written(self) -> None:
        """Hypercorn has written some of its buffer, or given it up."""
        self._progress.set()

    async def send_eof(self) -> None:
        await self._protocol.stream_send(EndData(stream_id=self._stream_id))

    async def aclose(self) -> None:
        """End the stream after what waits; if that is cut short, reset it."""
        try:
            await self.send_eof()
            await trio.lowlevel.checkpoint_if_cancelled()
        except trio.Cancelled:
            with suppress(h2.exceptions.ProtocolError):  # the peer may have reset it already
                self._protocol.connection.reset_stream(self._stream_id, ErrorCodes.CANCEL)
            raise
        finally:
            self._protocol.streams.pop(self._stream_id, None)
            socket = self._carrier.socket
            socket.worker.spawn(socket, self._protocol._flush)


class TunnelCarrier(StreamCarrier):
    """Like any stream, but room in the inbox is told to the peer."""

    __slots__ = ("_stream",)

    def __init__(self, socket: WebSocket, stream: Tunnel) -> None:
        super().__init__(socket, stream)
        self._stream = stream

    def resume(self) -> None:
        if self._stream._owed:
            self.socket.worker.spawn(self.socket, self._stream.reopen)


def _bound_sends(protocol: H2Protocol, socket: WebSocket) -> None:
    """Give the sends of a connection a deadline: Hypercorn shields them without one.

    A write of HTTP/2 cannot be cut short without breaking the connection, so the shield stays,
    but it ends after `send_timeout`, or when the worker has no more time, and the connection
    with it.
    """
    server = getattr(protocol.send, "__self__", None)
    if not isinstance(server, TCPServer):  # done before
        return
    worker: Worker = socket.worker
    limit = socket.options.send_timeout

    async def send(event: Any) -> None:
        if not isinstance(event, RawData):
            await server.protocol_send(event)
            return
        async with server.send_lock:
            with trio.move_on_after(limit, shield=True) as scope:
                worker.shields.add(scope)
                try:
                    await server.stream.send_all(event.data)
                    return
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
                finally:
                    worker.shields.discard(scope)
            await trio.aclose_forcefully(server.stream)
        await server.protocol.handle(Closed())

    protocol.send = _Bound(server, send)


class _Bound:
    """A send with a deadline that still tells whose it is."""

    def __init__(self, server: TCPServer, send: Any) -> None:
        self.__self__ = server
        self._send = send

    async def __call__(self, event: Any) -> None:
        await self._send(event)


class Protocol(H2Protocol):
    """Keeps what one stream does wrong away from the others of its connection."""

    async def _create_stream(self, request: RequestReceived) -> None:
        headers = dict(request.headers)
        if headers.get(b":method") == b"CONNECT" and headers.get(b":protocol") != b"websocket":
            # Not RFC 8441: a proxy's CONNECT, or a protocol that nobody here speaks.
            with suppress(h2.exceptions.ProtocolError):  # it may have been reset already
                self.connection.send_headers(
                    request.stream_id, [(b":status", b"501")], end_stream=True
                )
            await self._flush()
        else:
            await super()._create_stream(request)

    @cached_property
    def _flushing(self) -> trio.Lock:
        return trio.Lock()

    async def _flush(self) -> None:
        """Write what h2 has to say, in its order; who is cancelled before leaves it to the next.

        Lost bytes would break all streams of the connection: the compression of headers
        depends on those before.
        """
        async with self._flushing:
            await trio.lowlevel.checkpoint_if_cancelled()
            data = self.connection.data_to_send()
            if data:
                await self.send(RawData(data=data))  # cannot be cancelled: its lock is free now

    async def _send_data(self, stream_id: int) -> None:
        await super()._send_data(stream_id)
        stream: Any = self.streams.get(stream_id)
        if isinstance(stream, Tunnel):
            stream.written()

    async def _handle_events(self, events: list[Any]) -> None:
        for event in events:
            if isinstance(event, DataReceived):
                stream: Any = self.streams.get(event.stream_id)
                if isinstance(stream, Tunnel):
                    stream.received(event)
                    continue
                if stream is None:  # it has ended, and its data was on the way
                    self._forget(event)
                    continue
            await super()._handle_events([event])
        await self._flush()

    def _forget(self, event: DataReceived) -> None:
        with suppress(h2.exceptions.ProtocolError):
            self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
