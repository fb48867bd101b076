"""Backplane: carries bytes between the nodes of an app, whatever engine is behind it.

What is published on a channel reaches every node that has subscribed to it, the sender's own
too. What is to be subscribed changes synchronously, in a table that an engine follows and takes
up anew when it comes back; that the engine is away is a state, not an error.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeAlias

import trio

from echo.hubs.backplane.wire import Malformed

logger = logging.getLogger("echo.hubs.backplane")

Receive: TypeAlias = Callable[[str, bytes], None]
"""Takes a channel and what was published on it. Never waits."""

LOSSES = {
    "away": "the backplane is away",
    "full": "the queue of the backplane is full",
    "refused": "the engine refuses to publish them",
    "unknown": "the link broke before the engine had answered",
}
"""Why messages are not published, or maybe not: what is counted, and how it is told."""


class BackplaneError(Exception):
    """What needs an answer of other nodes has none: the engine is away, or they are silent.

    Not a `HubError`: clients learn that there was an error, not which.
    """


class BackplaneMetrics:
    """The counters of one backplane since its start. Plain attributes."""

    __slots__ = (
        *("answer_seconds", "answers", "lost", "malformed", "outages"),
        *("published", "published_bytes", "received", "received_bytes"),
    )

    def __init__(self) -> None:
        self.published = 0
        """Messages that the engine has taken."""
        self.published_bytes = 0
        self.received = 0
        """Messages from other nodes, and our own that came back."""
        self.received_bytes = 0
        self.malformed = 0
        """Of these, those that no node of ours or of .NET would have sent."""
        self.lost: Counter[str] = Counter()
        """Messages that were not published, or maybe not, by reason: "away", the engine was;
        "full", the queue was; "refused", the engine did; "unknown", the link broke before the
        engine had answered."""
        self.outages = 0
        """Times that the engine went away."""
        self.answers = 0
        """Publications whose answer was timed, and"""
        self.answer_seconds = 0.0
        """how long they took from `publish()` to the engine's answer, in all."""


