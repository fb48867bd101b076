"""What an app runs around all calls of a hub, its connects and its disconnects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    from echo.hubs.context import CallerContext
    from echo.hubs.hub import Hub


class HubInvocation(Struct):
    """A call of a client, bound and allowed, about to run."""

    hub: Hub
    """The instance that it runs in."""
    target: str
    """The method's name as the client wrote it."""
    method: Callable[..., Any]
    """The function in the hub's class."""
    arguments: list[Any]
    """By position, streams among them. A filter may change them."""

    @property
    def context(self) -> CallerContext:
        """Whose call it is."""
        return self.hub.context


class HubFilter:
    """Override what you want to be around, and await `proceed` for the rest of it.

    Who does not await it skips the rest: other filters, then the hub's own method. An error that
    a filter raises counts as the method's; one that it catches does not.
    """

    async def invoke(
        self, invocation: HubInvocation, proceed: Callable[[HubInvocation], Awaitable[Any]]
    ) -> Any:
        """Around a call; returns its result, for a call with a stream the async iterator."""
        return await proceed(invocation)

    async def on_connected(self, hub: Hub, proceed: Callable[[Hub], Awaitable[None]]) -> None:
        """Around the hub's `on_connected`."""
        await proceed(hub)

    async def on_disconnected(
        self,
        hub: Hub,
        error: Exception | None,
        proceed: Callable[[Hub, Exception | None], Awaitable[None]],
    ) -> None:
        """Around the hub's `on_disconnected`."""
        await proceed(hub, error)


Step: TypeAlias = Callable[..., Awaitable[Any]]


def around(filters: Iterable[HubFilter], name: str, innermost: Step) -> Step:
    """`innermost` with the filters' methods of this name around it, the first outermost.

    A method that a filter does not override costs nothing.
    """
    step = innermost
    for each in reversed(tuple(filters)):
        if getattr(type(each), name) is not getattr(HubFilter, name):
            step = _link(getattr(each, name), step)
    return step


def _link(method: Step, proceed: Step) -> Step:
    def step(*arguments: Any) -> Awaitable[Any]:
        return method(*arguments, proceed)

    return step
