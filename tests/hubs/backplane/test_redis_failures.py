"""An engine that is away, dies, freezes, is cut off: what the backplane does, says and counts."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trio

from echo.hubs.backplane import Backplane, BackplaneError
from tests.hubs.backplane.engines import Ear, Engine, eager, needs_engine, running, until
from tests.hubs.backplane.relay import relay

pytestmark = needs_engine

IMPATIENT = {"answer_timeout": 1.0, "keep_alive_interval": 0.2, "connect_timeout": 0.5}


async def test_an_engine_that_is_away_at_the_start_may_come_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    engine = Engine(tmp_path)
    async with running(engine.url, connected=False) as backplane:
        where = f"127.0.0.1:{engine.port}"
        assert backplane.away == f"{where}: Connection refused"
        ear = Ear(backplane)
        await ear.hear("a", "b")
        backplane.unsubscribe(["b"])
        backplane.publish("a", b"lost")
        with pytest.raises(BackplaneError, match=f"not published: {where}: Connection refused"):
            await backplane.publish_counted("a", b"lost")
        assert backplane.metrics.lost == {"away": 2}
        with engine:
            await until(lambda: backplane.connected)
            assert backplane.away is None
            assert engine.do("PUBSUB", "CHANNELS") == [b"a"]
            assert await backplane.publish_counted("a", b"1") == 1
            await ear.until_heard(1)
        assert caplog.text.count("The backplane is away: " + where) == 1
        assert caplog.text.count("The backplane is connected") == 1


async def test_it_comes_back_after_a_restart_and_tells(engine: Engine) -> None:
    told: list[tuple[bool, str | None]] = []

    def tell(backplane: Backplane) -> None:
        told.append((backplane.connected, backplane.away))

    async with running(engine.url) as backplane:
        ear = Ear(backplane)
        await ear.hear("a")
        backplane.listen(tell)
        for outage in (1, 2):
            engine.kill()
            await until(lambda: not backplane.connected)
            await trio.to_thread.run_sync(engine.start)
            await until(lambda: backplane.connected)
            assert backplane.metrics.outages == outage
            assert await backplane.publish_counted("a", b"%d" % outage) == 1
            await ear.until_heard(outage)
        assert told[-1] == (True, None)
        assert told[0][0] is False
        assert "the engine has closed the connection" in str(told[0][1]) or "reset" in str(told[0])
        assert all(connected or away for connected, away in told)


async def test_a_frozen_engine_is_noticed_even_in_silence(engine: Engine) -> None:
    async with running(engine.url, eager(**IMPATIENT)) as backplane:
        with engine.frozen():
            await until(lambda: not backplane.connected)
            assert "the engine has not answered for 1 s" in str(backplane.away)
            await until(lambda: "no connection within 0.5 s" in str(backplane.away))
        await until(lambda: backplane.connected)


async def test_who_waits_for_a_frozen_engine_is_told(engine: Engine) -> None:
    """And a message that it may still get is not sent again."""
    async with running(engine.url) as listener:
        ear = Ear(listener)
        await ear.hear("a")
        async with running(engine.url, eager(**IMPATIENT)) as backplane:
            with engine.frozen():
                with pytest.raises(BackplaneError, match="Nobody knows whether the message was"):
                    await backplane.publish_counted("a", b"1")
                await backplane.subscribed(["a"])
                assert backplane.metrics.lost == {"unknown": 1}
            await until(lambda: backplane.connected)
            assert await backplane.publish_counted("a", b"2") == 1
            await until(lambda: ("a", b"2") in ear.heard)
            # What reached the engine before the link was cut is carried out once it thaws.
            assert ear.heard in ([("a", b"1"), ("a", b"2")], [("a", b"2")])


async def test_what_a_frozen_engine_still_gets_does_not_come_late(engine: Engine) -> None:
    """Its first answers to the old connection, which is closed, end that connection for it."""
    async with running(engine.url) as listener:
        ear = Ear(listener)
        await ear.hear("a")
        async with running(engine.url, eager(**IMPATIENT)) as backplane:
            rest = bytes(990)
            with engine.frozen():
                for number in range(2000):
                    backplane.publish("a", b"%010d" % number + rest)
                await until(lambda: not backplane.connected)
                assert backplane.metrics.lost["unknown"] > 0
                await trio.sleep(0.3)  # let it try to connect, too
            await until(lambda: backplane.connected)
            for number in range(2000, 2100):
                backplane.publish("a", b"%010d" % number + rest)
            assert await backplane.publish_counted("a", b"%010d" % 2100) == 1
            await until(lambda: int(ear.heard[-1][1][:10]) == 2100 if ear.heard else False)
            assert await backplane.publish_counted("a", b"%010d" % 2101) == 1
            await until(lambda: int(ear.heard[-1][1][:10]) == 2101)
            numbers = [int(data[:10]) for _, data in ear.heard]
            assert numbers == sorted(set(numbers))
            assert numbers[-102:] == list(range(2000, 2102))


async def test_an_engine_that_freezes_for_a_moment_loses_nothing(engine: Engine) -> None:
    async with running(engine.url) as backplane:
        ear = Ear(backplane)
        await ear.hear("a")
        with engine.frozen():
            for number in range(500):
                backplane.publish("a", b"%d" % number)
            await trio.sleep(0.2)
        await ear.until_heard(500)
        assert [data for _, data in ear.heard] == [b"%d" % number for number in range(500)]
        assert not backplane.metrics.lost
        assert backplane.metrics.outages == 0


async def test_the_queue_of_a_slow_engine_is_bounded(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    options = eager(queue_size=1_000_000, answer_timeout=60)
    async with running(engine.url) as listener, running(engine.url, options) as backplane:
        ear = Ear(listener)
        await ear.hear("a")
        rest = bytes(9_990)
        with engine.frozen():
            for number in range(500):
                backplane.publish("a", b"%010d" % number + rest)
                if number % 10 == 0:
                    await trio.lowlevel.checkpoint()
            lost = backplane.metrics.lost["full"]
            assert 400 <= lost < 410  # each takes a little more than 10 kB
            assert backplane.crowded
            with pytest.raises(BackplaneError, match="its queue is full"):
                await backplane.publish_counted("a", rest)
            with trio.move_on_after(0.05) as scope:
                await backplane.room()
            assert scope.cancelled_caught
        with trio.fail_after(20):
            await backplane.room()
        assert not backplane.crowded
        assert await backplane.publish_counted("a", b"end") == 1
        await ear.until_heard(500 - lost + 1)
        assert [int(data[:10]) for _, data in ear.heard[:-1]] == list(range(500 - lost))
        assert backplane.metrics.lost == {"full": lost + 1}
        assert caplog.text.count("the queue of the backplane is full") == 1


async def test_who_waits_for_room_is_let_go_when_time_is_up(engine: Engine) -> None:
    options = eager(queue_size=1000, keep_alive_interval=30, answer_timeout=0.2)
    async with running(engine.url, options) as backplane:
        with engine.frozen():
            backplane.publish("a", bytes(800))
            assert backplane.crowded
            with trio.fail_after(20):
                await backplane.room()


async def test_half_a_message_is_none(engine: Engine) -> None:
    """The link is cut in the middle of what the engine sends."""
    async with relay(engine.socket) as between, running(between.url) as backplane:
        ear = Ear(backplane)
        await ear.hear("a")
        between.to_nodes = 5_000
        assert engine.do("PUBLISH", "a", bytes(10_000)) == 1
        await until(lambda: not backplane.connected)
        between.to_nodes = None
        await until(lambda: backplane.connected)
        assert engine.do("PUBLISH", "a", b"whole") == 1
        await ear.until_heard(1)
        assert ear.heard == [("a", b"whole")]


async def test_what_was_half_sent_is_not_sent_again(engine: Engine) -> None:
    """The link is cut in the middle of what the node sends; how far it came, it cannot know."""
    async with (
        running(engine.url) as listener,
        relay(engine.socket) as between,
        running(between.url) as backplane,
    ):
        ear = Ear(listener)
        await ear.hear("a")
        between.to_engine = 5_500
        for number in range(10):
            backplane.publish("a", b"%d" % number + bytes(999))
        await until(lambda: not backplane.connected)
        between.to_engine = None
        await until(lambda: backplane.connected)
        assert await backplane.publish_counted("a", b"end") == 1
        await until(lambda: ("a", b"end") in ear.heard)
        heard = [data[:1] for _, data in ear.heard]
        assert heard == [b"0", b"1", b"2", b"3", b"4", b"e"]
        # The answers to the first five may have come before the cut.
        assert 5 <= backplane.metrics.lost["unknown"] <= 10
        assert backplane.metrics.lost.total() == 11 - backplane.metrics.published


async def test_a_link_that_flaps_is_not_hammered(engine: Engine) -> None:
    options = eager(retry_least=0.05, retry_most=5)
    async with relay(engine.socket) as between, running(between.url, options) as backplane:
        between.open = False
        between.cut()
        await trio.sleep(0.5)
        assert 1 <= between.refused <= 16  # two links; 0.05 s, 0.1 s, 0.2 s, at least half of it
        between.open = True
        await until(lambda: backplane.connected)


async def test_one_subscription_among_many_changes_survives_cuts(engine: Engine) -> None:
    """Whatever was under way when the link broke, what is wanted in the end is subscribed."""
    async with relay(engine.socket) as between, running(between.url) as backplane:
        ear = Ear(backplane)
        for cut in range(10):
            for number in range(60):
                channel = f"c{(number * 7 + cut) % 40}"
                if (number + cut) % 3:
                    backplane.subscribe([channel], ear.receive)
                else:
                    backplane.unsubscribe([channel])
                if number % 5 == cut % 5:
                    await trio.lowlevel.checkpoint()
                if number == 6 * cut:
                    between.cut()
        await until(lambda: backplane.connected)
        await ear.hear("end")
        wanted = {each.encode() for each in backplane.channels}
        assert len(wanted) > 10
        assert set(engine.do("PUBSUB", "CHANNELS")) == wanted
