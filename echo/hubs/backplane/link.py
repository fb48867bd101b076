"""A link to an engine: commands go out many at a time, answers come back in order.

It connects, and connects anew for ever. Everything has a bound: what waits, in bytes; each
connection, write and answer, in seconds; silence is broken by a PING. A link that breaks takes
with it what it holds: nothing is ever sent twice.
"""

from __future__ import annotations

import logging
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import perf_counter
from typing import Any, Final

import trio

from echo.hubs.backplane.engine import EngineAway, RedisOptions, Session, pack

logger = logging.getLogger("echo.hubs.backplane")

_WRITE_SIZE: Final = 65536  # bytes written at once, but for one message that is larger
_TURN: Final = 0.005  # seconds that what has come may take until other tasks get their turn
_LAST_WORDS: Final = 1.0  # seconds for what is left when the link is ended

NOT_TRIED: Final = "not connected yet"
"""Why a link is away before its first attempt is over."""

_PING: Final = object()


class Link(ABC):
    """One link, which is up or away.

    Args:
        name: where the engine is.
        connect: makes a connection, however long that takes; raises `EngineAway`.
        options: the limits.
        changed: called when the link has come up, and when it or an attempt at it has failed.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Awaitable[Session]],
        options: RedisOptions,
        changed: Callable[[], None],
    ) -> None:
        self.up = False
        self.away = NOT_TRIED
        """Why it is not up, in one line."""
        self.tried = trio.Event()
        """Set when the first attempt to connect is over."""
        self.size = 0
        """Bytes of commands that have no answer yet."""
        self.options = options
        self._name = name
        self._connect = connect
        self._changed = changed
        self._waiting: deque[tuple[bytes, Any]] = deque()
        self._flying: deque[tuple[int, Any]] = deque()
        # For each write: how many answers there will be with its last, and when it began.
        self._writes: deque[tuple[int, float]] = deque()
        self._written = 0
        self._answered = 0
        self._torn = False  # a write has begun and not ended
        self._heard = 0.0
        self._bell = trio.lowlevel.ParkingLot()

    # What kinds of links add

    @abstractmethod
    def _begin(self) -> None:
        """There is a connection: `_rise()`, now or later."""

    @abstractmethod
    def _fill(self) -> None:
        """Put what is to be written next, if it is not yet. Not much at a time."""

    @abstractmethod
    def _take(self, what: Any, reply: Any) -> None:
        """The answer to a command, which was put as `what`. Raises `EngineAway` to give up."""

    def _brought(self, reply: Any) -> bool:
        """Take what comes without having been asked for; returns whether it was that."""
        return False

    @abstractmethod
    def _ended(self, unanswered: list[Any], unwritten: list[Any]) -> None:
        """The connection is gone, and with it the answers to these."""

    # What they use

    def _put(self, command: bytes, what: Any) -> None:
        self.size += len(command)
        self._waiting.append((command, what))
        self._bell.unpark()

    def _rise(self) -> None:
        self.up = True
        self.tried.set()
        self._changed()

    # The life of a link

    async def run(self) -> None:
        """Keep the link up until cancelled."""
        options = self.options
        delay = options.retry_least
        try:
            while True:
                began = trio.current_time()
                try:
                    await self._live()
                except EngineAway as reason:
                    self._end(f"{self._name}: {reason}")
                except Exception:
                    logger.exception("The link to %s failed", self._name)
                    self._end(f"{self._name}: its messages could not be handled")
                if trio.current_time() - began > options.retry_most:
                    delay = options.retry_least
                # Not all nodes at the same time, when the engine comes back.
                await trio.sleep(delay * random.uniform(0.5, 1))
                delay = min(2 * delay, options.retry_most)
        finally:
            self._clear("the backplane has ended")

    async def _live(self) -> None:
        session = await self._open()
        try:
            self._heard = trio.current_time()
            self._begin()
            await self._serve(session)
        finally:
            if not self._torn:  # it was cancelled
                with trio.move_on_after(_LAST_WORDS, shield=True), suppress(EngineAway):
                    await self._finish(session)
            await session.close()

    async def _finish(self, session: Session) -> None:
        """Write what waits, the node's last words. To close before the answers would cut them."""
        while self._waiting:
            await session.send(self._take_off(trio.current_time()))
        while self._flying:
            for reply in await session.receive():
                if not self._brought(reply):
                    self._answer(reply)

    async def _open(self) -> Session:
        limit = self.options.connect_timeout
        with trio.move_on_after(limit):
            return await self._connect()
        raise EngineAway(f"no connection within {limit:g} s")

    async def _serve(self, session: Session) -> None:
        """Read and write until the link breaks. Raises `EngineAway`."""
        reasons: list[EngineAway] = []

        async def until_broken(work: Callable[[Session], Awaitable[None]]) -> None:
            try:
                await work(session)
            except EngineAway as reason:
                self._torn = True
                reasons.append(reason)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_broken, self._read)
            nursery.start_soon(until_broken, self._write)
        raise reasons[0]

    async def _write(self, session: Session) -> None:
        while True:
            self._fill()
            if not self._waiting:
                await self._bell.park()
                continue
            # Before anything is taken: what is only waiting can still be the last word.
            await trio.lowlevel.checkpoint_if_cancelled()
            data = self._take_off(trio.current_time())
            self._torn = True
            await session.send(data)  # the answer's deadline is this one's, too
            self._torn = False

    def _take_off(self, now: float) -> bytes:
        """What is written next. Its answers may come before all of it is written."""
        commands: list[bytes] = []
        size = 0
        while self._waiting and size < _WRITE_SIZE:
            command, what = self._waiting.popleft()
            commands.append(command)
            self._flying.append((len(command), what))
            size += len(command)
        self._written += len(commands)
        self._writes.append((self._written, now))
        return b"".join(commands)

    async def _read(self, session: Session) -> None:
        while True:
            with trio.CancelScope(deadline=self._deadline()) as scope:
                replies = await session.receive()
            if scope.cancelled_caught:
                self._after_silence(trio.current_time())
                continue
            self._heard = trio.current_time()
            turn = perf_counter()
            for reply in replies:
                if not self._brought(reply):
                    self._answer(reply)
                if perf_counter() - turn > _TURN:
                    await trio.lowlevel.checkpoint()
                    turn = perf_counter()

    def _deadline(self) -> float:
        """Until when to wait for something to come, as things are now."""
        limit, interval = self.options.answer_timeout, self.options.keep_alive_interval
        if self._writes:
            return self._writes[0][1] + limit
        # Not longer than an answer may take: what is asked meanwhile has a deadline, too.
        nap = trio.current_time() + limit
        return nap if self._waiting else min(nap, self._heard + interval)

    def _after_silence(self, now: float) -> None:
        limit, interval = self.options.answer_timeout, self.options.keep_alive_interval
        if self._writes:
            if now >= self._writes[0][1] + limit:
                raise EngineAway(f"the engine has not answered for {limit:g} s")
        elif not self._waiting and now >= self._heard + interval:
            self._put(pack("PING"), _PING)

    def _answer(self, reply: Any) -> None:
        if not self._flying:
            raise EngineAway("the engine answers what nobody has asked")
        size, what = self._flying.popleft()
        self.size -= size
        self._answered += 1
        if self._answered == self._writes[0][0]:
            self._writes.popleft()
        if what is not _PING:
            self._take(what, reply)

    def _end(self, reason: str) -> None:
        self._clear(reason)
        self.tried.set()
        self._changed()

    def _clear(self, reason: str) -> None:
        unanswered = [what for _, what in self._flying if what is not _PING]
        unwritten = [what for _, what in self._waiting if what is not _PING]
        self._flying.clear()
        self._waiting.clear()
        self._writes.clear()
        self._written = self._answered = self.size = 0
        self._torn = self.up = False
        self.away = reason
        self._ended(unanswered, unwritten)
