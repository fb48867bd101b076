"""`use_websockets()`: the socket layer for a Quart-Trio app. The only module that knows Quart.

It touches names that Quart-Trio keeps to itself (0.12 and 0.13): how a connection reads
messages. `tests/websocket/test_quart.py` fails when they move.
"""

from __future__ import annotations

import logging
from typing import Any, NoReturn

import trio
from quart.asgi import ASGIWebsocketConnection
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIWebsocketConnection

from echo.websocket.errors import OriginNotAllowed, UsageError
from echo.websocket.middleware import WebSocketMiddleware
from echo.websocket.opening import Receive, Send, opening_of_request
from echo.websocket.options import WebSocketOptions

logger = logging.getLogger("echo.websocket")

# Quart-Trio 0.12 keeps the queue in the connection, 0.13 in the websocket.
_QUEUE_IN_CONNECTION = "__init__" in vars(TrioASGIWebsocketConnection)
_QUEUE_SIZE = 10  # as there


def use_websockets(
    app: QuartTrio, options: WebSocketOptions | None = None, *, reactor: bool = True
) -> WebSocketMiddleware:
    """Give an app the socket layer: its WebSocket routes may then call `accept()`.

    Args:
        app: the app; routes that use Quart's own `websocket` go on to work.
        options: for all sockets of the app; None for the defaults.
        reactor: False keeps to the portable path where there could be a faster one.

    Returns: the middleware, which knows when the server shuts down.
    """
    middleware = WebSocketMiddleware(app.asgi_app, options or WebSocketOptions(), reactor=reactor)
    app.asgi_app = middleware  # type: ignore[method-assign,assignment]
    app.asgi_websocket_class = _Connection
    app.register_error_handler(OriginNotAllowed, lambda _: ("", 403))
    return middleware


class _Connection(TrioASGIWebsocketConnection):
    """Runs a WebSocket route without Quart's reading task, unless the route wants it.

    Quart-Trio reads every WebSocket in a task of its own, into a queue. A route that calls our
    `accept()` has no use for either, so they begin when a route accepts through Quart.
    """

    def __init__(self, app: QuartTrio, scope: Any) -> None:
        if _QUEUE_IN_CONNECTION:
            self.app = app
            self.scope = scope
            self._accepted = False
            self._closed = False
            self.send_channel: Any = _Queue()
            self.receive_channel: Any = self.send_channel
        else:
            super().__init__(app, scope)
        self.cancel_scope = trio.CancelScope()  # the route's
        self._reading: trio.CancelScope | None = None
        self._receive: Receive
        self._send: Send
        self._websocket: Any

    async def __call__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._websocket = self._create_websocket_from_scope(self._send_and_read)
        opening_of_request.get().on_accepted = self._let_go
        try:
            with self.cancel_scope:
                await ASGIWebsocketConnection.handle_websocket(
                    self, self._websocket, self._send_and_read
                )
        finally:
            if self._reading is not None:
                self._reading.cancel()

    def _let_go(self) -> None:
        """The socket is ours: forget Quart's ways to it, which weigh more than it does."""
        for each in ("_accept", "_close", "_receive", "_send"):
            if hasattr(self._websocket, each):
                setattr(self._websocket, each, _not_quarts)
        if _QUEUE_IN_CONNECTION:
            del self.send_channel, self.receive_channel

    async def _send_and_read(self, message: Any) -> None:
        if message["type"] == "websocket.accept":
            self._reading = trio.CancelScope()
            opening_of_request.get().worker.nursery.start_soon(self._read, self._reading)
        await self._send(message)

    async def _read(self, scope: trio.CancelScope) -> None:
        handle_messages: Any = self.handle_messages
        # In the place of the nursery of the route, which it only cancels.
        arguments = [self] if _QUEUE_IN_CONNECTION else [self, self._websocket]
        try:
            with scope:
                await handle_messages(*arguments, self._receive)
        except Exception:  # of the app's signal handlers; the worker must not end with it
            logger.exception("Reading a WebSocket for Quart failed")
            self.cancel_scope.cancel()


async def _not_quarts(*_: object) -> NoReturn:
    raise UsageError(
        "this WebSocket was accepted with accept(): use the socket, not quart.websocket"
    )


class _Queue:
    """What Quart-Trio 0.12 uses of both ends of its queue, which is made when it is used."""

    def __init__(self) -> None:
        self._ends: tuple[Any, Any] | None = None

    def _make(self) -> tuple[Any, Any]:
        if self._ends is None:
            self._ends = trio.open_memory_channel[Any](_QUEUE_SIZE)
        return self._ends

    async def send(self, message: str | bytes) -> None:
        await self._make()[0].send(message)

    async def receive(self) -> str | bytes:
        message: str | bytes = await self._make()[1].receive()
        return message
