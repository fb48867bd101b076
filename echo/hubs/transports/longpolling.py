"""Long polling: the client asks again and again, and each answer takes all that waits.

There is one poll at a time: a newer one supersedes the one before. The link lives on between
polls, for at most `disconnect_timeout`; its end is told with 204, after all else was taken.
"""

from __future__ import annotations

from typing import Any

import trio

from echo.hubs.transports.answer import Answer
from echo.hubs.transports.options import ConnectionOptions
from echo.hubs.transports.posted import PostedLink
from echo.websocket.clock import Clock

NO_CACHE = (
    ("Cache-Control", "no-cache, no-store"),
    ("Pragma", "no-cache"),
    ("Expires", "Thu, 01 Jan 1970 00:00:00 GMT"),
)

_DATA = "application/octet-stream"


class LongPollingLink(PostedLink):
    __slots__ = ("_newest",)

    transport = "LongPolling"
    keeps_alive = True

    def __init__(self, options: ConnectionOptions, clock: Clock, **about: Any) -> None:
        super().__init__(options, clock, **about)
        self._newest: object = None  # the poll that counts

    def first_poll(self) -> Answer:
        """The first poll says at once that the connection is there."""
        return Answer(200, content_type=_DATA, headers=NO_CACHE)

    async def poll(self) -> Answer:
        """Wait for what there is to tell."""
        self._newest = this = object()
        self._absence.end()
        self._outward.unpark_all()
        try:
            with trio.move_on_after(self._options.long_poll_timeout):
                while self._newest is this and not self._outbox and not self._is_over:
                    await self._outward.park()
            if self._newest is not this:
                return Answer(204, headers=NO_CACHE)
            if self._outbox:
                return Answer(200, self._take(), content_type=_DATA, headers=NO_CACHE)
            if self._is_over:
                self.end("we closed it")
                return Answer(204, headers=NO_CACHE)
            return Answer(200, headers=NO_CACHE)
        finally:
            if self._newest is this:
                self._absence.begin()
