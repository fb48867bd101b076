"""Link: one client's connection, whatever carries it: bytes in, bytes out.

A link begins when its transport does and ends once, for good; `ended` and `why` tell. One task
receives. Sending never waits: who cares how much waits looks at `unsent`, or waits in `drain()`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

import trio

from echo.hubs.protocol import TransferFormat
from echo.hubs.transports.options import Transport
from echo.hubs.transports.request import Request

logger = logging.getLogger("echo.hubs")


class User(Protocol):
    """Who sends the requests of a connection, as the app's authentication hook tells it."""

    @property
    def id(self) -> str | None:
        """By which `clients.user(id)` finds the user; None if it has no name."""


class LinkResumed(Exception):
    """The client came back: another transport has taken the place of the one that was lost.

    Raised by `Link.receive()` of a stateful link. Whatever was under way, in either direction,
    is lost, and a message may have come in part. From the moment this is raised `send()` reaches
    the new transport, so whoever catches it can say first where both sides go on.
    """


class Link(ABC):
    """One client's connection. Subclasses are the transports, and memory in tests."""

    __slots__ = (
        "__weakref__",
        "_end_event",
        "ended",
        "id",
        "most_unsent",
        "request",
        "stateful",
        "token",
        "user",
        "why",
    )

    transport: ClassVar[Transport]
    transfer_formats: ClassVar[tuple[TransferFormat, ...]] = ("Text", "Binary")
    """What the transport can carry."""
    keeps_alive: ClassVar[bool] = False
    """Whether the transport sees to itself that both ends know of each other (long polling): the
    hub then sends no pings and expects none."""

    def __init__(
        self,
        *,
        id: str,
        token: str,
        request: Request,
        user: User | None = None,
        stateful: bool = False,
    ) -> None:
        self.id = id
        """Public; base64url of 16 random bytes."""
        self.token = token
        """Secret; addresses the connection in the client's requests."""
        self.request = request
        """The request that opened the transport; for a resumed link, the last such request."""
        self.user = user
        self.stateful = stateful
        """Whether stateful reconnect was negotiated. Whoever serves the link may set it to False
        when the client turns out not to know how."""
        self.most_unsent: int | None = None
        """Bytes that may wait for the client; when there are more, `send()` aborts the link. None:
        whoever sends sees to that."""
        self.ended = False
        """Whether the connection is over, for good."""
        self.why = ""
        """Why it ended, in one sentence."""
        self._end_event: trio.Event | None = None  # for who waits for the end

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.why or 'open'}>"

    def set_format(self, transfer_format: TransferFormat) -> None:  # noqa: B027
        """Say once, as soon as the protocol is known, what is sent: text until then.

        Raises ValueError if the transport cannot carry it.
        """

    @abstractmethod
    async def receive(self) -> bytes:
        """The next bytes from the client, never empty; b"" when it is gone for good.

        Boundaries mean nothing, except that text is not cut within a character. While nobody
        receives, the transport holds back the client.

        Raises:
            LinkResumed: see there; only if `stateful`.
        """

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Send whole messages. Never waits; drops them when no transport is there to take them."""

    @property
    @abstractmethod
    def unsent(self) -> int:
        """How many bytes wait for the client to take them."""

    @abstractmethod
    async def drain(self) -> None:
        """Wait until less than half of `transport_buffer_size` waits, or the link has ended.

        Returns at once while a stateful link has no transport.
        """

    async def wait_ended(self) -> None:
        """Wait until the link has ended, also while nobody receives."""
        if self._end_event is None:
            self._end_event = trio.Event()
            if self.ended:
                self._end_event.set()
        await self._end_event.wait()

    @abstractmethod
    async def close(self, error: str | None = None) -> None:
        """End the link after what waits; bounded by `close_timeout`, then it is aborted.

        WebSockets close with 1000, or with 1011 if there is an error; server-sent events end,
        long polls answer 204. Closing what has ended does nothing. A stateful link ends too.
        """

    @abstractmethod
    def abort(self, reason: str) -> None:
        """End the link at once, without what waits. The reason is logged, once."""

    def _check_unsent(self) -> None:
        """Something was put into the outbox. For subclasses."""
        most = self.most_unsent
        if most is not None and self.unsent > most:
            self.abort(f"the client is too slow: more than {most} bytes wait for it")

    def _note_end(self, why: str) -> bool:
        """Remember the end; returns whether it is the first. For subclasses."""
        if self.why:
            return False
        self.ended = True
        self.why = why
        if self._end_event is not None:
            self._end_event.set()
        logger.debug("Connection %s over %s ended: %s", self.id, self.transport, why)
        return True
