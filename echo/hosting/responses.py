"""Lets the last part of an HTTP response be sent to its very end.

While Hypercorn still handles it, it tells the app that the request is over. Quart-Trio takes that
for a client that is gone and cancels the sending, and with it what Hypercorn has to do next: to
close the connection, or to begin the time that it may be idle. Such a connection would stay for
ever, and hold up the end of the process. So nothing is heard after the last part.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

App = Callable[[Any, Any, Any], Awaitable[None]]


class WholeResponses:
    """Wraps an ASGI app; steps aside for all but HTTP."""

    def __init__(self, app: App) -> None:
        self._app = app

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        ended = False

        async def hear() -> Any:
            message = await receive()
            if ended:
                await trio.sleep_forever()  # until the app has returned from its last word
            return message

        async def say(message: Any) -> None:
            nonlocal ended
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                ended = True
            await send(message)

        return self._app(scope, hear, say)
