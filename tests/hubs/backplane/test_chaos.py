"""Two nodes send without a pause while the engine and the links to it fail in every way.

Every call has its sender's number. None may come twice or out of order, to any client. None may
be missing but those that were under way or sent between a failure and the recovery from it, and
what a node could not publish it has counted. A node's own clients miss nothing, whatever happens.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import TypeAlias

import trio

from echo.hubs import Hub
from echo.hubs.backplane import ScaleoutLifetime
from echo.hubs.backplane.redis import RedisBackplane
from echo.hubs.lifetime import All
from tests.hubs.backplane.engines import Engine, eager, needs_engine, until
from tests.hubs.backplane.relay import Relay, relay
from tests.hubs.memory import Client, serving
from tests.servers import ROOT, environment

pytestmark = needs_engine

HUB = "tests.Chaos"
PATIENCE = {"answer_timeout": 0.5, "keep_alive_interval": 0.2, "connect_timeout": 0.5}
END = -1

Failure: TypeAlias = Callable[["list[Node]", Engine], Awaitable[None]]


class Node:
    """A node with one client, which notes what it is called with."""

    def __init__(
        self, name: str, link: Relay, backplane: RedisBackplane, lifetime: ScaleoutLifetime
    ) -> None:
        self.name = name
        self.link = link
        self.backplane = backplane
        self.lifetime = lifetime
        self.sent = 0
        self.heard: dict[str, list[int]] = defaultdict(list)

    async def send(self, over: trio.Event) -> None:
        while not over.is_set():
            self.sent += 1
            await self.lifetime.send(All(), "Number", (self.name, self.sent))
            await trio.sleep(0.001)

    async def listen(self, client: Client) -> None:
        while True:
            name, number = await client.called("Number")
            self.heard[name].append(number)


class Window:
    """What may be missing of a sender at a receiver, from a failure to the recovery from it."""

    def __init__(self, failure: Failure | None, sender: Node, receiver: Node) -> None:
        self.failure, self.sender, self.receiver = failure, sender, receiver
        heard = receiver.heard[sender.name]
        self.first = heard[-1] + 1 if heard else 1
        self.last = 0
        self.lost: Counter[str] = Counter()

    def missing(self) -> set[int]:
        heard = self.receiver.heard[self.sender.name]
        return set(range(self.first, self.last + 1)) - set(heard)


class Watch:
    """Notes when one of two nodes is away, also when a busy machine makes it seem so."""

    def __init__(self, nodes: list[Node]) -> None:
        self.failure: Failure | None = None
        """What is about to happen, or has."""
        self.windows: list[Window] = []
        self._nodes = nodes
        self._open: list[Window] = []
        self._lost = {node.name: Counter(node.backplane.metrics.lost) for node in nodes}
        for node in nodes:
            node.backplane.listen(self._look)

    def _look(self, _: object) -> None:
        a, b = self._nodes
        if not all(node.backplane.connected for node in self._nodes):
            # What is lost comes after what has been heard, for order is kept.
            self._open = self._open or [Window(self.failure, a, b), Window(self.failure, b, a)]
            return
        for window in self._open:
            sender = window.sender
            lost = Counter(sender.backplane.metrics.lost)
            window.last, window.lost = sender.sent, lost - self._lost[sender.name]
            self._lost[sender.name] = lost
        self.windows += self._open
        self._open = []


@asynccontextmanager
async def two_nodes(engine: Engine) -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        nodes = []
        for name in ("a", "b"):
            link = await stack.enter_async_context(relay(engine.socket))
            backplane = RedisBackplane(link.url, eager(**PATIENCE))
            await nursery.start(backplane.run)
            lifetime = ScaleoutLifetime(backplane, HUB)
            service = await stack.enter_async_context(serving(Hub, lifetime=lifetime, seconds=60))
            node = Node(name, link, backplane, lifetime)
            nursery.start_soon(node.listen, await service.connect())
            nodes.append(node)
        for node in nodes:
            await node.backplane.subscribed(list(node.backplane.channels))
        yield nodes
        nursery.cancel_scope.cancel()


async def cut(node: Node) -> None:
    node.link.open = False
    node.link.cut()
    await until(lambda: not node.backplane.connected)
    await trio.sleep(0.1)
    node.link.open = True


def cut_of(number: int) -> Failure:
    async def fail(nodes: list[Node], engine: Engine) -> None:
        await cut(nodes[number])

    return fail


async def restart(nodes: list[Node], engine: Engine) -> None:
    engine.kill()
    await until(lambda: not any(node.backplane.connected for node in nodes))
    await trio.sleep(0.05)
    await trio.to_thread.run_sync(engine.start)


async def freeze(nodes: list[Node], engine: Engine) -> None:
    with engine.frozen():
        await until(lambda: not any(node.backplane.connected for node in nodes))


async def hiccup(nodes: list[Node], engine: Engine) -> None:
    """Too short to be noticed."""
    with engine.frozen():
        await trio.sleep(0.05)


async def flush(nodes: list[Node], engine: Engine) -> None:
    """The engine drops all its clients."""
    all_metrics = [node.backplane.metrics for node in nodes]
    before = [metrics.outages for metrics in all_metrics]
    for kind in ("normal", "pubsub"):
        engine.do("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
    # They may be back before anybody looks.
    await until(lambda: all(m.outages > n for m, n in zip(all_metrics, before, strict=True)))


CUT = {"a": cut_of(0), "b": cut_of(1)}
FAILURES = [CUT["a"], restart, CUT["b"], freeze, hiccup, flush, CUT["a"], freeze, restart]


async def test_nothing_is_doubled_or_misplaced_and_nothing_is_lost_unnoticed(
    engine: Engine,
) -> None:
    async with two_nodes(engine) as nodes, trio.open_nursery() as nursery:
        over = trio.Event()
        for node in nodes:
            nursery.start_soon(node.send, over)
        a, b = nodes
        watch = Watch(nodes)
        for fail in FAILURES:
            await under_load(nodes)
            watch.failure = fail
            await fail(nodes, engine)
            await until(lambda: all(node.backplane.connected for node in nodes))
        over.set()
        await trio.sleep(0.01)
        for node in nodes:
            await node.lifetime.send(All(), "Number", (node.name, END))
        await until(
            lambda: all(node.heard[each.name][-1:] == [END] for node in nodes for each in nodes)
        )
        nursery.cancel_scope.cancel()

    windows = watch.windows
    assert {window.failure for window in windows} >= {*FAILURES} - {hiccup}
    for sender, receiver in ((a, b), (b, a)):
        assert sender.heard[sender.name] == [*range(1, sender.sent + 1), END]
        heard = receiver.heard[sender.name][:-1]
        assert heard == sorted(set(heard))
        missing = set(range(1, sender.sent + 1)) - set(heard)
        assert missing == set().union(
            *(each.missing() for each in windows if each.sender is sender)
        )
    for window in windows:
        missing, lost = window.missing(), window.lost
        # What the sender has not published at all is missing for certain.
        assert len(missing) >= lost["away"] + lost["full"]
        if window.failure is CUT[window.sender.name]:
            # Its link alone has failed: it has counted all that its peer misses.
            assert len(missing) <= lost.total()
    for name in CUT:
        assert any(each.failure is CUT[name] and each.missing() for each in windows)


async def under_load(nodes: list[Node]) -> None:
    """Wait until all have sent some more."""
    goals = [node.sent + 100 for node in nodes]
    await until(lambda: all(node.sent >= goal for node, goal in zip(nodes, goals, strict=True)))


@contextmanager
def processes(engine: Engine, names: list[str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Nodes that send without a pause."""
    command = [sys.executable, "-m", "tests.hubs.backplane.sender", engine.unix_url, HUB]
    with ExitStack() as stack:
        found = []
        for name in names:
            process = subprocess.Popen([*command, name], cwd=ROOT, env=environment())
            stack.enter_context(process)
            stack.callback(process.kill)
            found.append(process)
        yield found


