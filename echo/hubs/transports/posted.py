"""What server-sent events and long polling share: the client sends by POST, and both ways wait.

What was posted waits for the hub in a bounded inbox; a POST ends when the hub has room for all of
it. What is sent waits in the outbox until a response takes it. The link ends once, for whatever
reason; who waits for anything here is woken then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import trio
from trio.lowlevel import ParkingLot

from echo.hubs.transports.deadline import Deadline
from echo.hubs.transports.link import Link, logger
from echo.hubs.transports.options import ConnectionOptions
from echo.hubs.transports.text import whole_characters
from echo.websocket.clock import Clock

Read: TypeAlias = Callable[[], Awaitable[bytes]]


class LinkEnded(Exception):
    """The connection ended before all of a request's body was taken."""


class PostRefused(Exception):
    """A POST that cannot be taken: `status` and `sentence` for the answer."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


class PostedLink(Link):
    __slots__ = (
        "_absence",
        "_closing",
        "_inbox",
        "_inbox_size",
        "_inward",
        "_options",
        "_outbox",
        "_outbox_size",
        "_outward",
        "_posting",
    )

    def __init__(self, options: ConnectionOptions, clock: Clock, **about: Any) -> None:
        super().__init__(**about)
        self._options = options
        self._inbox: deque[bytes] = deque()
        self._inbox_size = 0
        self._inward = ParkingLot()  # the hub waits for a POST, a POST for the hub
        self._posting = trio.Lock()  # first come, first served
        self._outbox: deque[bytes] = deque()
        self._outbox_size = 0
        self._outward = ParkingLot()  # a response waits for the hub, the hub for a response
        self._closing = False  # no more is sent or received, but what waits may go out
        self._absence = Deadline(clock, options.disconnect_timeout, self._give_up)
        self._absence.begin()

    # From the client

    async def receive(self) -> bytes:
        while not self._inbox:
            if self._is_over:
                return b""
            await self._inward.park()
        data = self._inbox.popleft()
        self._inbox_size -= len(data)
        self._inward.unpark_all()
        return data

    async def post(self, read: Read, content_length: str = "") -> None:
        """Take the body of a POST, one after the other.

        A body that fits the buffer is taken whole or not at all.

        Args:
            read: reads some more of the body; b"" at its end.
            content_length: what the client says of its length, if it does.

        Raises:
            PostRefused: the body is too large or does not come; if the hub has seen a part of
                it, the link is aborted.
            LinkEnded: the link has ended before all of it was taken.
        """
        limits = self._options
        too_large = PostRefused(413, "The body of the POST is too large.")
        if content_length.isdecimal() and int(content_length) > limits.max_post_size:
            raise too_large
        async with self._posting:
            held = bytearray()
            size = 0
            seen = False
            try:
                while data := await self._read(read):
                    size += len(data)
                    if size > limits.max_post_size:
                        raise too_large
                    held += data
                    if len(held) >= limits.application_buffer_size:
                        whole = whole_characters(held)
                        seen = True
                        await self._put(bytes(held[:whole]))
                        del held[:whole]
                if held:
                    await self._put(bytes(held))
            except BaseException:
                if seen:
                    self.abort("a POST broke off in the middle")
                raise

    async def _read(self, read: Read) -> bytes:
        if self._is_over:
            raise LinkEnded
        with trio.move_on_after(self._options.post_timeout):
            return await read()
        raise PostRefused(408, "The body of the POST did not come in time.")

    async def _put(self, data: bytes) -> None:
        most = self._options.application_buffer_size
        while self._inbox_size and self._inbox_size + len(data) > most and not self._is_over:
            await self._inward.park()
        if self._is_over:
            raise LinkEnded
        self._inbox.append(data)
        self._inbox_size += len(data)
        self._inward.unpark_all()

    # To the client

    def send(self, data: bytes) -> None:
        if not self._is_over:
            data = self._encode(data)
            self._outbox.append(data)
            self._outbox_size += len(data)
            self._outward.unpark_all()
            self._check_unsent()

    def _encode(self, data: bytes) -> bytes:
        """What goes out for it."""
        return data

    @property
    def unsent(self) -> int:
        return self._outbox_size

    async def drain(self) -> None:
        while self.unsent > self._options.transport_buffer_size // 2 and not self.ended:
            await self._outward.park()

    def _take(self, most: int | None = None) -> bytes:
        """What waits for the client, to be sent now: whole messages, if `most` bytes allow."""
        taken: list[bytes] = []
        size = 0
        while self._outbox and (most is None or size < most):
            taken.append(self._outbox.popleft())
            size += len(taken[-1])
        self._outbox_size -= size
        self._outward.unpark_all()
        return b"".join(taken)

    # The end

    @property
    def _is_over(self) -> bool:
        return self.ended or self._closing

    async def close(self, error: str | None = None) -> None:
        if not self.ended:
            self._closing = True
            self._inward.unpark_all()
            self._outward.unpark_all()
            try:
                with trio.move_on_after(self._options.close_timeout):
                    await self.wait_ended()
            finally:
                self.end("we closed it, and the client did not come for the rest")

    def abort(self, reason: str) -> None:
        if not self.ended:
            logger.info("Connection %s aborted: %s", self.id, reason)
            self._inbox.clear()
            self._inbox_size = 0
            self.end(reason)

    def end(self, why: str) -> None:
        """The link has ended. What the client posted before can still be received."""
        if self._note_end(why):
            self._outbox.clear()
            self._outbox_size = 0
            self._inward.unpark_all()
            self._outward.unpark_all()

    def _give_up(self) -> None:
        self.end("the client stayed away")
