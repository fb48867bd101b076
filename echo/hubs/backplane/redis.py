"""The backplane on Redis or Valkey: plain publish/subscribe, as .NET uses it, or sharded.

Two links for each engine: one publishes, one receives, so that a flood of messages does not hold
up answers. The engine counts as there when all links are up and all subscriptions confirmed.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import trio

from echo.hubs.backplane.backplane import Backplane, BackplaneError
from echo.hubs.backplane.cluster import Cluster, says_elsewhere, slot_of
from echo.hubs.backplane.engine import Endpoint, RedisOptions, Session, parse_url
from echo.hubs.backplane.link import NOT_TRIED
from echo.hubs.backplane.publishing import PublishingLink
from echo.hubs.backplane.subscribing import SubscribingLink, wire_name


class RedisBackplane(Backplane):
    """The backplane of one node.

    What is published while the engine is away is lost, and so is what waited for a link that
    broke; what it held that was written but not answered may have arrived ("unknown"). Other nodes
    miss what is published until they, too, are connected again.

    Args:
        url: where the engine is: see `engine.parse_url`.
        options: what is bounded; the URL's own options win. None for the defaults.

    Raises ValueError if the URL cannot be used.
    """

    def __init__(self, url: str, options: RedisOptions | None = None) -> None:
        super().__init__()
        self.engine, self.options = parse_url(url, options)
        self._ran = False
        self._shards: dict[Endpoint | None, Shard] = {}
        self._cluster: Cluster | None = None
        if self.options.sharded:
            self._cluster = Cluster(self.engine, self.options, self._reshard)
        else:
            turns = itertools.cycle(self.engine.endpoints)
            name = str(self.engine)
            self._shards[None] = Shard(self, name, lambda: self.engine.connect(next(turns)))

    def __repr__(self) -> str:
        return f"RedisBackplane({self.engine})"

    # Sending and receiving

    def publish(self, channel: str, data: bytes) -> None:
        name = wire_name(self.options.prefix, channel)
        shard = self._shard(name)
        if shard is None:
            self.lose("away")
        else:
            shard.publishing.publish(name, data)

    async def publish_counted(self, channel: str, data: bytes) -> int | None:
        await trio.lowlevel.checkpoint()
        name = wire_name(self.options.prefix, channel)
        shard = self._shard(name)
        if shard is None:
            self.lose("away")
            raise BackplaneError(f"The message was not published: {self.away}.")
        return await shard.publishing.publish_counted(name, data)

    @property
    def queued(self) -> int:
        return sum(shard.publishing.size for shard in self._shards.values())

    @property
    def crowded(self) -> bool:
        return any(shard.publishing.crowded for shard in self._shards.values())

    async def room(self) -> None:
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(self.options.answer_timeout):
            for shard in list(self._shards.values()):
                await shard.publishing.room()

    async def subscribed(self, channels: Iterable[str]) -> None:
        await trio.lowlevel.checkpoint()
        for channel in channels:
            while (shard := self._owner(channel)) is not None:
                await shard.subscribing.confirmed(channel)
                if self._owner(channel) is shard:
                    break  # else it has moved to another shard meanwhile

    def _follow(self, channels: list[str]) -> None:
        for shard in self._shards.values():
            mine = channels if self._cluster is None else [*filter(shard.owns, channels)]
            shard.subscribing.follow(mine)

    def _shard(self, name: bytes) -> Shard | None:
        if self._cluster is None:
            return self._shards[None]
        return self._shards.get(self._cluster.owner(slot_of(name)))

    def _owner(self, channel: str) -> Shard | None:
        return self._shard(wire_name(self.options.prefix, channel))

    # Coming and going

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        if self._ran:
            raise RuntimeError("a backplane runs once")
        self._ran = True
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if self._cluster is not None:
                    nursery.start_soon(self._cluster.run)
                    await self._cluster.tried.wait()
                else:
                    nursery.start_soon(self._shards[None].run)
                for shard in list(self._shards.values()):
                    await shard.publishing.tried.wait()
                    await shard.subscribing.tried.wait()
                task_status.started()
        finally:
            # That is no outage, and nothing to warn of.
            self.connected, self.away = False, "ended"
            self._tell()

    def changed(self) -> None:
        """A link has come up or failed, or the cluster has changed."""
        away = self._why_away()
        if away is None:
            self.now_connected()
        elif away != NOT_TRIED:
            self.now_away(away)

    def _why_away(self) -> str | None:
        cluster = self._cluster
        if cluster is not None and cluster.away is not None:
            return cluster.away
        for shard in self._shards.values():
            for link in (shard.publishing, shard.subscribing):
                if not link.up:
                    if cluster is not None and link.tried.is_set():
                        cluster.doubt()
                    return link.away
        return None

    def refused(self, why: str) -> bool:
        """The engine has refused a command; returns whether that is to be expected."""
        cluster = self._cluster
        if cluster is None or not says_elsewhere(why):
            return False
        cluster.away = f"the cluster changes: {why}"
        cluster.doubt()
        self.changed()
        return True

    def _reshard(self) -> None:
        """Have links to the engines that have slots now, and no others."""
        assert self._cluster is not None
        endpoints = self._cluster.endpoints
        for endpoint in [each for each in self._shards if each not in endpoints]:
            self._shards.pop(endpoint).scope.cancel()
        for shard in self._shards.values():
            shard.subscribing.follow(tuple(self.channels))
        for endpoint in endpoints - self._shards.keys():
            shard = Shard(self, str(endpoint), partial(self.engine.connect, endpoint))
            self._shards[endpoint] = shard
            self._nursery.start_soon(shard.run)
        self.changed()


class Shard:
    """An engine that has some of the channels, or all.

    Args:
        backplane: whose it is.
        name: where the engine is.
        connect: connects to it.
    """

    def __init__(
        self, backplane: RedisBackplane, name: str, connect: Callable[[], Awaitable[Session]]
    ) -> None:
        self.scope = trio.CancelScope()
        """Ends both links."""
        options = backplane.options
        self.publishing = PublishingLink(
            name,
            connect,
            options,
            backplane.changed,
            metrics=backplane.metrics,
            lose=backplane.lose,
            refused=backplane.refused,
        )
        self.subscribing = SubscribingLink(
            name,
            connect,
            options,
            backplane.changed,
            wanted=lambda: filter(self.owns, backplane.channels),
            wants=lambda channel: backplane.wants(channel) and self.owns(channel),
            receive=backplane.received,
            refused=backplane.refused,
        )
        self._backplane = backplane

    def owns(self, channel: str) -> bool:
        """Whether the channel is this shard's."""
        return self._backplane._owner(channel) is self

    async def run(self) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.publishing.run)
                nursery.start_soon(self.subscribing.run)
