"""Several nodes of one hub, on any backplane. To add one: a function like `memory()`, in ENGINES.

A farm without a backplane is one node, of the clients of this process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from echo.hubs import Hub, HubOptions
from echo.hubs.backplane import Backplane, Exchange, MemoryBackplane, ScaleoutLifetime
from echo.hubs.backplane.redis import RedisBackplane
from echo.hubs.lifetime import Audience, Lifetime, LocalLifetime
from echo.hubs.protocol import HubProtocol
from tests.hubs.backplane.engines import Engine as EngineProcess
from tests.hubs.backplane.engines import eager, needs_engine, until
from tests.hubs.memory import Client, Person, Service, serving
from tests.hubs.support import JSON, MESSAGEPACK

NAME = "tests.Chat"


class Engine(ABC):
    """What is behind the backplanes of a farm; they run, and are connected."""

    backplanes: Sequence[Backplane]

    @abstractmethod
    async def stop(self) -> None:
        """Go away; returns when all backplanes have noticed."""

    @abstractmethod
    async def start(self) -> None:
        """Come back; returns when all backplanes are connected."""


Open: TypeAlias = Callable[[int], AbstractAsyncContextManager[Engine]]
"""Opens an engine with so many backplanes."""


class MemoryEngine(Engine):
    def __init__(self, size: int) -> None:
        self.exchange = Exchange()
        self.backplanes: list[MemoryBackplane] = [
            MemoryBackplane(self.exchange) for _ in range(size)
        ]

    async def stop(self) -> None:
        self.exchange.stop()

    async def start(self) -> None:
        self.exchange.start()


@asynccontextmanager
async def memory(size: int) -> AsyncIterator[MemoryEngine]:
    engine = MemoryEngine(size)
    async with trio.open_nursery() as nursery:
        for backplane in engine.backplanes:
            await nursery.start(backplane.run)
        yield engine
        nursery.cancel_scope.cancel()


class RedisEngine(Engine):
    def __init__(self, process: EngineProcess, size: int) -> None:
        self.process = process
        self.backplanes: list[RedisBackplane] = [
            RedisBackplane(process.unix_url, eager()) for _ in range(size)
        ]

    async def stop(self) -> None:
        self.process.kill()
        await until(lambda: not any(each.connected for each in self.backplanes))

    async def start(self) -> None:
        await trio.to_thread.run_sync(self.process.start)
        await until(lambda: all(each.connected for each in self.backplanes))


@asynccontextmanager
async def redis(size: int) -> AsyncIterator[RedisEngine]:
    with TemporaryDirectory() as directory, EngineProcess(Path(directory)) as process:
        engine = RedisEngine(process, size)
        async with trio.open_nursery() as nursery:
            for backplane in engine.backplanes:
                await nursery.start(backplane.run)
            yield engine
            nursery.cancel_scope.cancel()


ENGINES: dict[str, Open] = {"memory": memory, "redis": redis}
MARKS: dict[str, Any] = {"redis": needs_engine}
"""The marks of the tests with an engine, by its name: what they need."""


class Node:
    """One node of a farm."""

    def __init__(self, service: Service, lifetime: Lifetime, backplane: Backplane | None) -> None:
        self.service = service
        self.lifetime = lifetime
        self.backplane = backplane


class Farm:
    """The nodes, and clients that connect to them in turn."""

    def __init__(self, nodes: list[Node], engine: Engine | None) -> None:
        self.nodes = nodes
        self.engine = engine
        self._turn = count()
        self._marks: set[tuple[int, int]] = set()

    @property
    def lifetimes(self) -> list[Lifetime]:
        return [node.lifetime for node in self.nodes]

    async def connect(
        self, protocol: HubProtocol = JSON, user: str | None = None, node: int | None = None
    ) -> Client:
        """A client of the next node, or of this one."""
        at = self.nodes[(next(self._turn) if node is None else node) % len(self.nodes)]
        client = await at.service.connect(protocol, user=Person(user) if user else None)
        await self.settle()  # its join
        return client

    async def four(self) -> list[Client]:
        """Clients of both protocols: two of ada, one of bob, one of nobody."""
        return [
            await self.connect(JSON, "ada"),
            await self.connect(MESSAGEPACK, "ada"),
            await self.connect(JSON, "bob"),
            await self.connect(MESSAGEPACK),
        ]

    async def settle(self) -> None:
        """Wait until all that was published has come: what has not come then, never will."""
        backplanes = [node.backplane for node in self.nodes if node.backplane is not None]
        number = next(self._turn)
        came: set[tuple[str, int]] = set()
        all_came = trio.Event()
        channels = [f"{NAME} {number} {place}" for place in range(len(backplanes))]

        def note(place: int, channel: str, data: bytes) -> None:
            came.add((channel, place))
            if len(came) == len(up) ** 2:
                all_came.set()

        up = [place for place, backplane in enumerate(backplanes) if backplane.connected]
        for place in up:
            backplanes[place].subscribe(channels, partial(note, place))
            await backplanes[place].subscribed(channels)
        await wait_all_tasks_blocked()
        for place in up:
            backplanes[place].publish(channels[place], b"")
        if up:
            await all_came.wait()
        for place in up:
            backplanes[place].unsubscribe(channels)
        await wait_all_tasks_blocked()

    async def reached(
        self, audience: Audience, clients: list[Client], sender: int | None = None
    ) -> list[int]:
        """How often each of the clients is called by one call to the audience, from any node."""
        found: list[list[int]] = []
        for lifetime in self.lifetimes if sender is None else [self.lifetimes[sender]]:
            await lifetime.send(audience, "Hello", ("World", 1))
            await self.settle()
            found.append([])
            for client in clients:
                found[-1].append(0)
                while not client.idle:
                    assert await client.called("Hello") == ["World", 1]
                    found[-1][-1] += 1
        assert found.count(found[0]) == len(found), f"senders differ: {found}"
        return found[0]

    async def gone(self, client: Client) -> None:
        """Have a client leave."""
        client.leave()
        await client.served.wait()
        client.link.to_client.clear()


Opener: TypeAlias = Callable[..., AbstractAsyncContextManager[Farm]]


@asynccontextmanager
async def open_farm(
    engine: Open | None,
    size: int,
    options: HubOptions | None = None,
    *,
    hub: type[Hub] = Hub,
    ack_timeout: float = 30.0,
) -> AsyncIterator[Farm]:
    """A farm of so many nodes."""
    async with AsyncExitStack() as stack:
        if engine is None:
            lifetime = LocalLifetime()
            service = await stack.enter_async_context(serving(hub, options, lifetime=lifetime))
            yield Farm([Node(service, lifetime, None)], None)
            return
        opened = await stack.enter_async_context(engine(size))
        nodes = []
        for backplane in opened.backplanes:
            scaleout = ScaleoutLifetime(backplane, NAME, options, ack_timeout=ack_timeout)
            service = await stack.enter_async_context(serving(hub, options, lifetime=scaleout))
            nodes.append(Node(service, scaleout, backplane))
        farm = Farm(nodes, opened)
        await farm.settle()
        yield farm


def farms(*sizes: int, local: bool = False) -> pytest.MarkDecorator:
    """Run a test with farms of these sizes on each engine; it gets `farm_of`, which opens them."""
    found = [pytest.param(partial(open_farm, None, 1), id="local")] if local else []
    found += [
        pytest.param(
            partial(open_farm, engine, size), id=f"{name}-{size}", marks=MARKS.get(name, ())
        )
        for name, engine in ENGINES.items()
        for size in sizes
    ]
    return pytest.mark.parametrize("farm_of", found)
