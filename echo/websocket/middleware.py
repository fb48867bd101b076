"""The ASGI middleware: who may open a WebSocket, and `accept()` for the route that does.

Requests for a WebSocket are checked here before any route sees them; the route's `accept()`
finds its opening handshake in a context variable. The worker lives in the app's lifespan.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Unpack

import trio

from echo.websocket.carriers import Seam, seams
from echo.websocket.carriers.asgi import AsgiCarrier
from echo.websocket.deflate import negotiate
from echo.websocket.errors import ConnectionClosed, UsageError
from echo.websocket.handshake import header, origin_allowed, refusal
from echo.websocket.options import Overrides, WebSocketOptions
from echo.websocket.socket import WebSocket
from echo.websocket.worker import Worker

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

opening_of_request: ContextVar[Opening] = ContextVar("echo.websocket.opening")


@asynccontextmanager
async def accept(
    *,
    subprotocol: str | None = None,
    headers: Iterable[tuple[str, str]] = (),
    **overrides: Unpack[Overrides],
) -> AsyncIterator[WebSocket]:
    """Accept the WebSocket of this request; the block is its handler.

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
        ValueError: the subprotocol was not offered, or an option is out of its range.
    """
    opening = opening_of_request.get(None)
    if opening is None:
        raise UsageError(
            "accept() found no WebSocket request: call it in a WebSocket route of an app that "
            "went through use_websockets()"
        )
    socket = await opening.accept(subprotocol, headers, overrides)
    code, reason = 1000, ""
    try:
        async with trio.open_nursery() as nursery:
            socket.attach(nursery)
            yield socket
            nursery.cancel_scope.cancel()
    except BaseException as error:
        failure, cancelled = _sort(error)
        if failure is not None:
            code, reason = 1011, "internal error"
            raise failure from failure.__cause__
        if cancelled is not None:
            code, reason = 1001, ""
            raise cancelled from None
    finally:
        socket.leave(code, reason)
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


class WebSocketMiddleware:
    """Wraps an ASGI app; for one of Quart-Trio, `use_websockets()` does so."""

    def __init__(self, app: App, options: WebSocketOptions, *, reactor: bool = True) -> None:
        self.app = app
        self.options = options
        self._reactor = reactor
        self._worker: Worker | None = None

    @property
    def worker(self) -> Worker:
        """What the sockets of this app share, while the app is served.

        Raises:
            UsageError: the server runs no lifespan, or the app is not being served.
        """
        if self._worker is None:
            raise UsageError(
                "the app's lifespan is not running: serve it with a server that supports the "
                "ASGI lifespan, such as Hypercorn"
            )
        return self._worker

    async def shutting_down(self) -> None:
        """Wait until the server shuts down. For tasks of the app that have no socket."""
        await self.worker.shutting_down.wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        seam = self._seam(send)
        if scope["type"] == "websocket":
            await self._open(scope, receive, send, seam)
        else:
            await self.app(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            self._worker = Worker(nursery, reactor=self._reactor)
            try:
                await self.app(scope, receive, send)
            finally:
                self._worker = None
            nursery.cancel_scope.cancel()

    def _seam(self, send: Send) -> Seam | None:
        """The way to the server's bytes, if there is one; also learn of the server's end."""
        for seam in seams:
            server = seam.server(send)
            if server is not None:
                self.worker.watch(server)
                return seam if seam.reaches(send) else None
        return None

    async def _open(self, scope: Scope, receive: Receive, send: Send, seam: Seam | None) -> None:
        headers = scope["headers"]
        wrong = refusal("GET", scope.get("http_version", "1.1"), headers)
        if wrong is not None:
            await _refuse(scope, send, wrong.status, wrong.sentence, wrong.headers)
        elif not origin_allowed(header(headers, b"origin"), self.options.allowed_origins):
            await _refuse(scope, send, 403)
        elif self.worker.shutting_down.is_set():
            retry = ((b"retry-after", b"1"),)
            await _refuse(scope, send, 503, "The server is shutting down.", retry)
        else:
            opening = Opening(self, scope, receive, send, seam)
            token = opening_of_request.set(opening)
            try:
                with opening.scope:
                    await self.app(scope, opening.receive, opening.send)
            finally:
                opening_of_request.reset(token)


async def _refuse(
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


class Opening:
    """One opening handshake, between the server and the route.

    The framework gets this `receive` and `send` instead of the server's. Until `accept()` they
    pass everything on, so that a route may also use the framework's own WebSocket. Afterwards
    the framework is told nothing more and its words are dropped: the socket is ours.
    """

    def __init__(
        self,
        middleware: WebSocketMiddleware,
        scope: Scope,
        receive: Receive,
        send: Send,
        seam: Seam | None,
    ) -> None:
        self._middleware = middleware
        self._scope = scope
        self._receive = receive
        self._send = send
        self._seam = seam
        self._receiving = False
        self._carrier: AsgiCarrier | None = None
        self._accepted = False
        self.scope = trio.CancelScope()

    @property
    def worker(self) -> Worker:
        return self._middleware.worker

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
            await self._send(message)

    async def _check_origin(self, allowed: tuple[str, ...]) -> None:
        """Refuse the request and end its route, if this route wants other origins."""
        if not origin_allowed(header(self._scope["headers"], b"origin"), allowed):
            self._accepted = True  # whatever the framework says to it comes too late
            await _refuse(self._scope, self._send, 403)
            self.scope.cancel()
            await trio.lowlevel.checkpoint()

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
        options = self._middleware.options
        if overrides:
            options = replace(options, **overrides)
        if "allowed_origins" in overrides:
            await self._check_origin(options.allowed_origins)
        answer = [(name.lower().encode(), value.encode()) for name, value in headers]
        agreement = None
        if options.compression and self._seam is not None:
            offers = header(self._scope["headers"], b"sec-websocket-extensions") or ""
            agreement = negotiate(
                offers,
                server_context_takeover=options.server_context_takeover,
                server_max_window_bits=options.server_max_window_bits,
            )
            if agreement is not None:
                answer.append((b"sec-websocket-extensions", agreement.response.encode()))
        worker = self.worker
        socket = WebSocket(worker, options, subprotocol=subprotocol, agreement=agreement)
        message = {"type": "websocket.accept", "subprotocol": subprotocol, "headers": answer}
        self._accepted = True
        if self._seam is not None:
            await self._seam.accept(self._send, message, socket)
        else:
            self._carrier = AsgiCarrier(socket, self._receive, self._send)
            await self._send(message)
            if not self._receiving:
                worker.nursery.start_soon(self._carrier.pump)
        socket.opened()
        return socket
