"""A deadline that is put off all the time and costs one entry in the clock."""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from echo.websocket.clock import Clock, Timer


class Deadline:
    """Calls back once when `begin()` was not followed by `end()` for so many seconds."""

    __slots__ = ("_callback", "_clock", "_due", "_seconds", "_timer")

    def __init__(self, clock: Clock, seconds: float, callback: Callable[[], None]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._callback = callback
        self._due = math.inf
        self._timer: Timer | None = None

    def begin(self) -> None:
        """Count from now on."""
        self._due = trio.current_time() + self._seconds
        if self._timer is None:
            self._timer = self._clock.call_in(self._seconds, self._check)

    def end(self) -> None:
        """Count no longer."""
        self._due = math.inf

    def _check(self) -> None:
        self._timer = None
        left = self._due - trio.current_time()
        if left <= 0:
            self._callback()
        elif left < math.inf:
            self._timer = self._clock.call_in(left, self._check)
