"""One clock for every deadline of every socket of a worker: a heap of callbacks and one task.

A socket that waits for a pong, for room in a buffer or for a goodbye costs an entry here, not
a task. Callbacks are synchronous and run in the clock's task.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Callable
from itertools import count

import trio

logger = logging.getLogger("echo.websocket")


class Timer:
    """A callback that is to come; `cancel()` takes it back."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Clock:
    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._sleep = trio.CancelScope()

    def call_in(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back after so many seconds, unless cancelled before."""
        timer = Timer(callback)
        when = trio.current_time() + seconds
        heapq.heappush(self._heap, (when, next(self._order), timer))
        if when < self._sleep.deadline:
            self._sleep.deadline = when
        return timer

    async def run(self) -> None:
        """Call back what is due, for ever."""
        heap = self._heap
        while True:
            with trio.CancelScope(deadline=heap[0][0] if heap else math.inf) as self._sleep:
                await trio.sleep_forever()
            now = trio.current_time()
            while heap and heap[0][0] <= now:
                timer = heapq.heappop(heap)[2]
                if timer.callback is None:
                    continue
                try:
                    timer.callback()
                except Exception:
                    logger.exception("A deadline of a WebSocket failed")
