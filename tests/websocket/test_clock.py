"""The clock that all sockets of a worker share."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from echo.websocket.clock import Clock


@asynccontextmanager
async def running() -> AsyncIterator[Clock]:
    clock = Clock()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        yield clock
        nursery.cancel_scope.cancel()


def noting(notes: list[tuple[str, float]], name: str) -> Callable[[], None]:
    start = trio.current_time()
    return lambda: notes.append((name, round(trio.current_time() - start, 3)))


async def test_callbacks_come_in_the_order_of_their_times_not_of_their_making(
    autojump_clock: MockClock,
) -> None:
    notes: list[tuple[str, float]] = []
    async with running() as clock:
        for seconds in (3, 1, 2):
            clock.call_in(seconds, noting(notes, str(seconds)))
        await trio.sleep(4)
    assert notes == [("1", 1), ("2", 2), ("3", 3)]


async def test_callbacks_of_one_moment_come_in_the_order_of_their_making(
    autojump_clock: MockClock,
) -> None:
    notes: list[tuple[str, float]] = []
    async with running() as clock:
        for name in "abc":
            clock.call_in(1, noting(notes, name))
        await trio.sleep(2)
    assert [name for name, _ in notes] == ["a", "b", "c"]


async def test_an_earlier_callback_wakes_a_clock_that_sleeps_for_a_later_one(
    autojump_clock: MockClock,
) -> None:
    notes: list[tuple[str, float]] = []
    async with running() as clock:
        clock.call_in(100, noting(notes, "late"))
        await trio.sleep(1)
        clock.call_in(1, noting(notes, "early"))
        await trio.sleep(2)
    assert notes == [("early", 1)]


async def test_a_callback_made_before_the_clock_runs_still_comes(autojump_clock: MockClock) -> None:
    notes: list[tuple[str, float]] = []
    clock = Clock()
    clock.call_in(1, noting(notes, "first"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        await trio.sleep(2)
        nursery.cancel_scope.cancel()
    assert notes == [("first", 1)]


async def test_a_cancelled_callback_does_not_come(autojump_clock: MockClock) -> None:
    notes: list[tuple[str, float]] = []
    async with running() as clock:
        timer = clock.call_in(1, noting(notes, "cancelled"))
        clock.call_in(1, noting(notes, "kept"))
        timer.cancel()
        await trio.sleep(2)
        timer.cancel()
    assert notes == [("kept", 1)]


async def test_a_callback_may_ask_for_the_next(autojump_clock: MockClock) -> None:
    notes: list[tuple[str, float]] = []
    async with running() as clock:

        def again(left: int, note: Callable[[], None]) -> None:
            note()
            if left:
                clock.call_in(1, partial(again, left - 1, note))

        clock.call_in(1, partial(again, 2, noting(notes, "beat")))
        await trio.sleep(10)
    assert notes == [("beat", 1), ("beat", 2), ("beat", 3)]


async def test_a_callback_that_fails_is_logged_and_keeps_no_other_from_coming(
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    notes: list[tuple[str, float]] = []

    def fail() -> None:
        raise LookupError("on purpose")

    async with running() as clock:
        clock.call_in(1, fail)
        clock.call_in(1, noting(notes, "other"))
        await trio.sleep(2)
    assert [name for name, _ in notes] == ["other"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_timers_that_were_cancelled_do_not_pile_up(autojump_clock: MockClock) -> None:
    """A socket sets and cancels a send deadline with every stall; those of 30 s outlive it."""
    async with running() as clock:
        for _ in range(10_000):
            clock.call_in(30, noting([], "never")).cancel()
        clock.call_in(31, noting([], "last"))
        await trio.sleep(31)
        assert len(clock._heap) <= 1
