"""The body of a request, read by who wants it and as slowly as they want.

Quart reads every request into a queue without a bound, in a task of its own. For the paths of a
hub it is told that there is no body; the hub reads it from the server itself, which then holds
back the client. What nobody reads is thrown away, so that the server can end the request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any
from urllib.parse import urlsplit

import trio
from quart.wrappers import base

from echo.websocket import UsageError

App = Callable[[Any, Any, Any], Awaitable[None]]

_KEY = "echo.hubs.body"


class _Never(Exception):
    """What Quart 0.22 does not raise."""


# Raised by Quart 0.23 when a client leaves just as its answer is ready, past Quart-Trio.
_LEFT: type[Exception] = getattr(base, "ClientDisconnectedError", _Never)


class ClientGone(Exception):
    """The client left in the middle of its request."""


class HeldBodies:
    """Wraps an ASGI app; steps aside for all but HTTP on these paths."""

    def __init__(self, app: App, paths: Collection[str]) -> None:
        self.app = app
        self._paths = paths

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        if scope["type"] != "http" or _path(scope) not in self._paths:
            return self.app(scope, receive, send)
        body = scope[_KEY] = RequestBody(receive, send, held=scope["method"] == "POST")
        return self._hold(scope, body)

    async def _hold(self, scope: Any, body: RequestBody) -> None:
        try:
            await self.app(scope, body.tell, body.say)
        except* _LEFT:
            pass  # nobody is there to be answered


def _path(scope: Any) -> str:
    path: str = scope["path"]
    if not path.startswith("/"):  # a request may name the whole URL (RFC 9112 section 3.2.2)
        path = urlsplit(path).path
    return path.removeprefix(scope.get("root_path") or "")


def body_of(scope: Any) -> RequestBody:
    """The body of a request that came through `HeldBodies`."""
    body: RequestBody | None = scope.get(_KEY)
    if body is None:
        raise UsageError(
            "a middleware beneath the hub's changes the path of its requests: wrap the app in it "
            "after the hub was mapped"
        )
    return body


class RequestBody:
    """A request's body, and who hears of it: one reader, then the framework.

    Args:
        held: whether somebody may read it; otherwise it is thrown away at once.
    """

    def __init__(self, receive: Any, send: Any, *, held: bool) -> None:
        self._receive = receive
        self._send = send
        self._told = False  # whether the framework was told that there is no body
        self._complete = False
        self._hearing = trio.CancelScope()  # of the framework
        self._answered = False
        self._gone = False
        self._free = trio.Event()  # set when nobody will read any more
        if not held:
            self._free.set()

    async def read(self) -> bytes:
        """The next bytes; b"" at the end. Raises `ClientGone`."""
        while not self._complete:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._gone = True
                self._free.set()
                raise ClientGone
            if not message.get("more_body", False):
                self._complete = True
                self._free.set()
            if data := message.get("body"):
                return bytes(data)
        return b""

    async def tell(self) -> Any:
        """What the framework receives: an empty body, and in time that the client is gone."""
        if not self._told:
            self._told = True
            return {"type": "http.request", "body": b"", "more_body": False}
        with self._hearing:
            await self._free.wait()
            while not self._gone:
                message = await self._receive()
                self._gone = message["type"] == "http.disconnect"
        if self._answered:
            # Quart would take the end of the request for a client that is gone, and cancel the
            # sending of the last part while the server is still at it.
            await trio.sleep_forever()
        return {"type": "http.disconnect"}

    def hang_up(self) -> None:
        """Make the framework end the request now, as if the client were gone."""
        self._hearing.cancel()

    async def say(self, message: Any) -> None:
        """What the framework sends."""
        if message["type"] == "http.response.start":
            self._free.set()
        elif not message.get("more_body", False):
            self._answered = True
        await self._send(message)
