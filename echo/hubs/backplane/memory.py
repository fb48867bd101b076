"""The backplane in memory: several nodes in one process, for tests and to try things out.

An `Exchange` stands in for the engine and for the links to it: it can stop, and be cut off from
one node, which then see what they see of a real one. What is published goes through a bounded
queue and a task of its own, as it does with a real one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import trio
from trio.lowlevel import ParkingLot

from echo.hubs.backplane.backplane import Backplane, BackplaneError


class Exchange:
    """Where the nodes meet. It is there from the start."""

    def __init__(self) -> None:
        self.away: str | None = None
        """Why it is not there; None while it is."""
        self.frozen = False
        """Whether it is there but does nothing."""
        self.nodes: dict[MemoryBackplane, None] = {}
        """Those whose backplane runs."""

    def stop(self, reason: str = "the exchange has stopped") -> None:
        """Go away. What is under way is lost."""
        self.away = reason
        for node in list(self.nodes):
            node.find()

    def start(self) -> None:
        """Come back."""
        self.away = None
        for node in list(self.nodes):
            node.find()

    def freeze(self) -> None:
        """Do nothing more, and say nothing of it."""
        self.frozen = True

    def thaw(self) -> None:
        """Go on."""
        self.frozen = False
        for node in list(self.nodes):
            node.find()

    def route(self, channel: str, data: bytes) -> int:
        """Give this to the nodes that have subscribed; returns how many."""
        found = [node for node in self.nodes if channel in node.active]
        for node in found:
            node.received(channel, data)
        return len(found)


class _Publication:
    """What waits to be published, and who waits for the answer."""

    __slots__ = ("answer", "answered", "channel", "data")

    def __init__(self, channel: str, data: bytes, answered: trio.Event | None = None) -> None:
        self.channel = channel
        self.data = data
        self.answered = answered
        self.answer: int | None = None  # how many got it; None: nobody knows


class MemoryBackplane(Backplane):
    """The backplane of one node.

    Args:
        exchange: where the nodes meet.
        capacity: messages that may wait to be published.
        time_limit: seconds that anything here waits for the exchange.
    """

    def __init__(
        self, exchange: Exchange, *, capacity: int = 1000, time_limit: float = 5.0
    ) -> None:
        super().__init__()
        self.active: set[str] = set()
        """The channels that the exchange sends to this node."""
        self._exchange = exchange
        self._capacity = capacity
        self._time_limit = time_limit
        self._cut: str | None = None
        self._changed: dict[str, None] = {}  # channels, wanted now or no longer
        self._queue: deque[_Publication] = deque()
        self._work = ParkingLot()  # for the task
        self._progress = ParkingLot()  # for who waits for it

    # The link

    def cut(self, reason: str = "the link is cut") -> None:
        """Cut this node off."""
        self._cut = reason
        self.find()

    def heal(self) -> None:
        """Connect it again."""
        self._cut = None
        self.find()

    def find(self) -> None:
        """See whether the exchange can be reached, and what can be done."""
        away = self._exchange.away or self._cut
        if away is not None:
            self._part(away)
        elif not self.connected:
            self.active = set(self.channels)
            self._changed.clear()
            self.now_connected()
        self._work.unpark_all()

    def _part(self, reason: str) -> None:
        self.active.clear()
        self._changed.clear()
        self.now_away(reason)
        while self._queue:
            self._give_up(self._queue.popleft(), "away")
        self._progress.unpark_all()

    def _give_up(self, publication: _Publication, reason: str) -> None:
        self.lose(reason)
        if publication.answered is not None:
            publication.answered.set()

    # What a backplane does

    async def subscribed(self, channels: Iterable[str]) -> None:
        await trio.lowlevel.checkpoint()
        channels = tuple(channels)
        with trio.move_on_after(self._time_limit):
            while self.connected and any(
                self.wants(each) and each not in self.active for each in channels
            ):
                await self._progress.park()

    def publish(self, channel: str, data: bytes) -> None:
        self._enqueue(_Publication(channel, data))

    async def publish_counted(self, channel: str, data: bytes) -> int | None:
        publication = _Publication(channel, data, trio.Event())
        assert publication.answered is not None
        self._enqueue(publication)
        with trio.move_on_after(self._time_limit):
            await publication.answered.wait()
        if publication.answer is None:
            raise BackplaneError(f"The backplane did not answer: {self.away or 'time is up'}.")
        return publication.answer

    def _enqueue(self, publication: _Publication) -> None:
        if not self.connected:
            self._give_up(publication, "away")
        elif len(self._queue) >= self._capacity:
            self._give_up(publication, "full")
        else:
            self._queue.append(publication)
            self._work.unpark_all()

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def crowded(self) -> bool:
        return len(self._queue) > self._capacity / 2

    async def room(self) -> None:
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(self._time_limit):
            while self.crowded:
                await self._progress.park()

    def _follow(self, channels: list[str]) -> None:
        if self.connected:
            self._changed.update(dict.fromkeys(channels))
            self._work.unpark_all()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        exchange = self._exchange
        exchange.nodes[self] = None
        self.find()
        task_status.started()
        try:
            while True:
                while exchange.frozen or not (self._changed or self._queue):
                    await self._work.park()
                await trio.lowlevel.checkpoint()
                if not exchange.frozen:
                    self._take_one_step()
        finally:
            del exchange.nodes[self]
            self._part("ended")

    def _take_one_step(self) -> None:
        """Subscriptions first: who publishes after them is to be heard."""
        for channel in self._changed:
            (self.active.add if self.wants(channel) else self.active.discard)(channel)
        self._changed.clear()
        if self._queue:
            publication = self._queue.popleft()
            answer = self._exchange.route(publication.channel, publication.data)
            self.metrics.published += 1
            self.metrics.published_bytes += len(publication.data)
            publication.answer = answer
            if publication.answered is not None:
                publication.answered.set()
        self._progress.unpark_all()
