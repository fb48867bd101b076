"""What a hub method knows of the client that called it, and what lives as long as it is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from echo.hubs.connection import HubConnection
    from echo.hubs.transports.link import User
    from echo.hubs.transports.request import Request


class CallerContext:
    """One client's connection, as its hub sees it: the same object in all of its calls."""

    __slots__ = ("_aborted", "_connection", "_items")

    def __init__(self, connection: HubConnection) -> None:
        self._connection = connection
        self._items: dict[Any, Any] | None = None
        self._aborted: trio.Event | None = None

    @property
    def connection_id(self) -> str:
        """By which `clients.client()` finds the client. Public."""
        return self._connection.id

    @property
    def user(self) -> User | None:
        """Who sent the requests of the connection, as the authentication hook told it."""
        return self._connection.link.user

    @property
    def user_identifier(self) -> str | None:
        """By which `clients.user()` finds the user's clients; None if it has no name."""
        return self._connection.user_identifier

    @property
    def request(self) -> Request:
        """The request that opened the transport."""
        return self._connection.link.request

    @property
    def transport(self) -> str:
        """ "WebSockets", "ServerSentEvents" or "LongPolling"."""
        return self._connection.link.transport

    @property
    def items(self) -> dict[Any, Any]:
        """Whatever the app wants to keep with the connection."""
        if self._items is None:
            self._items = {}
        return self._items

    @property
    def nursery(self) -> trio.Nursery:
        """Runs tasks that live as long as the connection. One that fails ends it."""
        return self._connection.nursery

    @property
    def aborted(self) -> trio.Event:
        """Set when the connection is over: what is sent to the client is dropped then."""
        if self._aborted is None:
            self._aborted = trio.Event()
            if self._connection.ended:
                self._aborted.set()
        return self._aborted

    def abort(self) -> None:
        """End the connection, without an invitation to come back. Never waits."""
        self._connection.stop(allow_reconnect=False)

    def note_end(self) -> None:
        """For the connection: it is over."""
        if self._aborted is not None:
            self._aborted.set()