async def test_nodes_that_are_frozen_and_killed_leave_nothing_behind_and_nothing_half_said(
    engine: Engine,
) -> None:
    """What a node says comes without gaps up to its end, and others do not notice the end."""
    names = ["first", "second", "third"]
    async with two_nodes(engine) as nodes:
        heard = nodes[0].heard
        quiet = set(engine.do("PUBSUB", "CHANNELS"))
        with processes(engine, names) as senders:
            await until(lambda: all(len(heard[name]) > 50 for name in names), 60)
            assert set(engine.do("PUBSUB", "CHANNELS")) > quiet
            senders[0].send_signal(signal.SIGSTOP)
            goals = {name: len(heard[name]) + 20 for name in names[1:]}
            await until(lambda: all(len(heard[name]) > goals[name] for name in goals))
            senders[0].send_signal(signal.SIGCONT)
            goal = len(heard["first"]) + 20
            await until(lambda: len(heard["first"]) > goal)
            for number, sender in enumerate(senders):
                sender.kill()
                sender.wait()
                goals = {name: len(heard[name]) + 20 for name in names[number + 1 :]}
                await until(lambda: all(len(heard[name]) > goals[name] for name in goals))  # noqa: B023
        await until(lambda: set(engine.do("PUBSUB", "CHANNELS")) == quiet)
        for name in names:
            assert heard[name] == list(range(len(heard[name])))
        for node in nodes:
            assert node.backplane.metrics.outages == 0
            assert not node.backplane.metrics.lost
