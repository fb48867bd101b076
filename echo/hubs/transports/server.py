"""Who talks with the clients: a hub, or an app's handler of raw connections.

What one client does wrong is logged, and kept from the worker and all others.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

import trio

from echo.hubs.transports.link import Link, User
from echo.hubs.transports.options import ConnectionOptions

logger = logging.getLogger("echo.hubs")

Handler: TypeAlias = Callable[[Link], Awaitable[None]]
Authorize: TypeAlias = Callable[[User | None], bool]


class LinkServer(Protocol):
    """What an endpoint asks of who serves its links."""

    last_words: bool
    """Whether `shut_down()` sees to its WebSockets too. Otherwise the socket layer closes them,
    with the shutdown code."""

    async def admits(self, user: User | None) -> bool:
        """Whether this user may connect. Asked for each request, also for those of a link."""

    async def serve(self, link: Link) -> None:
        """Talk with a client until the connection is over; the link is closed afterwards."""

    async def shut_down(self, spread: float) -> None:
        """The server goes down: say goodbye on all links, evenly over so many seconds."""


class RawServer:
    """Serves links with a handler of the app."""

    last_words = False

    def __init__(
        self, handler: Handler, authorize: Authorize | None, options: ConnectionOptions
    ) -> None:
        self._handler = handler
        self._most_unsent = options.outbox_size
        self._authorize = authorize
        self._links: set[Link] = set()

    async def admits(self, user: User | None) -> bool:
        return self._authorize is None or self._authorize(user)

    async def serve(self, link: Link) -> None:
        link.most_unsent = self._most_unsent
        self._links.add(link)
        try:
            await self._handler(link)
        finally:
            self._links.discard(link)

    async def shut_down(self, spread: float) -> None:
        async with trio.open_nursery() as nursery:
            for link in list(self._links):
                if link.transport != "WebSockets" or link.stateful:
                    nursery.start_soon(link.close)


async def guarded(work: Awaitable[None], what: str) -> bool:
    """Do some work whose errors must not end who begins it; returns whether it failed."""
    try:
        await work
    except (Exception, BaseExceptionGroup) as error:
        cancelled, failure = BaseExceptionGroup("", [error]).split(trio.Cancelled)
        if failure is not None:
            logger.error("%s failed", what, exc_info=error)
        if cancelled is not None:
            raise cancelled from None
        return True
    return False
