"""One run of a hub's method, and how to run it in the task that read the call.

Most methods end without ever waiting. `run_until_wait` runs them without a task of their own and
says when one has to wait after all: then the reading goes on in another task, and the method
stays where it is, with its cancel scopes and whatever it has registered under its task.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from echo.hubs.errors import UsageError

if TYPE_CHECKING:
    from echo.hubs.connection import HubConnection

T = TypeVar("T")


@types.coroutine
def run_until_wait(
    coroutine: Coroutine[Any, Any, T], when_waiting: Callable[[], None]
) -> Generator[Any, Any, T]:
    """Await `coroutine`; if it has to wait, call `when_waiting` once, before it does."""
    try:
        request = coroutine.send(None)
        when_waiting()
        while True:
            try:
                answer = yield request
            except BaseException as error:
                request = coroutine.throw(error)
            else:
                request = coroutine.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


class Call:
    """One run of the hub: a call of a client, or its connect or disconnect.

    Args:
        connection: whose it is.
        counted: whether it is one of the `parallel_invocations`, until it ends or `release()`.
        streaming: whether it is one of the `max_streams`.
        may_ask: whether the client could answer a question.
    """

    __slots__ = ("_counted", "_may_ask", "connection", "streaming")

    def __init__(
        self,
        connection: HubConnection,
        *,
        counted: bool = False,
        streaming: bool = False,
        may_ask: bool = True,
    ) -> None:
        self.connection = connection
        self.streaming = streaming
        self._counted = counted
        self._may_ask = may_ask

    @contextmanager
    def asking(self) -> Iterator[None]:
        """The method waits for a client, who may first have other things to say."""
        if not self._may_ask:
            raise UsageError("Client results inside OnConnectedAsync Hub methods are not allowed.")
        reader = self.connection.reader
        reader.begin_asking()
        try:
            self.release()
            yield
        finally:
            reader.end_asking()

    def release(self) -> None:
        """Let the next call begin. Only the first time counts."""
        if self._counted:
            self._counted = False
            self.connection.reader.release_slot()
