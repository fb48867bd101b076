"""From a request for a WebSocket to the accepted socket: what a route's `accept()` does.

The middleware puts the opening handshake of a request into a context variable, where `accept()`
finds it. The block of `accept()` is the socket's handler; whatever ends it, the socket is closed
when the block is left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextvars import ContextVar
from dataclasses import replace
from types import TracebackType
from typing import Any, Unpack

import trio

from echo.websocket.carriers import Seam
from echo.websocket.carriers.asgi import AsgiCarrier
from echo.websocket.deflate import Agreement, negotiate
from echo.websocket.errors import ConnectionClosed, OriginNotAllowed, UsageError
from echo.websocket.handshake import encode_headers, header, origin_allowed
from echo.websocket.options import Overrides, WebSocketOptions
from echo.websocket.socket import WebSocket
from echo.websocket.worker import Worker

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

opening_of_request: ContextVar[Opening] = ContextVar("echo.websocket.opening")


def accept(
    *,
    subprotocol: str | None = None,
    headers: Iterable[tuple[str, str]] = (),
    **overrides: Unpack[Overrides],
) -> Acceptance:
    """Accept the WebSocket of this request: `async with accept() as socket`, its handler.

    When the block ends, the socket is closed with 1000; if it fails, with 1011, and the error
    goes on to the framework, which logs it. An error that only says that this peer is gone ends
    the block quietly. After its peer is gone a block has `close_timeout` seconds to end; then
    it is cancelled.

    Args:
        subprotocol: one of those that the client offered (section 1.9).
        headers: further headers of the answer.
        **overrides: options that differ for this socket; see `WebSocketOptions`.

    Raises:
        UsageError: there is no WebSocket request to accept, or it was accepted before.
        ValueError: the subprotocol was not offered, a header is none, or an option is out of
            its range.
        OriginNotAllowed: by an override of `allowed_origins`; the request is answered with 403.
    """
    opening = opening_of_request.get(None)
    if opening is None:
        raise UsageError(
            "accept() found no WebSocket request: call it in a WebSocket route of an app that "
            "went through use_websockets()"
        )
    return Acceptance(opening, subprotocol, headers, overrides)


class Acceptance:
    """What `accept()` returns, for one `async with`."""

    __slots__ = ("_arguments", "_manager", "_opening", "_socket")

    def __init__(
        self,
        opening: Opening,
        subprotocol: str | None,
        headers: Iterable[tuple[str, str]],
        overrides: Overrides,
    ) -> None:
        self._opening: Opening | None = opening
        self._arguments = subprotocol, headers, overrides
        self._manager: Any = None  # of the nursery
        self._socket: WebSocket

    async def __aenter__(self) -> WebSocket:
        if self._opening is None:
            raise UsageError("the result of accept() is for one `async with`")
        self._socket = socket = await self._opening.accept(*self._arguments)
        self._opening = None
        self._manager = trio.open_nursery()
        socket.attach(await self._manager.__aenter__())
        return socket

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        socket = self._socket
        if error is None or isinstance(error, ConnectionClosed):
            kind = error = traceback = None
            socket.nursery.cancel_scope.cancel()
        last: BaseException | None = None
        try:
            if not await self._manager.__aexit__(kind, error, traceback):
                last = error
        except BaseException as raised:
            last = raised
        failure, cancelled = _sort(last) if last is not None else (None, None)
        if failure is not None:
            await _leave(socket, 1011, "internal error")
            if failure is not error:
                raise failure from failure.__cause__
        elif cancelled is not None:
            await _leave(socket, 1001, "")
            raise cancelled from None
        else:
            await _leave(socket, 1000, "")
        return failure is None


async def _leave(socket: WebSocket, code: int, reason: str) -> None:
    socket.leave(code, reason)
    if not socket.is_over:
        # The one goodbye; the socket's own timer ends it earlier.
        with trio.move_on_after(socket.options.close_timeout, shield=True):
            await socket.wait_closed()
        socket.abort()


def _sort(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Split what left the block into what is a real failure and what is a cancellation.

    `ConnectionClosed` is neither. A failure that is alone comes out of its group.
    """
    if not isinstance(error, BaseExceptionGroup):
        error = BaseExceptionGroup("", [error])
    cancelled, rest = error.split(trio.Cancelled)
    failure: BaseException | None = rest.split(ConnectionClosed)[1] if rest is not None else None
    while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
        failure = failure.exceptions[0]
    return failure, cancelled