class Backplane(ABC):
    """Carries bytes between nodes.

    Order is kept for each sender and channel; between senders there is none. A message is never
    published twice: one whose fate is not known when the link breaks is counted as lost.
    """

    def __init__(self) -> None:
        self.connected = False
        """Whether the engine is there."""
        self.away: str | None = "not started"
        """Why it is not, in one line; None while it is there."""
        self.metrics = BackplaneMetrics()
        self._receivers: dict[str, Receive] = {}
        self._late_receivers: dict[str, Receive] = {}  # by what channels begin with
        self._listeners: list[Callable[[Backplane], None]] = []
        self._told: set[str] = set()  # what was logged since the engine came last

    # For who sends and receives

    def subscribe(self, channels: Iterable[str], receive: Receive) -> None:
        """Have `receive` called with what is published on these channels. Never waits.

        While the engine is away this is remembered. To subscribe again does nothing. Raises
        ValueError if somebody else receives one of them: none is subscribed then.
        """
        channels = tuple(channels)
        for channel in channels:
            if self._receivers.get(channel, receive) != receive:
                raise ValueError(f"two hubs of one backplane have the channel {channel!r}")
        fresh = [channel for channel in channels if channel not in self._receivers]
        if fresh:
            self._receivers.update(dict.fromkeys(fresh, receive))
            self._follow(fresh)

    def unsubscribe(self, channels: Iterable[str]) -> None:
        """Receive nothing more of these channels. Never waits."""
        gone = [channel for channel in channels if self._receivers.pop(channel, None) is not None]
        if gone:
            self._follow(gone)

    def catch_late(self, prefix: str, receive: Receive) -> None:
        """Have `receive` called with what still comes on channels that begin with `prefix` and
        are no longer subscribed: it was under way when they were unsubscribed."""
        self._late_receivers[prefix] = receive

    @abstractmethod
    async def subscribed(self, channels: Iterable[str]) -> None:
        """Wait until the engine has confirmed these subscriptions: what is published now comes.

        Returns as well when the engine is away or goes away, and does not wait for what has been
        unsubscribed. An engine that does not answer counts as away after its own time limit.
        """

    @abstractmethod
    def publish(self, channel: str, data: bytes) -> None:
        """Have this sent to all who have subscribed to the channel.

        Never waits, never raises. Dropped and counted if the engine is away or the queue is full.
        """

    @abstractmethod
    async def publish_counted(self, channel: str, data: bytes) -> int | None:
        """Publish, after what was published before, and wait for the engine's answer.

        Returns how many nodes were sent it, this one included if it has subscribed; None if the
        engine cannot tell. Raises `BackplaneError` if it is away, goes away, or does not answer
        within its own time limit: nobody knows then whether it was sent. If cancelled, as well.
        """

    @property
    @abstractmethod
    def queued(self) -> int:
        """What waits to be published: bytes, or for an engine without any, messages."""

    @property
    @abstractmethod
    def crowded(self) -> bool:
        """Whether more than half of the queue is in use: who can wait should."""

    @abstractmethod
    async def room(self) -> None:
        """Wait until less than half of the queue is in use, the engine is away, or the engine's
        own time limit is over."""

    @abstractmethod
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, and connect anew for ever. Runs once, until it is cancelled.

        Reports that it has started when the first attempt is over, whether it went well or not.
        Nothing that the engine does ends it.
        """

    def listen(self, listener: Callable[[Backplane], None]) -> None:
        """Have `listener` called when the engine has come or gone: look at `connected`, `away`
        and `metrics`. It must not wait and not raise."""
        self._listeners.append(listener)

    # For engines

    @abstractmethod
    def _follow(self, channels: list[str]) -> None:
        """`wants()` has another answer for these channels. Must not wait.

        By the time an engine gets to it the answer may have changed again: ask when sending.
        """

    @property
    def channels(self) -> Iterable[str]:
        """All that is to be subscribed."""
        return self._receivers.keys()

    def wants(self, channel: str) -> bool:
        """Whether the channel is to be subscribed."""
        return channel in self._receivers

    def received(self, channel: str, data: bytes) -> None:
        """The engine has brought this. Never raises."""
        metrics = self.metrics
        metrics.received += 1
        metrics.received_bytes += len(data)
        receive = self._receivers.get(channel) or self._late_receiver(channel)
        if receive is not None:
            try:
                receive(channel, data)
            except Malformed as error:
                if not metrics.malformed:
                    logger.warning("Malformed messages are ignored. On %.200s: %s", channel, error)
                metrics.malformed += 1
            except Exception:
                logger.exception("Receiving a message on %.200s failed", channel)

    def _late_receiver(self, channel: str) -> Receive | None:
        late = self._late_receivers.items()
        return next((receive for prefix, receive in late if channel.startswith(prefix)), None)

    def lose(self, reason: str, messages: int = 1) -> None:
        """Count messages that were not published: see `BackplaneMetrics.lost`.

        The first for each reason is logged, and again after the engine has come back.
        """
        self.metrics.lost[reason] += messages
        if reason not in self._told:
            self._told.add(reason)
            logger.warning("Messages to other nodes are lost: %s", LOSSES.get(reason, reason))

    def now_connected(self) -> None:
        """The engine is there, and all that was subscribed is again."""
        if not self.connected:
            self.connected, self.away = True, None
            self._told.clear()
            logger.info("The backplane is connected")
            self._tell()

    def now_away(self, reason: str) -> None:
        """The engine is not there, and why, in one line. Tells only when this changes.

        "ended" is the word for the end of `run()`, which is no outage.
        """
        was_connected, self.connected = self.connected, False
        changed, self.away = self.away != reason, reason
        ended = reason == "ended"
        if was_connected and not ended:
            self.metrics.outages += 1
        if (was_connected or "started" not in self._told) and not ended:
            self._told.add("started")
            logger.warning("The backplane is away: %s", reason)
        if was_connected or changed:
            self._tell()

    def _tell(self) -> None:
        for listener in list(self._listeners):
            try:
                listener(self)
            except Exception:
                logger.exception("A listener of the backplane failed")
