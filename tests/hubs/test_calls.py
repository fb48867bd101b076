"""A coroutine run in the task that has it, which tells when it has to wait."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from echo.hubs.calls import run_until_wait


async def test_a_coroutine_that_does_not_wait_ends_at_once() -> None:
    async def quick() -> int:
        return 1

    waits: list[str] = []
    assert await run_until_wait(quick(), lambda: waits.append("waits")) == 1
    assert not waits


async def test_one_that_waits_tells_so_once_and_goes_on_in_the_same_task(
    autojump_clock: MockClock,
) -> None:
    tasks = []

    async def slow() -> int:
        for _ in range(3):
            tasks.append(trio.lowlevel.current_task())
            await trio.sleep(1)
        with trio.move_on_after(2):
            await trio.sleep_forever()
        return 2

    waits: list[float] = []
    start = trio.current_time()
    assert await run_until_wait(slow(), lambda: waits.append(trio.current_time())) == 2
    assert waits == [start]
    assert trio.current_time() == start + 5
    assert set(tasks) == {trio.lowlevel.current_task()}


async def test_errors_come_through_before_and_after_a_wait() -> None:
    async def fail(wait: bool) -> None:
        if wait:
            await trio.lowlevel.checkpoint()
        raise LookupError("on purpose")

    for wait in (False, True):
        with pytest.raises(LookupError, match="on purpose"):
            await run_until_wait(fail(wait), lambda: None)


async def test_a_cancellation_reaches_it_where_it_waits() -> None:
    ended = []

    async def endless() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)

    async def run() -> None:
        await run_until_wait(endless(), lambda: None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert ended


async def test_nurseries_and_other_tasks_work_inside() -> None:
    async def family() -> int:
        results: list[int] = []

        async def child(number: int) -> None:
            await trio.lowlevel.checkpoint()
            results.append(number)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child, 1)
            nursery.start_soon(child, 2)
        return sum(results)

    assert await run_until_wait(family(), lambda: None) == 3
