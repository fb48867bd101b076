"""Sharded publish/subscribe on a real cluster of two engines, and plain on the same cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from echo.hubs.backplane import BackplaneError
from echo.hubs.backplane.cluster import slot_of
from tests.hubs.backplane.engines import (
    Ear,
    Engine,
    eager,
    needs_engine,
    quiet_port,
    running,
    until,
)

pytestmark = needs_engine

SLOTS = ((0, 8191), (8192, 16383))


def cluster_engine(directory: Path, bus: int) -> Engine:
    directory.mkdir()
    return Engine(
        directory,
        *("--cluster-enabled", "yes", "--cluster-port", str(bus)),
        *("--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no"),
    )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Engine]]:
    """Two engines with half of the slots each, which agree on it. That takes them two seconds."""
    directory = tmp_path_factory.mktemp("cluster")
    with ExitStack() as stack:
        buses = [quiet_port(), quiet_port()]
        engines = [
            stack.enter_context(cluster_engine(directory / str(number), bus))
            for number, bus in enumerate(buses)
        ]
        for number, (engine, (first, last)) in enumerate(zip(engines, SLOTS, strict=True), 1):
            engine.do("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
            engine.do("CLUSTER", "SET-CONFIG-EPOCH", str(number))
        port = str(engines[1].port)
        engines[0].do("CLUSTER", "MEET", "127.0.0.1", port, str(buses[1]))
        deadline = time.monotonic() + 20
        while not all(agrees(engine) for engine in engines):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield engines


def agrees(engine: Engine) -> bool:
    about = engine.do("CLUSTER", "INFO")
    return b"cluster_state:ok" in about and b"cluster_slots_ok:16384" in about


def channels_of(engine: int, number: int = 20) -> list[str]:
    """Names of channels that an engine has at first."""
    first, last = SLOTS[engine]
    found = (f"channel {each}" for each in range(10_000))
    return [each for each in found if first <= slot_of(each.encode()) <= last][:number]


def test_the_slots_are_those_of_the_specification() -> None:
    assert slot_of(b"123456789") == 0x31C3
    assert slot_of(b"{user1000}.following") == slot_of(b"{user1000}.followers")
    assert slot_of(b"foo{}{bar}") == slot_of(b"foo{}{bar}") != slot_of(b"bar")
    assert slot_of(b"foo{{bar}}zap") == slot_of(b"{bar")
    assert slot_of(b"foo{bar}{zap}") == slot_of(b"bar")


async def test_each_channel_lives_on_its_shard(cluster: list[Engine]) -> None:
    url = f"{cluster[0].url}?sharded=on"
    async with running(url) as a, running(url) as b:
        ear = Ear(b)
        channels = [channels_of(0), channels_of(1)]
        await ear.hear(*channels[0], *channels[1])
        for engine, mine in zip(cluster, channels, strict=True):
            found = engine.do("PUBSUB", "SHARDCHANNELS")
            assert set(found) == {each.encode() for each in mine}
        everything = channels[0] + channels[1]
        for channel in everything:
            assert await a.publish_counted(channel, channel.encode()) == 1
        await ear.until_heard(len(everything))
        assert sorted(ear.heard) == sorted((each, each.encode()) for each in everything)
        b.unsubscribe(everything)
        await until(lambda: not any(each.do("PUBSUB", "SHARDCHANNELS") for each in cluster))


async def test_slots_that_move_take_their_subscriptions_along(cluster: list[Engine]) -> None:
    url = f"{cluster[0].url}?sharded=on"
    async with running(url) as a, running(url) as b:
        ear = Ear(b)
        moved = channels_of(0, 21)[20]  # of no other test
        channels = [moved, *channels_of(0, 3), *channels_of(1, 3)]
        await ear.hear(*channels)
        await trio.to_thread.run_sync(move, cluster, moved)
        await until(lambda: b.connected and subscribed(cluster[1], moved))
        # A node that only publishes learns it from the engine's refusal.
        with pytest.raises(BackplaneError, match="did not publish the message: MOVED"):
            await a.publish_counted(moved, b"lost")
        assert a.metrics.lost == {"refused": 1}
        await until(lambda: a.connected)
        for channel in channels:
            assert await a.publish_counted(channel, b"1") == 1
        await ear.until_heard(len(channels))


def subscribed(engine: Engine, channel: str) -> bool:
    return channel.encode() in engine.do("PUBSUB", "SHARDCHANNELS")


def move(cluster: list[Engine], channel: str) -> None:
    """Give a channel's slot to the second engine. There are no keys to move."""
    slot = str(slot_of(channel.encode()))
    target = cluster[1].do("CLUSTER", "MYID")
    for engine in reversed(cluster):
        engine.do("CLUSTER", "SETSLOT", slot, "NODE", target)


async def test_plain_messages_reach_all_engines_of_a_cluster(cluster: list[Engine]) -> None:
    async with running(cluster[0].url) as a, running(cluster[1].url) as b:
        ears = [Ear(a), Ear(b)]
        for ear in ears:
            await ear.hear("everywhere")
        # The engine knows of its own subscribers only.
        assert await a.publish_counted("everywhere", b"1") is None
        for ear in ears:
            await ear.until_heard(1)


async def test_an_engine_that_is_no_cluster_is_said_to_be_none(shared_engine: Engine) -> None:
    async with running(f"{shared_engine.url}?sharded=on", connected=False) as backplane:
        assert "cluster support disabled" in str(backplane.away)
        backplane.publish("a", b"")
        assert backplane.metrics.lost == {"away": 1}


async def test_a_shard_that_is_away_does_not_take_the_others_along(cluster: list[Engine]) -> None:
    async with running(f"{cluster[0].url}?sharded=on", eager(connect_timeout=1)) as backplane:
        ear = Ear(backplane)
        here, there = channels_of(0, 1)[0], channels_of(1, 1)[0]
        await ear.hear(here, there)
        cluster[1].kill()
        await until(lambda: not backplane.connected)
        assert f":{cluster[1].port}: " in str(backplane.away)
        backplane.publish(there, b"lost")
        assert await backplane.publish_counted(here, b"1") == 1
        assert backplane.metrics.lost.total() == 1
        await trio.to_thread.run_sync(cluster[1].start)
        await until(lambda: backplane.connected)
        assert await backplane.publish_counted(there, b"2") == 1
        await ear.until_heard(2)
        assert sorted(ear.heard) == sorted([(here, b"1"), (there, b"2")])
