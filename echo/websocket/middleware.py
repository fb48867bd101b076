"""The ASGI middleware: who may open a WebSocket, and what the sockets of an app share.

Requests for a WebSocket are checked here before any route sees them. The worker, which every
socket needs, lives in the app's lifespan.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from echo.websocket.carriers import Seam, seams
from echo.websocket.errors import OriginNotAllowed, UsageError
from echo.websocket.handshake import header, origin_allowed, refusal
from echo.websocket.opening import Opening, Receive, Scope, Send, opening_of_request, refuse
from echo.websocket.options import WebSocketOptions
from echo.websocket.worker import Worker, current_worker

App = Callable[[Any, Any, Any], Awaitable[None]]


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
        kind = scope["type"]
        if kind == "lifespan":
            await self._live(scope, receive, send)
            return
        seam = self._seam(send)
        if kind != "websocket":
            await self.app(scope, receive, send)
        elif not await self._refuses(scope, send):
            opening = Opening(self.worker, self.options, scope, receive, send, seam)
            token = opening_of_request.set(opening)
            try:
                await self.app(scope, opening.receive, opening.send)
            except OriginNotAllowed:
                self.worker.counters.refused["origin"] += 1
                await refuse(scope, send, 403)
            finally:
                opening_of_request.reset(token)

    async def _refuses(self, scope: Scope, send: Send) -> bool:
        """Answer a request that no route may accept."""
        headers = scope["headers"]
        wrong = refusal("GET", scope.get("http_version", "1.1"), headers)
        refused = self.worker.counters.refused
        if wrong is not None:
            refused["invalid"] += 1
            await refuse(scope, send, wrong.status, wrong.sentence, wrong.headers)
        elif not origin_allowed(header(headers, b"origin"), self.options.allowed_origins):
            refused["origin"] += 1
            await refuse(scope, send, 403)
        elif self.worker.shutting_down.is_set():
            refused["shutting_down"] += 1
            retry = ((b"retry-after", b"1"),)
            await refuse(scope, send, 503, "The server is shutting down.", retry)
        else:
            return False
        return True

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            self._worker = Worker(nursery, reactor=self._reactor)
            token = current_worker.set(self._worker)
            try:
                await self.app(scope, receive, send)
            finally:
                self._worker = None
                current_worker.reset(token)
            nursery.cancel_scope.cancel()

    def _seam(self, send: Send) -> Seam | None:
        """The way to the server's bytes, if there is one; also learn of the server's end."""
        for seam in seams:
            server = seam.server(send)
            if server is not None:
                self.worker.watch(server)
                return seam if seam.reaches(send) else None
        return None
