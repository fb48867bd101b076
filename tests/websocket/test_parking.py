"""Parking: Trio accepts its own request again and again."""

from __future__ import annotations

import pytest
import trio

from echo.websocket.parking import Parking


async def test_a_task_is_woken_as_often_as_it_waits() -> None:
    parking = Parking()
    woken = 0

    async def sleeper() -> None:
        nonlocal woken
        for _ in range(3):
            await parking.wait()
            woken += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleeper)
        for count in range(3):
            await trio.testing.wait_all_tasks_blocked()
            assert woken == count
            parking.wake()
    assert woken == 3


async def test_a_cancelled_wait_leaves_the_place_free() -> None:
    parking = Parking()
    for _ in range(2):
        with trio.CancelScope() as scope:
            scope.cancel()
            await parking.wait()
        assert scope.cancelled_caught
        assert parking.task is None
    parking.wake()


async def test_a_wait_notices_a_deadline() -> None:
    with pytest.raises(trio.TooSlowError), trio.fail_after(0.01):
        await Parking().wait()
