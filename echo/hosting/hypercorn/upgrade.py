"""The short way of a WebSocket: a connection's first request, answered without Hypercorn.

A plain connection whose first bytes are a whole and valid handshake needs neither Hypercorn's
protocol objects nor its tasks, as long as its route accepts it with `accept()`. For anything
else that the app may say to it, Hypercorn is given the connection with the bytes that were read,
as if they came only now.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import time
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

import h11
import trio
from hypercorn.events import RawData
from hypercorn.protocol import ProtocolWrapper
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from echo.websocket.carriers.reactor import ReactorCarrier
from echo.websocket.carriers.stream import ReadingCarrier
from echo.websocket.handshake import header, refusal
from echo.websocket.socket import WebSocket
from echo.websocket.worker import Worker

if TYPE_CHECKING:
    from echo.hosting.hypercorn.connection import Connection

Message = dict[str, Any]


_ASGI = {"spec_version": "2.3", "version": "3.0"}
_UNUSUAL = {b"content-length", b"transfer-encoding", b"expect"}


class Upgrade:
    """A handshake between Hypercorn and the app; `receive` and `send` are the app's."""

    @classmethod
    def found_in(cls, data: bytes, server: Connection, worker: Worker) -> Self | None:
        """The handshake that the first bytes of a connection begin with, if they do.

        Args:
            data: the bytes.
            server: the connection.
            worker: runs what must go on beside the app.
        """
        if not data.startswith(b"GET ") or b"websocket" not in data.lower():
            return None
        config = server.config
        parser = h11.Connection(
            h11.SERVER, max_incomplete_event_size=config.h11_max_incomplete_size
        )
        try:
            parser.receive_data(data)
            request = parser.next_event()
        except h11.RemoteProtocolError:
            return None
        if (
            not isinstance(request, h11.Request)
            or refusal("GET", request.http_version.decode(), request.headers) is not None
            or any(name in _UNUSUAL for name, _ in request.headers)
            or config.server_names
        ):
            return None
        rest = parser.trailing_data[0]
        return cls(server, worker, request, data[: len(data) - len(rest)], rest)

    def __init__(
        self, server: Connection, worker: Worker, request: h11.Request, head: bytes, rest: bytes
    ) -> None:
        self.config = server.config
        self.context = server.context
        self._server = server
        self._worker = worker
        self._head = head
        self._rest = rest
        self._start_time = time()
        self.accepted = False
        self.scope = self._scope(request)
        self._connected = False
        # Hypercorn's, once it has the connection
        self._receive: Callable[[], Awaitable[Any]] | None = None
        self._send: Callable[[Any], Awaitable[None]] | None = None
        self._handed_over: trio.Event | None = None
        self._read = trio.Event()

    def _scope(self, request: h11.Request) -> dict[str, Any]:
        path, _, query = request.target.partition(b"?")
        headers = request.headers
        subprotocols = header(headers, b"sec-websocket-protocol")
        socket = self._server.stream.socket
        return {
            "type": "websocket",
            "asgi": _ASGI,
            "scheme": "ws",
            "http_version": request.http_version.decode(),
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "root_path": self.config.root_path,
            "headers": headers.raw_items() if self.config.h11_pass_raw_headers else list(headers),
            "client": parse_socket_addr(socket.family, socket.getpeername()),
            "server": parse_socket_addr(socket.family, socket.getsockname()),
            "state": self._server.state.copy(),
            "subprotocols": [each.strip() for each in (subprotocols or "").split(",") if each],
            "extensions": {"websocket.http.response": {}},
        }

    @property
    def is_ours(self) -> bool:
        """Whether Hypercorn has not been given the connection."""
        return self._handed_over is None

    async def finish(self) -> None:
        """The app has returned: Hypercorn ends what it began."""
        await self.send(None)
        await self._read.wait()

    async def receive(self) -> Message:
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        if self._receive is None:
            await self._hand_over()
        assert self._receive is not None
        message: Message = await self._receive()
        return message

    async def send(self, message: Message | None) -> None:
        if self._send is None:
            await self._hand_over()
        assert self._send is not None
        await self._send(message)

    async def accept(
        self, answer: tuple[int, list[tuple[bytes, bytes]]], socket: WebSocket
    ) -> None:
        """Give the socket its carrier, with the answer as the first that it writes."""
        status, headers = answer
        stream: Any = self._server.stream
        reactor = socket.worker.reactor
        carrier: ReactorCarrier | ReadingCarrier
        if reactor is not None and isinstance(stream, trio.SocketStream):
            carrier = ReactorCarrier(socket, reactor, stream)
        else:
            carrier = ReadingCarrier(socket, stream)
        self.accepted = True
        lines = [b"HTTP/1.1 101 Switching Protocols"]
        lines += [name + b": " + value for name, value in headers]
        lines += [name + b": " + value for name, value in self.config.response_headers("h11")]
        carrier.begin_with(b"\r\n".join([*lines, b"", b""]))
        if self._rest:
            socket.feed(self._rest)
        scope: Any = self.scope
        seconds = time() - self._start_time
        await self.config.log.access(scope, {"status": status, "headers": []}, seconds)
        await self.context.mark_request()
        # An idle socket should weigh little.
        config = self.config
        for each in (self._server, self):
            vars(each).clear()
            each.config = config
        self.accepted = True

    # Giving the connection to Hypercorn

    async def _hand_over(self) -> None:
        if self._handed_over is not None:  # the app receives in one task and sends in another
            await self._handed_over.wait()
            return
        self._handed_over = trio.Event()
        server = self._server
        server.prepare(self._rest)
        server.protocol = protocol = ProtocolWrapper(
            server.app,
            server.config,
            server.context,
            self,  # type: ignore[arg-type]  # in the place of the task group: see spawn_app()
            ConnectionState(server.state),
            False,
            self.scope["client"],
            self.scope["server"],
            server.protocol_send,
        )
        # Whatever it is answered, there is no next request: nobody would serve it.
        protocol.protocol.keep_alive_requests = self.config.keep_alive_max_requests
        try:
            await protocol.handle(RawData(self._head))
        finally:
            self._handed_over.set()
        self._worker.nursery.start_soon(self._go_on_reading)

    async def spawn_app(
        self, app: Any, config: Any, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        """What Hypercorn asks of its task group: the app runs already, it only changes hands."""
        put, self._receive = _queue(config.max_app_queue_size)
        self._send = send

        async def put_next(message: Message) -> None:
            if message["type"] != "websocket.connect":  # which the app had from us
                await put(message)

        return put_next

    async def _go_on_reading(self) -> None:
        try:
            await self._server._read_data()
        except Exception:
            await self.config.log.exception("A connection failed")
        finally:
            self._read.set()


def _queue(size: int) -> tuple[Callable[[Any], Awaitable[None]], Callable[[], Awaitable[Any]]]:
    send, receive = trio.open_memory_channel[Any](size)
    return send.send, receive.receive
