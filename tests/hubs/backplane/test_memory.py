"""What the exchange in memory does beyond the contract: bounded queues, links that are cut."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from echo.hubs.backplane import BackplaneError, Exchange, MemoryBackplane
from tests.hubs.backplane.farm import MemoryEngine


async def test_the_queue_is_bounded_and_there_is_room_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    exchange = Exchange()
    backplane = MemoryBackplane(exchange, capacity=10)
    async with trio.open_nursery() as nursery:
        await nursery.start(backplane.run)
        exchange.freeze()
        for number in range(13):
            assert backplane.crowded == (number > 5)
            backplane.publish("a", b"")
        assert backplane.metrics.lost == {"full": 3}
        assert caplog.text.count("the queue of the backplane is full") == 1
        nursery.start_soon(backplane.room)
        await wait_all_tasks_blocked()
        exchange.thaw()
        with trio.fail_after(5):
            await backplane.room()
        await wait_all_tasks_blocked()
        assert backplane.metrics.published == 10
        nursery.cancel_scope.cancel()


async def test_an_exchange_that_says_nothing_is_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    exchange = Exchange()
    backplane = MemoryBackplane(exchange, capacity=1, time_limit=3)
    async with trio.open_nursery() as nursery:
        await nursery.start(backplane.run)
        exchange.freeze()
        backplane.subscribe(["a"], lambda channel, data: None)
        began = trio.current_time()
        await backplane.subscribed(["a"])
        with pytest.raises(BackplaneError, match="time is up"):
            await backplane.publish_counted("a", b"")
        await backplane.room()
        assert trio.current_time() - began == pytest.approx(9)
        nursery.cancel_scope.cancel()


async def test_one_node_can_be_cut_off() -> None:
    engine = MemoryEngine(2)
    first, second = engine.backplanes
    heard: list[bytes] = []
    async with trio.open_nursery() as nursery:
        for each in engine.backplanes:
            await nursery.start(each.run)
        second.subscribe(["a"], lambda channel, data: heard.append(data))
        second.cut()
        assert (first.connected, second.connected) == (True, False)
        assert second.away == "the link is cut"
        assert await first.publish_counted("a", b"1") == 0
        second.heal()
        assert await first.publish_counted("a", b"2") == 1
        assert heard == [b"2"]
        nursery.cancel_scope.cancel()
    assert first.away == "ended"
