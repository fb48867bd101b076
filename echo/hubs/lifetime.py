"""Who is connected, in which groups, as which users; and calls of many clients at once.

`Lifetime` is what a hub needs of it, `LocalLifetime` knows the clients of this process. Its
registries change synchronously; a fan-out goes over a snapshot, encodes a call once for each
protocol and waits for nobody.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import trio
from msgspec import Struct

from echo.hubs.errors import ClientDisconnected
from echo.hubs.messages import Invocation
from echo.hubs.protocol import HubProtocol

if TYPE_CHECKING:
    from echo.hubs.connection import HubConnection

# What may be sent before others get their turn, in clients that are sent to; a call counts like so
# many of them. Broadcasts that come together should go out together: nothing is written before.
_BURST = 10_000
_CALL = 128
# And in bytes that one client may be sent: what cannot be written yet must not make it a slow one.
_BURST_SIZE = 32 * 1024


class All(Struct, frozen=True):
    """All clients but those with an excluded connection id."""

    excluded: frozenset[str] = frozenset()


class Connections(Struct, frozen=True):
    """The clients with these connection ids."""

    ids: tuple[str, ...]


class Groups(Struct, frozen=True):
    """The clients in each of these groups but those with an excluded connection id."""

    names: tuple[str, ...]
    excluded: frozenset[str] = frozenset()


class Users(Struct, frozen=True):
    """The clients of these users."""

    ids: tuple[str, ...]


Audience: TypeAlias = All | Connections | Groups | Users


class EncodedCall:
    """A call to many clients, encoded once for each protocol that one of them speaks.

    Args:
        message: the call.
        forms: what it is in protocols that are known already, by their names.
    """

    __slots__ = ("forms", "message")

    def __init__(self, message: Invocation, forms: Mapping[str, bytes] | None = None) -> None:
        self.message = message
        self.forms = dict(forms or {})

    def form(self, protocol: HubProtocol) -> bytes:
        """The call in this protocol. Raises `EncodingError`."""
        data = self.forms.get(protocol.name)
        if data is None:
            data = self.forms[protocol.name] = protocol.encode(self.message)
        return data


class Lifetime(ABC):
    """The clients of one hub, wherever they are connected."""

    @abstractmethod
    async def join(self, connection: HubConnection) -> None:
        """A client of this process has connected. If this fails, `leave` is called too."""

    @abstractmethod
    async def leave(self, connection: HubConnection) -> None:
        """It is gone, and with it out of its groups."""

    @abstractmethod
    async def send(self, audience: Audience, target: str, arguments: Sequence[object]) -> None:
        """Call `target` on all of the audience, without waiting for any of them.

        Raises `EncodingError` if a protocol cannot carry an argument; some may be called then.
        """

    @abstractmethod
    async def invoke(
        self, connection_id: str, target: str, arguments: Sequence[object], returns: object
    ) -> object:
        """Call `target` on one client and wait for its answer, converted to `returns`.

        Raises: see `SingleClientProxy.invoke`.
        """

    @abstractmethod
    async def add_to_group(self, connection_id: str, group: str) -> None:
        """Put a client into a group. Does nothing if it is in it, or not connected."""

    @abstractmethod
    async def remove_from_group(self, connection_id: str, group: str) -> None:
        """Take a client out of a group. Does nothing if it is not in it."""


class LocalLifetime(Lifetime):
    """The clients that are connected to this process."""

    def __init__(self) -> None:
        self.connections: dict[str, HubConnection] = {}
        """Every client by connection id."""
        self._groups: dict[str, dict[str, HubConnection]] = {}
        self._groups_of: dict[str, set[str]] = {}
        self._users: dict[str, dict[str, HubConnection]] = {}
        self._burst = 0  # clients that were sent to since others had their turn
        self._burst_size = 0  # and at least the bytes that each of them was sent

    async def join(self, connection: HubConnection) -> None:
        self.connections[connection.id] = connection
        user = connection.user_identifier
        if user is not None:
            self._users.setdefault(user, {})[connection.id] = connection

    async def leave(self, connection: HubConnection) -> None:
        if self.connections.pop(connection.id, None) is None:
            return
        for group in self._groups_of.pop(connection.id, ()):
            _remove(self._groups, group, connection.id)
        if connection.user_identifier is not None:
            _remove(self._users, connection.user_identifier, connection.id)

    async def send(self, audience: Audience, target: str, arguments: Sequence[object]) -> None:
        message = Invocation(target=target, arguments=arguments)
        await self._give_way(self.deliver(audience, EncodedCall(message)))

    async def _give_way(self, sent: int) -> None:
        """Let others have their turn now and then; so many clients were sent to."""
        self._burst += _CALL + sent
        if self._burst > _BURST or self._burst_size > _BURST_SIZE:
            self._burst = self._burst_size = 0
            # The call is out: no time for a cancellation, which would say that it is not.
            await trio.lowlevel.cancel_shielded_checkpoint()

    def deliver(self, audience: Audience, call: EncodedCall) -> int:
        """Send the call to those of the audience who are connected here; returns how many.

        Raises `EncodingError`.
        """
        receivers = self._receivers(audience)
        forms = call.forms
        for connection in receivers:
            data = forms.get(connection.protocol.name)
            if data is None:
                data = call.form(connection.protocol)
            connection.post(data)
        self._burst_size += max(map(len, forms.values()), default=0)
        return len(receivers)

    def _receivers(self, audience: Audience) -> list[HubConnection]:
        """A snapshot: what sending does to a connection must not disturb the loop."""
        match audience:
            case All(excluded):
                found = list(self.connections.values())
                return [each for each in found if each.id not in excluded] if excluded else found
            case Connections(ids):
                known = self.connections
                return [known[id] for id in ids if id in known]
            case Groups(names, excluded):
                return [
                    connection
                    for name in names
                    for id, connection in self._groups.get(name, {}).items()
                    if id not in excluded
                ]
            case Users(ids):
                return [connection for id in ids for connection in self._users.get(id, {}).values()]

    async def invoke(
        self, connection_id: str, target: str, arguments: Sequence[object], returns: object
    ) -> object:
        connection = self.connections.get(connection_id)
        if connection is None:
            raise ClientDisconnected(f"Connection '{connection_id}' does not exist.")
        return await connection.ask(target, arguments, returns)

    async def add_to_group(self, connection_id: str, group: str) -> None:
        self._enter(connection_id, group)

    async def remove_from_group(self, connection_id: str, group: str) -> None:
        self._quit(connection_id, group)

    def _enter(self, connection_id: str, group: str) -> bool:
        """Put a client into a group; returns whether it is in it only now."""
        connection = self.connections.get(connection_id)
        if connection is None or group in self._groups_of.get(connection_id, ()):
            return False
        self._groups.setdefault(group, {})[connection_id] = connection
        self._groups_of.setdefault(connection_id, set()).add(group)
        return True

    def _quit(self, connection_id: str, group: str) -> None:
        """Take a client out of a group."""
        groups = self._groups_of.get(connection_id, set())
        if group in groups:
            groups.remove(group)
            if not groups:
                del self._groups_of[connection_id]
            _remove(self._groups, group, connection_id)


def _remove(table: dict[str, dict[str, HubConnection]], name: str, connection_id: str) -> None:
    """Take a connection out of a group or from a user, and forget what is empty."""
    members = table.get(name)
    if members is not None:
        members.pop(connection_id, None)
        if not members:
            del table[name]
