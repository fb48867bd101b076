"""The seam: the only module that knows Hypercorn's private names (0.18).

Under Hypercorn's Trio worker an ASGI `send` is a bound method, and behind it stand the stream,
the protocol and the connection that carry it. After the handshake, whose answer still goes out
through Hypercorn, the connection's bytes go to our socket and ours to its stream; Hypercorn
keeps the listening, HTTP, TLS and the tearing down. `tests/hosting/test_hypercorn.py` fails
when these names move.
"""

from __future__ import annotations

import base64
import hashlib
from contextlib import suppress
from time import time
from typing import Any

import h2.exceptions
import hypercorn.protocol
import hypercorn.protocol.h2
import hypercorn.protocol.h11
import hypercorn.trio.run
import trio
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import Body, Data, EndBody, EndData, Event, Response, StreamClosed
from hypercorn.protocol.h2 import BUFFER_HIGH_WATER, H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.trio.tcp_server import TCPServer

from echo.hosting.guest import Bridged
from echo.websocket.carriers import Server, seams
from echo.websocket.carriers.reactor import ReactorCarrier
from echo.websocket.carriers.stream import StreamCarrier
from echo.websocket.handshake import refusal
from echo.websocket.socket import WebSocket
from echo.websocket.worker import Worker

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


class HypercornSeam:
    """See `echo.websocket.carriers.Seam`."""

    def server(self, send: Any) -> Server | None:
        bridged = isinstance(send, Bridged)
        stream = getattr(send.__wrapped__ if bridged else send, "__self__", None)
        if not isinstance(stream, WSStream | HTTPStream):
            return None
        terminated = stream.context.terminated.wait
        if bridged:  # the asyncio worker's event is not Trio's to wait for
            terminated = send.bridge(terminated)
        return Server(terminated, stream.config.graceful_timeout)

    def reaches(self, send: Any) -> bool:
        stream = getattr(send, "__self__", None)
        if not isinstance(stream, WSStream):
            return False
        protocol = getattr(stream.send, "__self__", None)
        if not isinstance(protocol, H11Protocol | H2Protocol):
            return False
        return isinstance(getattr(protocol.send, "__self__", None), TCPServer)

    async def accept(self, send: Any, message: dict[str, Any], socket: WebSocket) -> None:
        stream: Any = send.__self__
        protocol: Any = stream.send.__self__
        # The bytes are ours before the answer goes out: the peer may be quicker than we are.
        if isinstance(protocol, H11Protocol):
            _adopt_h11(protocol.send.__self__, socket)  # type: ignore[attr-defined]
        else:
            _adopt_h2(protocol, stream.stream_id, socket)
        status, headers = _answer(stream.handshake, message)
        await stream.send(Response(stream_id=stream.stream_id, status_code=status, headers=headers))
        log = stream.config.log
        await log.access(
            stream.scope, {"status": status, "headers": []}, time() - stream.start_time
        )
        if isinstance(protocol, H11Protocol):
            _let_go(protocol)
        _let_go(stream)
        stream.closed = True  # all that Hypercorn asks of it from now on


def _answer(handshake: Any, message: dict[str, Any]) -> tuple[int, list[tuple[bytes, bytes]]]:
    """The response that accepts a handshake: 101, or 200 over HTTP/2 (RFC 8441 section 5)."""
    headers = list(message["headers"])
    if message["subprotocol"] is not None:
        headers.append((b"sec-websocket-protocol", message["subprotocol"].encode()))
    if handshake.http_version == "2":
        return 200, headers
    token = base64.b64encode(hashlib.sha1(handshake.key + _GUID, usedforsecurity=False).digest())
    return 101, [
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-accept", token),
        *headers,
    ]


def _let_go(stage: Any) -> None:
    """Forget what a stage of HTTP held: an idle socket should weigh little."""
    vars(stage).clear()


# HTTP/1.1: the whole connection is ours


def _adopt_h11(server: TCPServer, socket: WebSocket) -> None:
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

    def __init__(self, socket: WebSocket, reactor: Any, stream: trio.SocketStream) -> None:
        self._finished = trio.Event()
        self._carrier = ReactorCarrier(socket, reactor, stream, self._finished.set)

    async def handle(self, event: Any) -> None:
        if isinstance(event, RawData) and event.data:
            self._carrier.socket.feed(event.data)
        self._carrier.watch()
        try:
            await self._finished.wait()
        finally:
            # Cancelled: Hypercorn closes the connection next.
            self._carrier.socket.drop("the server has ended")


