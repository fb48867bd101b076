"""HubPublisher: calls the clients of a hub from a process that serves none.

    async with HubPublisher("redis://localhost", "chat.Chat") as hub:
        await hub.all.send("ReceiveMessage", "Hello")

A script without Trio puts this into an async function `main()` and calls `trio.run(main)`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import trio

from echo.hubs.backplane import wire
from echo.hubs.backplane.backplane import Backplane, BackplaneError
from echo.hubs.backplane.engine import RedisOptions
from echo.hubs.backplane.redis import RedisBackplane
from echo.hubs.backplane.remote import reach
from echo.hubs.clients import HubClients
from echo.hubs.errors import UsageError
from echo.hubs.lifetime import Audience, EncodedCall, Lifetime
from echo.hubs.messages import Invocation

if TYPE_CHECKING:
    from echo.hubs.connection import HubConnection


class HubPublisher(HubClients):
    """The clients of a hub on all of its nodes, ours and .NET's.

    `send()` returns when the engine has taken the message. It raises `BackplaneError` if the
    engine is away, and `EncodingError` if an argument cannot be sent. To enter raises
    `BackplaneError`, too, if the engine cannot be reached.

    Args:
        url: where the engine is: see `engine.parse_url`.
        hub: the name of the hub on its servers: module and class, as "chat.Chat".
        options: what is bounded; None for the defaults.

    Raises ValueError if the URL cannot be used.
    """

    __slots__ = ("_backplane", "_hub", "_running")

    def __init__(self, url: str, hub: str, options: RedisOptions | None = None) -> None:
        self._backplane = RedisBackplane(url, options)
        self._hub = _RemoteHub(self._backplane, hub)
        self._running: AbstractAsyncContextManager[None] | None = None
        super().__init__(self._hub)

    @property
    def connected(self) -> bool:
        """Whether the engine is there. When it is not, it is looked for until the block ends."""
        return self._backplane.connected

    @property
    def reached(self) -> int | None:
        """How many nodes the engine gave the last message to, each channel of it counted; None
        if it cannot tell. 0 for `all` means that no server has a hub of this name."""
        return self._hub.reached

    async def __aenter__(self) -> HubPublisher:
        self._running = _running(self._backplane)
        await self._running.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> bool | None:
        assert self._running is not None
        return await self._running.__aexit__(*raised)


@asynccontextmanager
async def _running(backplane: Backplane) -> AsyncIterator[None]:
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(backplane.run)
        try:
            if not backplane.connected:
                raise BackplaneError(f"The backplane is away: {backplane.away}.")
            yield
        except Exception as raised:
            error = raised  # itself, not in the nursery's group
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error


class _RemoteHub(Lifetime):
    """A hub whose clients are all elsewhere."""

    def __init__(self, backplane: Backplane, hub: str) -> None:
        self.reached: int | None = None
        self._backplane = backplane
        self._channels = wire.Channels(hub)

    async def send(self, audience: Audience, target: str, arguments: Sequence[object]) -> None:
        call = EncodedCall(Invocation(target=target, arguments=arguments))
        forms = {name: call.form(protocol) for name, protocol in wire.PROTOCOLS.items()}
        channels, excluded = reach(self._channels, audience)
        data = wire.encode_call(forms, excluded)
        reached: int | None = 0
        for channel in channels:
            nodes = await self._backplane.publish_counted(channel, data)
            reached = None if nodes is None or reached is None else reached + nodes
        self.reached = reached

    async def invoke(
        self, connection_id: str, target: str, arguments: Sequence[object], returns: object
    ) -> object:
        self._refuse()

    async def add_to_group(self, connection_id: str, group: str) -> None:
        self._refuse()

    async def remove_from_group(self, connection_id: str, group: str) -> None:
        self._refuse()

    async def join(self, connection: HubConnection) -> None:
        self._refuse()

    async def leave(self, connection: HubConnection) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise UsageError("A HubPublisher sends, and nothing else: it is no server of the hub.")
