"""A place where one task waits to be woken, made once and used for every wait.

`trio.lowlevel.wait_task_rescheduled` makes a request, an outcome and two coroutines for each
wait; a socket that waits for every message would spend a fifth of its time on them. The request
here is Trio's own, asked for once. `tests/websocket/test_parking.py` holds Trio to it.
"""

from __future__ import annotations

import types
from collections.abc import Generator
from typing import Any

import outcome
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

_WOKEN: outcome.Value[None] = outcome.Value(None)


class Parking:
    __slots__ = ("_request", "task")

    def __init__(self) -> None:
        self.task: Task | None = None
        """The task that waits, or None."""
        waiting = wait_task_rescheduled(self._abort)  # noqa: ASYNC105
        self._request = waiting.send(None)
        waiting.close()

    @types.coroutine
    def wait(self) -> Generator[Any, Any, None]:
        """Wait until `wake()`. One task at a time; a cancelled wait leaves the place free."""
        self.task = current_task()
        result = yield self._request
        if result is not _WOKEN:
            result.unwrap()

    def wake(self) -> None:
        """Let go the task that waits, if one does."""
        task = self.task
        if task is not None:
            self.task = None
            reschedule(task, _WOKEN)

    def _abort(self, _: object) -> Abort:
        self.task = None
        return Abort.SUCCEEDED
