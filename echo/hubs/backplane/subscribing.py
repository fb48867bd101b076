"""The link that receives. It follows a table of what is wanted, and asks for what differs.

When it comes up it asks for all that is wanted, and counts as up when the engine has confirmed
that. What comes is handed on at once: while that takes time, TCP holds the engine back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable
from itertools import islice
from typing import Any

import trio

from echo.hubs.backplane.engine import (
    EngineAway,
    EngineRefusal,
    RedisOptions,
    Session,
    answer,
    pack,
)
from echo.hubs.backplane.link import Link

_AT_ONCE = 256  # channels


class SubscribingLink(Link):
    """One link for `SUBSCRIBE` or, on a shard, `SSUBSCRIBE`.

    Args:
        name: see `Link`.
        connect: see `Link`.
        options: the limits, and the prefix of the names of channels.
        changed: see `Link`.
        wanted: all channels that are wanted on this link now.
        wants: whether one is.
        receive: takes a channel and what has come on it; must not raise.
        refused: told why the engine has refused a channel; returns whether the link can live with
            that.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Awaitable[Session]],
        options: RedisOptions,
        changed: Callable[[], None],
        *,
        wanted: Callable[[], Iterable[str]],
        wants: Callable[[str], bool],
        receive: Callable[[str, bytes], None],
        refused: Callable[[str], bool],
    ) -> None:
        super().__init__(name, connect, options, changed)
        shard = "S" if options.sharded else ""
        self._subscribe, self._unsubscribe = f"{shard}SUBSCRIBE", f"{shard}UNSUBSCRIBE"
        self._message = b"smessage" if options.sharded else b"message"
        self._moved = b"sunsubscribe"
        self._wanted = wanted
        self._wants = wants
        self._receive = receive
        self._refused = refused
        self._connected = False
        # By what they are called on the wire:
        self._asked: dict[bytes, str] = {}
        self._unconfirmed: Counter[bytes] = Counter()
        # By their names:
        self._differences: dict[str, None] = {}
        self._waiters: dict[str, trio.Event] = {}

    def follow(self, channels: Collection[str]) -> None:
        """These may be wanted now, or no longer."""
        if self._connected:
            self._differences.update(dict.fromkeys(channels))
            for channel in channels:
                self._wake(channel)
            self._bell.unpark()

    async def confirmed(self, channel: str) -> None:
        """Wait until the engine has confirmed this channel, it is not wanted, or the link is
        away."""
        name = wire_name(self.options.prefix, channel)
        while self.up and self._wants(channel):
            if name in self._asked and name not in self._unconfirmed:
                return
            await self._waiters.setdefault(channel, trio.Event()).wait()

    def _wake(self, channel: str) -> None:
        event = self._waiters.pop(channel, None)
        if event is not None:
            event.set()

    def _begin(self) -> None:
        self._connected = True
        self._differences = dict.fromkeys(self._wanted())
        self._rise_if_complete()

    def _rise_if_complete(self) -> None:
        if not self.up and not self._differences and not self._unconfirmed:
            self._rise()

    def _fill(self) -> None:
        some = list(islice(self._differences, _AT_ONCE))
        for channel in some:
            del self._differences[channel]
            name = wire_name(self.options.prefix, channel)
            wants = self._wants(channel)
            if wants == (name in self._asked):
                continue
            if wants:
                self._asked[name] = channel
            else:
                del self._asked[name]
            # One by one: then each has one answer, and on a cluster they may be of any slot.
            self._unconfirmed[name] += 1
            self._put(pack(self._subscribe if wants else self._unsubscribe, name), name)
        if some:
            self._rise_if_complete()

    def _brought(self, reply: Any) -> bool:
        if type(reply) is not list or len(reply) != 3:
            return False
        kind, name, data = reply
        if kind == self._message:
            channel = self._asked.get(name)
            if channel is not None:
                self._receive(channel, data)
            return True
        if kind == self._moved and not self._unconfirmed[name]:
            # The slot has gone to another shard, and the subscription with it.
            self._forget(name)
            self._refused("MOVED to another shard")
            return True
        return False

    def _take(self, what: bytes, reply: Any) -> None:
        self._unconfirmed[what] -= 1
        if not self._unconfirmed[what]:
            del self._unconfirmed[what]
        try:
            confirmation = answer(reply)
            if type(confirmation) is not list or confirmation[1:2] != [what]:
                raise EngineAway("the engine answers out of turn")
        except EngineRefusal as refusal:
            if not self._refused(str(refusal)):
                raise EngineAway(f"the engine refuses a subscription: {refusal}") from refusal
            self._forget(what)
        channel = self._asked.get(what)
        if channel is not None and what not in self._unconfirmed:
            self._wake(channel)
        self._rise_if_complete()

    def _forget(self, name: bytes) -> None:
        channel = self._asked.pop(name, None)
        if channel is not None:
            self._wake(channel)

    def _ended(self, unanswered: list[Any], unwritten: list[Any]) -> None:
        self._connected = False
        self._asked.clear()
        self._unconfirmed.clear()
        self._differences.clear()
        for event in self._waiters.values():
            event.set()
        self._waiters.clear()


def wire_name(prefix: str, channel: str) -> bytes:
    """What a channel is called on the wire. Never fails: half a character goes as it is."""
    return (prefix + channel).encode(errors="surrogatepass")
