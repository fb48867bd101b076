"""The contract of a backplane: bytes between nodes, on every engine."""

from __future__ import annotations

import random

import pytest
import trio

from echo.hubs.backplane import Backplane, BackplaneError
from tests.hubs.backplane.farm import ENGINES, MARKS, Open

pytestmark = pytest.mark.parametrize(
    "opened",
    [pytest.param(each, id=name, marks=MARKS.get(name, ())) for name, each in ENGINES.items()],
)


class Ear:
    """Hears what comes to one backplane."""

    def __init__(self, backplane: Backplane) -> None:
        self.backplane = backplane
        self.heard: list[tuple[str, bytes]] = []
        self._came = trio.Event()

    def receive(self, channel: str, data: bytes) -> None:
        self.heard.append((channel, data))
        self._came.set()

    async def hear(self, *channels: str) -> None:
        self.backplane.subscribe(channels, self.receive)
        await self.backplane.subscribed(channels)

    async def until(self, channel: str, data: bytes) -> None:
        """Wait until this has come."""
        while (channel, data) not in self.heard:
            self._came = trio.Event()
            await self._came.wait()


async def test_what_is_published_comes_to_all_who_have_subscribed(opened: Open) -> None:
    async with opened(3) as engine:
        ears = [Ear(each) for each in engine.backplanes]
        await ears[0].hear("a", "b", "end")
        await ears[1].hear("a", "end")
        engine.backplanes[0].publish("a", b"1")
        engine.backplanes[0].publish("b", b"\0\xff")
        engine.backplanes[0].publish("c", b"3")
        engine.backplanes[0].publish("end", b"")
        for ear in ears[:2]:
            await ear.until("end", b"")
        assert ears[0].heard == [("a", b"1"), ("b", b"\0\xff"), ("end", b"")]
        assert ears[1].heard == [("a", b"1"), ("end", b"")]
        assert ears[2].heard == []
        assert engine.backplanes[1].metrics.received == 2
        assert engine.backplanes[1].metrics.received_bytes == 1


async def test_a_channel_keeps_the_order_of_a_sender(opened: Open) -> None:
    async with opened(2) as engine:
        ear = Ear(engine.backplanes[1])
        await ear.hear("a")
        sent = [b"%d" % number for number in range(500)]
        for number, data in enumerate(sent):
            if number % 100 == 99:
                assert await engine.backplanes[0].publish_counted("a", data) == 1
            else:
                engine.backplanes[0].publish("a", data)
        await ear.until("a", sent[-1])
        assert [data for _, data in ear.heard] == sent
        assert engine.backplanes[0].metrics.published == 500


async def test_it_is_known_how_many_nodes_get_a_message(opened: Open) -> None:
    async with opened(2) as engine:
        ears = [Ear(each) for each in engine.backplanes]
        first = engine.backplanes[0]
        assert await first.publish_counted("a", b"") == 0
        for number, ear in enumerate(ears, 1):
            await ear.hear("a")
            assert await first.publish_counted("a", b"") == number


async def test_what_is_unsubscribed_no_longer_comes(opened: Open) -> None:
    async with opened(2) as engine:
        ear = Ear(engine.backplanes[1])
        await ear.hear("a", "b", "end")
        engine.backplanes[1].unsubscribe(["a", "never"])
        engine.backplanes[0].publish("a", b"1")
        engine.backplanes[0].publish("b", b"2")
        engine.backplanes[0].publish("end", b"")
        await ear.until("end", b"")
        assert ear.heard == [("b", b"2"), ("end", b"")]


async def test_the_last_word_on_a_subscription_counts(opened: Open) -> None:
    """However often it changes while the engine is about it."""
    async with opened(2) as engine:
        ear = Ear(engine.backplanes[1])
        channels = [f"c{number}" for number in range(20)]
        chance = random.Random(1)
        for _ in range(200):
            channel = chance.choice(channels)
            if chance.random() < 0.5:
                ear.backplane.subscribe([channel], ear.receive)
            else:
                ear.backplane.unsubscribe([channel])
            if chance.random() < 0.3:
                await trio.lowlevel.checkpoint()
        wanted = {each for each in channels if ear.backplane.wants(each)}
        assert 0 < len(wanted) < 20
        await ear.hear("end")
        await ear.backplane.subscribed(wanted)
        found = {
            channel
            for channel in channels
            if await engine.backplanes[0].publish_counted(channel, b"")
        }
        assert found == wanted


async def test_who_waits_for_a_subscription_that_is_taken_back_does_not_hang(
    opened: Open,
) -> None:
    async with opened(1) as engine:
        (backplane,) = engine.backplanes
        ear = Ear(backplane)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ear.hear, "a")
                await trio.lowlevel.checkpoint()
                backplane.unsubscribe(["a"])
            await backplane.subscribed(["never"])


async def test_a_channel_has_one_receiver(opened: Open) -> None:
    async with opened(1) as engine:
        (backplane,) = engine.backplanes
        first, second = Ear(backplane), Ear(backplane)
        await first.hear("a")
        await first.hear("a")
        with pytest.raises(ValueError, match="two hubs of one backplane have the channel 'a'"):
            backplane.subscribe(["b", "a"], second.receive)
        assert not backplane.wants("b")


async def test_a_receiver_that_fails_disturbs_nobody(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(1) as engine:
        (backplane,) = engine.backplanes
        ear = Ear(backplane)

        def fail(channel: str, data: bytes) -> None:
            raise KeyError(channel)

        backplane.subscribe(["bad"], fail)
        await ear.hear("a")
        backplane.publish("bad", b"")
        backplane.publish("a", b"")
        await ear.until("a", b"")
        assert "Receiving a message on bad failed" in caplog.text


async def test_while_the_engine_is_away_nothing_waits(opened: Open) -> None:
    async with opened(2) as engine:
        first, second = engine.backplanes
        ear = Ear(second)
        await engine.stop()
        assert not first.connected
        assert first.away
        with trio.fail_after(10):
            await ear.hear("a")
            await first.room()
            first.publish("a", b"lost")
            with pytest.raises(BackplaneError):
                await first.publish_counted("a", b"lost")
        assert not first.crowded
        assert first.metrics.lost == {"away": 2}
        await engine.start()
        assert first.away is None
        first.publish("a", b"1")
        await ear.until("a", b"1")
        assert ear.heard == [("a", b"1")]


async def test_who_no_longer_waits_for_an_answer_can_be_cancelled(opened: Open) -> None:
    async with opened(1) as engine:
        (backplane,) = engine.backplanes
        ear = Ear(backplane)
        await ear.hear("a")
        with trio.move_on_after(0) as scope:
            await backplane.publish_counted("a", b"1")
        assert scope.cancelled_caught
        assert await backplane.publish_counted("a", b"2") == 1
        await ear.until("a", b"2")
