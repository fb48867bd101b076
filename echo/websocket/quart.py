"""`use_websockets()`: the socket layer for a Quart-Trio app. The only module that knows Quart.

It touches names that Quart-Trio keeps to itself (0.12 and 0.13): how a connection reads
messages. `tests/websocket/test_quart.py` fails when they move.
"""

from __future__ import annotations

import logging
from typing import Any

import trio
from quart.asgi import ASGIWebsocketConnection
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIWebsocketConnection

from echo.websocket.middleware import (
    Receive,
    Send,
    WebSocketMiddleware,
    opening_of_request,
)
from echo.websocket.options import WebSocketOptions

logger = logging.getLogger("echo.websocket")


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
    return middleware


class _Connection(TrioASGIWebsocketConnection):
    """Runs a WebSocket route without Quart's reading task, unless the route wants it.

    Quart-Trio reads every WebSocket in a task of its own, into a queue. A route that calls our
    `accept()` has no use for it, so the task begins when a route accepts through Quart.
    """

    async def __call__(self, receive: Receive, send: Send) -> None:
        opening = opening_of_request.get()
        reading = trio.CancelScope()

        async def send_and_read(message: Any) -> None:
            if message["type"] == "websocket.accept":
                opening.worker.nursery.start_soon(read)
            await send(message)

        async def read() -> None:
            try:
                with reading:
                    await handle_messages(handler, *queue, receive)
            except Exception:  # of the app's signal handlers; the worker must not end with it
                logger.exception("Reading a WebSocket for Quart failed")
                handler.cancel_scope.cancel()

        websocket = self._create_websocket_from_scope(send_and_read)
        # Quart-Trio 0.13 keeps the queue in the websocket, 0.12 in the connection.
        queue: tuple[Any, ...] = (websocket,) if hasattr(websocket, "buffer") else ()
        handle_messages: Any = self.handle_messages
        handler = _Handler()
        try:
            with handler.cancel_scope:
                await ASGIWebsocketConnection.handle_websocket(self, websocket, send_and_read)
        finally:
            reading.cancel()


class _Handler:
    """What Quart-Trio's reading task knows of the nursery of the route: how to cancel it."""

    def __init__(self) -> None:
        self.cancel_scope = trio.CancelScope()
