"""Whom to call: the clients of a hub, chosen by connection, group or user.

A choice is an object that sends. From anywhere: `HubClients`, in a hub method: `CallerClients`,
which knows the caller as well. Groups change here too.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar, overload

from echo.hubs.lifetime import All, Audience, Connections, Groups, Lifetime, Users
from echo.hubs.metrics import Metrics

if TYPE_CHECKING:
    from echo.hubs.calls import Call

T = TypeVar("T")


class ClientProxy:
    """Some clients, none or many."""

    __slots__ = ("_audience", "_lifetime")

    def __init__(self, lifetime: Lifetime, audience: Audience) -> None:
        self._lifetime = lifetime
        self._audience = audience

    async def send(self, target: str, /, *arguments: object) -> None:
        """Call `target` on these clients. Waits for none of them, nor for an answer.

        Raises `EncodingError` if a protocol in use cannot carry an argument.
        """
        await self._lifetime.send(self._audience, target, arguments)


class SingleClientProxy(ClientProxy):
    """One client."""

    __slots__ = ("_call", "_id")

    def __init__(self, lifetime: Lifetime, id: str, call: Call | None = None) -> None:
        super().__init__(lifetime, Connections((id,)))
        self._id = id
        self._call = call

    @overload
    async def invoke(self, target: str, /, *arguments: object, returns: type[T]) -> T: ...

    @overload
    async def invoke(self, target: str, /, *arguments: object, returns: object = Any) -> Any: ...

    async def invoke(self, target: str, /, *arguments: object, returns: object = Any) -> Any:
        """Call `target` on this client and wait for its answer, for `client_result_timeout`.

        While a method waits here, the next call of its caller may begin.

        Args:
            target: what to call.
            *arguments: what to call it with.
            returns: the type to convert the answer to.

        Raises:
            HubError: the client answered with an error, or with another type; or too many calls
                of the caller wait for clients already (`max_client_results`).
            ClientDisconnected: it is not connected, or left before it answered.
            TimeoutError: it did not answer in time.
            EncodingError: its protocol cannot carry an argument.
            BackplaneError: it is not connected to this node, and the engine is away or goes away.
            UsageError: this is `on_connected`: the client cannot answer yet.
        """
        with nullcontext() if self._call is None else self._call.asking():
            return await self._lifetime.invoke(self._id, target, arguments, returns)


class CallerProxy(SingleClientProxy):
    """The client that made the call."""

    __slots__ = ()

    def __init__(self, lifetime: Lifetime, call: Call) -> None:
        super().__init__(lifetime, call.connection.id, call)

    async def send(self, target: str, /, *arguments: object) -> None:
        """Call `target` on the caller. Waits while too much waits for it; not for an answer.

        Raises `EncodingError` if its protocol cannot carry an argument.
        """
        assert self._call is not None
        connection = self._call.connection
        await super().send(target, *arguments)
        if connection.crowded:
            await connection.room()


class HubClients:
    """The clients of a hub, from anywhere."""

    __slots__ = ("_lifetime",)

    def __init__(self, lifetime: Lifetime) -> None:
        self._lifetime = lifetime

    @property
    def all(self) -> ClientProxy:
        """All clients."""
        return ClientProxy(self._lifetime, All())

    def all_except(self, connection_ids: Iterable[str]) -> ClientProxy:
        """All clients but these."""
        return ClientProxy(self._lifetime, All(frozenset(_several(connection_ids))))

    def client(self, connection_id: str) -> SingleClientProxy:
        """One client. Sending to one that is not there does nothing."""
        return SingleClientProxy(self._lifetime, connection_id)

    def clients(self, connection_ids: Iterable[str]) -> ClientProxy:
        """These clients."""
        return ClientProxy(self._lifetime, Connections(_several(connection_ids)))

    def group(self, name: str) -> ClientProxy:
        """The clients in a group."""
        return ClientProxy(self._lifetime, Groups((name,)))

    def group_except(self, name: str, connection_ids: Iterable[str]) -> ClientProxy:
        """The clients in a group but these."""
        excluded = frozenset(_several(connection_ids))
        return ClientProxy(self._lifetime, Groups((name,), excluded))

    def groups(self, names: Iterable[str]) -> ClientProxy:
        """The clients in each of these groups; one that is in two of them is called twice."""
        return ClientProxy(self._lifetime, Groups(_several(names)))

    def user(self, user_id: str) -> ClientProxy:
        """The clients of a user."""
        return ClientProxy(self._lifetime, Users((user_id,)))

    def users(self, user_ids: Iterable[str]) -> ClientProxy:
        """The clients of these users."""
        return ClientProxy(self._lifetime, Users(_several(user_ids)))


class CallerClients(HubClients):
    """The clients of a hub, in one of its methods."""

    __slots__ = ("_call",)

    def __init__(self, lifetime: Lifetime, call: Call) -> None:
        self._lifetime = lifetime
        self._call = call

    @property
    def caller(self) -> CallerProxy:
        """The client that made the call."""
        return CallerProxy(self._lifetime, self._call)

    @property
    def others(self) -> ClientProxy:
        """All clients but the caller."""
        return ClientProxy(self._lifetime, All(frozenset((self._call.connection.id,))))

    def client(self, connection_id: str) -> SingleClientProxy:
        """One client. Sending to one that is not there does nothing."""
        return SingleClientProxy(self._lifetime, connection_id, self._call)

    def others_in_group(self, name: str) -> ClientProxy:
        """The clients in a group but the caller."""
        excluded = frozenset((self._call.connection.id,))
        return ClientProxy(self._lifetime, Groups((name,), excluded))


class GroupManager:
    """Who is in which group. A client that leaves is in none; empty groups are forgotten.

    With a backplane, changes for clients of other nodes wait until these have made them. They
    raise `BackplaneError` when the engine is away, or when no node has after 30 s, as none does
    for a client that is not connected.
    """

    __slots__ = ("_lifetime",)

    def __init__(self, lifetime: Lifetime) -> None:
        self._lifetime = lifetime

    async def add(self, connection_id: str, group: str) -> None:
        """Put a client into a group. Does nothing if it is in it, or not connected."""
        await self._lifetime.add_to_group(connection_id, group)

    async def remove(self, connection_id: str, group: str) -> None:
        """Take a client out of a group. Does nothing if it is not in it."""
        await self._lifetime.remove_from_group(connection_id, group)


class HubContext:
    """A hub from outside its methods: in HTTP routes, in background tasks."""

    __slots__ = ("clients", "groups", "metrics")

    def __init__(self, lifetime: Lifetime, metrics: Metrics) -> None:
        self.clients = HubClients(lifetime)
        """Whom to call."""
        self.groups = GroupManager(lifetime)
        """Who is in which group."""
        self.metrics = metrics
        """What the hub counts, of the clients of this process."""


def _several(names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise TypeError(f"give a list of names, not one string: [{names!r}]")
    return tuple(dict.fromkeys(names))