class _Fed:
    """Stands in for Hypercorn's protocol and lets the task that reads go on reading."""

    def __init__(self, socket: WebSocket, stream: Any) -> None:
        self._carrier = StreamCarrier(socket, stream)

    async def handle(self, event: Any) -> None:
        if isinstance(event, RawData):
            await self._carrier.fed(event.data)
        elif isinstance(event, Closed):
            await self._carrier.fed(b"")


# HTTP/2 (RFC 8441): one stream of the connection is ours


def _adopt_h2(protocol: H2Protocol, stream_id: int, socket: WebSocket) -> None:
    _bound_sends(protocol, socket)
    protocol.streams[stream_id] = _H2Stream(protocol, stream_id, socket)  # type: ignore[assignment]


class _H2Stream:
    """Stands in for Hypercorn's stream, and is the transport of its carrier."""

    idle = False

    def __init__(self, protocol: H2Protocol, stream_id: int, socket: WebSocket) -> None:
        self._protocol = protocol
        self._stream_id = stream_id
        self._owed = 0  # bytes that the peer may not send again before the inbox has room
        self._progress = trio.Event()
        self._carrier = _H2Carrier(socket, self)

    async def handle(self, event: Event) -> None:
        if isinstance(event, EndBody | StreamClosed):
            self._progress.set()
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
            if self._stream_id in self._protocol.streams:
                self._protocol.connection.reset_stream(self._stream_id, ErrorCodes.CANCEL)
            raise
        finally:
            self._protocol.streams.pop(self._stream_id, None)
            worker = self._carrier.socket.worker
            worker.nursery.start_soon(self._protocol._flush)


class _H2Carrier(StreamCarrier):
    """Like any stream, but room in the inbox is told to the peer."""

    __slots__ = ("_stream",)

    def __init__(self, socket: WebSocket, stream: _H2Stream) -> None:
        super().__init__(socket, stream)
        self._stream = stream

    def resume(self) -> None:
        if self._stream._owed:
            self.socket.worker.nursery.start_soon(self._stream.reopen)


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


# What Hypercorn answers itself, before an app is asked


class _WSStream(WSStream):
    """Tells whoever sent a broken handshake what is wrong with it."""

    async def _send_error_response(self, status_code: int) -> None:
        wrong = None
        if status_code == 400:
            wrong = refusal("GET", self.scope["http_version"], self.scope["headers"])
        if wrong is None:
            await super()._send_error_response(status_code)
            return
        body = f"{wrong.sentence}\n".encode()
        headers = [
            (b"content-length", str(len(body)).encode()),
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"connection", b"close"),
            *wrong.headers,
        ]
        if self.scope["http_version"] == "2":
            headers.remove((b"connection", b"close"))
        await self.send(
            Response(stream_id=self.stream_id, status_code=wrong.status, headers=headers)
        )
        await self.send(Body(stream_id=self.stream_id, data=body))
        await self.send(EndBody(stream_id=self.stream_id))


class _TCPServer(TCPServer):
    """Keeps what one connection does wrong away from the worker and all others."""

    async def run(self) -> None:
        try:
            await super().run()
        except (Exception, BaseExceptionGroup) as error:
            cancelled, failure = BaseExceptionGroup("", [error]).split(trio.Cancelled)
            if failure is not None:
                await self.config.log.exception("A connection failed")
            if cancelled is not None:
                raise cancelled from None

    async def protocol_send(self, event: Any) -> None:
        try:
            await super().protocol_send(event)
        except trio.BusyResourceError:
            # Another task is closing the connection: nobody waits for this any more.
            await self.protocol.handle(Closed())


class _H2Protocol(H2Protocol):
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

    async def _send_data(self, stream_id: int) -> None:
        await super()._send_data(stream_id)
        stream: Any = self.streams.get(stream_id)
        if isinstance(stream, _H2Stream):
            stream.written()

    async def _handle_events(self, events: list[Any]) -> None:
        for event in events:
            if isinstance(event, DataReceived):
                stream: Any = self.streams.get(event.stream_id)
                if isinstance(stream, _H2Stream):
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


def install() -> None:
    """Let the socket layer find Hypercorn, and Hypercorn give better answers."""
    if not any(isinstance(seam, HypercornSeam) for seam in seams):
        seams.append(HypercornSeam())
        setattr(hypercorn.protocol.h11, "WSStream", _WSStream)  # noqa: B010
        setattr(hypercorn.protocol.h2, "WSStream", _WSStream)  # noqa: B010
        setattr(hypercorn.trio.run, "TCPServer", _TCPServer)  # noqa: B010
        setattr(hypercorn.protocol, "H2Protocol", _H2Protocol)  # noqa: B010
