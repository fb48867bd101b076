"""Client results: what the server asks of a client, and what the client answers."""

from __future__ import annotations

import functools
import math
from typing import Any

import trio
from msgspec import UNSET

from echo.hubs.binding import BindingError, Converter
from echo.hubs.errors import HubError
from echo.hubs.messages import Completion
from echo.hubs.protocol import HubProtocol


class Answer:
    """A question to a client, until its answer comes, the client leaves, or time is up."""

    __slots__ = ("_come", "_completion")

    def __init__(self) -> None:
        self._come = trio.Event()
        self._completion: Completion | None = None

    def come(self, completion: Completion | None) -> None:
        """The client has answered; None: it is gone."""
        self._completion = completion
        self._come.set()

    async def wait(self, seconds: float | None) -> Completion | None:
        """What `come()` is told. Raises TimeoutError after so many seconds; None: never."""
        with trio.move_on_after(math.inf if seconds is None else seconds):
            await self._come.wait()
            return self._completion
        raise TimeoutError(f"the client did not answer within {seconds:g} s")


def read_answer(completion: Completion, returns: object, protocol: HubProtocol) -> Any:
    """The answer as this type. Raises `HubError` if it is an error, or another type."""
    if completion.error is not None:
        raise HubError(completion.error)
    if completion.result is UNSET:
        if returns in (Any, object, None, type(None)):
            return None
        raise HubError("Client didn't provide a result.")
    try:
        return _converter(returns).convert(completion.result, protocol)
    except BindingError as error:
        name = getattr(returns, "__name__", str(returns))
        raise HubError(f"Error trying to deserialize result to {name}.") from error


@functools.lru_cache(maxsize=256)
def _converter(type: object) -> Converter:
    return Converter(type)
