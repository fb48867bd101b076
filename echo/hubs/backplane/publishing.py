"""The link that publishes. Its queue is bounded in bytes, from `publish()` to the engine's answer.

Whatever is not published is counted by reason; who waits for an answer is told.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from echo.hubs.backplane.backplane import BackplaneError, BackplaneMetrics
from echo.hubs.backplane.engine import (
    EngineAway,
    EngineRefusal,
    RedisOptions,
    Session,
    answer,
    pack,
)
from echo.hubs.backplane.link import Link

_ABOUT: Final = object()

logger = logging.getLogger("echo.hubs.backplane")


class Publication:
    """A message whose answer somebody waits for."""

    __slots__ = ("answered", "error", "nodes", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.answered = trio.Event()
        self.nodes = 0
        self.error: str | None = None


class PublishingLink(Link):
    """One link for `PUBLISH` or, on a shard, `SPUBLISH`.

    Args:
        name: see `Link`.
        connect: see `Link`.
        options: the limits.
        changed: see `Link`.
        metrics: counts what is published.
        lose: counts what is not, by reason.
        refused: told why the engine has refused a message; returns whether that was expected.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Awaitable[Session]],
        options: RedisOptions,
        changed: Callable[[], None],
        *,
        metrics: BackplaneMetrics,
        lose: Callable[[str], None],
        refused: Callable[[str], bool],
    ) -> None:
        super().__init__(name, connect, options, changed)
        self.counts = True
        """Whether the engine knows how many nodes it sends a message to."""
        self._command = "SPUBLISH" if options.sharded else "PUBLISH"
        self._metrics = metrics
        self._lose = lose
        self._refused = refused
        self._told = False
        self._room = trio.lowlevel.ParkingLot()
        # One message at a time is timed: which one it is of all since the connection began.
        self._timed: tuple[int, float] | None = None

    @property
    def crowded(self) -> bool:
        return self.size > self.options.queue_size // 2

    async def room(self) -> None:
        """Wait until there is room again, or the link is away."""
        while self.crowded:
            await self._room.park()

    def publish(self, channel: bytes, data: bytes) -> None:
        if (command := self._admitted(channel, data)) is not None:
            self._send(command, len(data))

    async def publish_counted(self, channel: bytes, data: bytes) -> int | None:
        command = self._admitted(channel, data)
        if command is None:
            why = "its queue is full" if self.up else self.away
            raise BackplaneError(f"The message was not published: {why}.")
        publication = Publication(len(data))
        self._send(command, publication)
        await publication.answered.wait()
        if publication.error is not None:
            raise BackplaneError(publication.error)
        return publication.nodes if self.counts else None

    def _admitted(self, channel: bytes, data: bytes) -> bytes | None:
        """The command, if there is room for it; else the message is lost."""
        if not self.up:
            self._lose("away")
            return None
        command = pack(self._command, channel, data)
        if self.size + len(command) > self.options.queue_size:
            self._lose("full")
            return None
        return command

    def _send(self, command: bytes, what: int | Publication) -> None:
        if self._timed is None:
            number = self._answered + len(self._flying) + len(self._waiting) + 1
            self._timed = number, trio.current_time()
        self._put(command, what)

    def _begin(self) -> None:
        self._told = False
        if not self.options.sharded:
            self._put(pack("INFO", "server"), _ABOUT)
        self._rise()

    def _fill(self) -> None:
        """Nothing: `publish()` has."""

    def _take(self, what: Any, reply: Any) -> None:
        if what is _ABOUT:
            # A cluster spreads what is published, but counts only the nodes of one engine. INFO
            # is not for everybody: who may not ask has none.
            self.counts = not (isinstance(reply, bytes) and b"_mode:cluster" in reply)
            return
        timed = self._timed
        if timed is not None and self._answered >= timed[0]:
            self._metrics.answers += 1
            self._metrics.answer_seconds += trio.current_time() - timed[1]
            self._timed = None
        if not self.crowded:
            self._room.unpark_all()
        try:
            nodes = answer(reply)
        except EngineRefusal as refusal:
            self._lose("refused")
            if not self._refused(str(refusal)) and not self._told:
                self._told = True
                logger.warning("The engine does not publish a message: %s", refusal)
            if isinstance(what, Publication):
                what.error = f"The engine did not publish the message: {refusal}."
                what.answered.set()
            return
        if not isinstance(nodes, int):
            raise EngineAway(f"the engine answers {self._command} with {nodes!r}")
        self._metrics.published += 1
        if isinstance(what, Publication):
            self._metrics.published_bytes += what.size
            what.nodes = nodes
            what.answered.set()
        else:
            self._metrics.published_bytes += what

    def _ended(self, unanswered: list[Any], unwritten: list[Any]) -> None:
        self._timed = None
        self._room.unpark_all()
        for what in unanswered:
            self._drop(what, "unknown", "Nobody knows whether the message was published")
        for what in unwritten:
            self._drop(what, "away", "The message was not published")

    def _drop(self, what: Any, reason: str, text: str) -> None:
        if what is _ABOUT:
            return
        self._lose(reason)
        if isinstance(what, Publication):
            what.error = f"{text}: {self.away}."
            what.answered.set()