class Opening:
    """One opening handshake, between the server and the route.

    The framework gets this `receive` and `send` instead of the server's. Until `accept()` they
    pass everything on, so that a route may also use the framework's own WebSocket. Afterwards
    the framework is told nothing more and its words are dropped: the socket is ours.
    """

    __slots__ = (
        "_accepted",
        "_carrier",
        "_options",
        "_receive",
        "_receiving",
        "_refusal",
        "_scope",
        "_seam",
        "_send",
        "on_accepted",
        "worker",
    )

    def __init__(
        self,
        worker: Worker,
        options: WebSocketOptions,
        scope: Scope,
        receive: Receive,
        send: Send,
        seam: Seam | None,
    ) -> None:
        self.worker = worker
        self._options = options
        self._scope = scope
        self._receive = receive
        self._send = send
        self._seam = seam
        self._receiving = False
        self._carrier: AsgiCarrier | None = None
        self._accepted = False
        self._refusal = "application"  # the reason, if there is no more particular one
        self.on_accepted: Callable[[], None] | None = None
        """Called once the socket is ours; a framework may then forget its own ways to it."""

    async def receive(self) -> Message:
        self._receiving = True
        message: Message = await self._receive()
        self._receiving = False
        if not self._accepted:
            return message
        if self._carrier is not None:
            # The framework asked before we accepted, and got what is the socket's.
            await self._carrier.deliver(message)
            await self._carrier.pump()
        await trio.sleep_forever()
        raise AssertionError

    async def send(self, message: Message) -> None:
        if not self._accepted:
            self._count(message["type"])
            await self._send(message)

    def _count(self, kind: str) -> None:
        if kind == "websocket.accept":  # the framework's own
            self._refusal = ""
        elif kind in ("websocket.http.response.start", "websocket.close") and self._refusal:
            self.worker.counters.refused[self._refusal] += 1
            self._refusal = ""

    async def accept(
        self,
        subprotocol: str | None,
        headers: Iterable[tuple[str, str]],
        overrides: Overrides,
    ) -> WebSocket:
        if self._accepted:
            raise UsageError("this WebSocket was accepted before")
        offered = self._scope.get("subprotocols") or []
        if subprotocol is not None and subprotocol not in offered:
            raise ValueError(
                f"the client did not offer the subprotocol {subprotocol!r}, but "
                f"{', '.join(map(repr, offered)) or 'none'}"
            )
        options = self._options
        if overrides:
            options = replace(options, **overrides)
            origin = header(self._scope["headers"], b"origin")
            if not origin_allowed(origin, options.allowed_origins):
                self._refusal = "origin"
                raise OriginNotAllowed(f"pages of {origin} may not connect here")
        answer = encode_headers(headers)
        agreement = self._negotiate(options)
        if agreement is not None:
            answer.append((b"sec-websocket-extensions", agreement.response.encode()))
        socket = WebSocket(self.worker, options, subprotocol=subprotocol, agreement=agreement)
        message = {"type": "websocket.accept", "subprotocol": subprotocol, "headers": answer}
        self._accepted = True
        if self._seam is not None:
            await self._seam.accept(self._send, message, socket)
        else:
            self._carrier = AsgiCarrier(socket, self._receive, self._send)
            await self._send(message)
            if not self._receiving:
                self.worker.spawn(socket, self._carrier.pump)
        if self.on_accepted is not None:
            self.on_accepted()
            self.on_accepted = None
        socket.opened()
        return socket

    def _negotiate(self, options: WebSocketOptions) -> Agreement | None:
        if not options.compression or self._seam is None:
            return None
        return negotiate(
            header(self._scope["headers"], b"sec-websocket-extensions") or "",
            server_context_takeover=options.server_context_takeover,
            server_max_window_bits=options.server_max_window_bits,
        )


async def refuse(
    scope: Scope,
    send: Send,
    status: int,
    sentence: str = "",
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> None:
    """Answer a handshake with an HTTP response, where the server can."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": 1000})
        return
    body = f"{sentence}\n".encode() if sentence else b""
    about = [(b"content-length", str(len(body)).encode())]
    if body:
        about.append((b"content-type", b"text/plain; charset=utf-8"))
    await send(
        {
            "type": "websocket.http.response.start",
            "status": status,
            "headers": [*about, *headers],
        }
    )
    await send({"type": "websocket.http.response.body", "body": body})
