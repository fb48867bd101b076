"""Which engine of a cluster has which channels, for sharded publish/subscribe.

A channel belongs to the slot of its name, a slot to a shard. Who has which is asked of any engine
that answers, and again whenever one fails or says that a slot is not its own.
"""

from __future__ import annotations

import random
from binascii import crc_hqx
from collections.abc import Callable
from typing import Any

import trio

from echo.hubs.backplane.engine import Endpoint, Engine, EngineAway, EngineRefusal, RedisOptions
from echo.hubs.backplane.link import NOT_TRIED

_SLOTS = 16384
_ELSEWHERE = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN")


def slot_of(name: bytes) -> int:
    """The slot of a channel: of what is between its first braces, if they are not empty."""
    _, opened, rest = name.partition(b"{")
    tag, closed, _ = rest.partition(b"}")
    return crc_hqx(tag if opened and closed and tag else name, 0) % _SLOTS


def says_elsewhere(refusal: str) -> bool:
    """Whether an engine refuses because a slot is not its own, or not yet."""
    return refusal.startswith(_ELSEWHERE)


class Cluster:
    """The map of a cluster.

    Args:
        engine: where some of its engines are.
        options: the limits.
        changed: called when the map may be another.
    """

    def __init__(self, engine: Engine, options: RedisOptions, changed: Callable[[], None]) -> None:
        self.away: str | None = NOT_TRIED
        """Why there is no map that can be trusted, in one line; None if there is."""
        self.tried = trio.Event()
        """Set when the first attempt to get a map is over."""
        self.endpoints: frozenset[Endpoint] = frozenset()
        """The engines that have slots."""
        self._engine = engine
        self._options = options
        self._changed = changed
        self._owners: list[Endpoint | None] = [None] * _SLOTS
        self._doubt = trio.Event()

    def owner(self, slot: int) -> Endpoint | None:
        """Which engine has a slot, as far as is known."""
        return self._owners[slot]

    def doubt(self) -> None:
        """Have the map made anew."""
        self._doubt.set()

    async def run(self) -> None:
        """Keep the map until cancelled."""
        options = self._options
        delay = options.retry_least
        while True:
            began = trio.current_time()
            self._doubt = trio.Event()
            self.away = await self._look()
            if self.away is not None:
                self._doubt.set()
            self.tried.set()
            self._changed()
            await self._doubt.wait()
            if trio.current_time() - began > options.retry_most:
                delay = options.retry_least
            await trio.sleep(delay * random.uniform(0.5, 1))
            delay = min(2 * delay, options.retry_most)

    async def _look(self) -> str | None:
        """Make the map; returns what is wrong with it."""
        candidates = list(self.endpoints.union(self._engine.endpoints))
        random.shuffle(candidates)  # one that hangs must not always be the first
        why = ""
        for endpoint in candidates:
            why = f"{endpoint}: no answer within {self._options.connect_timeout:g} s"
            with trio.move_on_after(self._options.connect_timeout):
                try:
                    self._draw(endpoint, await self._ask(endpoint))
                except (EngineAway, EngineRefusal) as reason:
                    why = f"{endpoint}: {reason}"
                    continue
                except (TypeError, ValueError, AttributeError):
                    why = f"{endpoint}: its answer to CLUSTER SLOTS makes no sense"
                    continue
                missing = self._owners.count(None)
                return f"{missing} slots of the cluster have no engine" if missing else None
        return why

    async def _ask(self, endpoint: Endpoint) -> Any:
        session = await self._engine.connect(endpoint)
        try:
            return await session.ask("CLUSTER", "SLOTS")
        finally:
            await session.close()

    def _draw(self, asked: Endpoint, ranges: Any) -> None:
        owners: list[Endpoint | None] = [None] * _SLOTS
        for first, last, (host, port, *_), *_ in ranges:
            # An engine that does not know its own name has none here.
            owner = Endpoint(host.decode() if host else asked.host, port)
            owners[first : last + 1] = [owner] * (last + 1 - first)
        self._owners = owners
        self.endpoints = frozenset(owner for owner in owners if owner is not None)
