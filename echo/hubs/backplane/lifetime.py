"""ScaleoutLifetime: the clients of one hub on all nodes that share a backplane.

What is sent goes to the clients of this process at once, whatever the engine does, and then to
the other nodes. A node knows its own messages by its name, which it puts among the excluded
connection ids. It has a channel for each of its clients, users and groups while they are here.
"""

from __future__ import annotations

import platform
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import trio

from echo.hubs.answers import read_answer
from echo.hubs.backplane import wire
from echo.hubs.backplane.backplane import Backplane, BackplaneError
from echo.hubs.backplane.remote import GONE, Question, ReceivedCall, Reply, reach
from echo.hubs.backplane.wire import ADD, REMOVE, Channels, GroupCommand, HubCall, Malformed
from echo.hubs.errors import ClientDisconnected
from echo.hubs.lifetime import All, Audience, Connections, EncodedCall, Groups, LocalLifetime, Users
from echo.hubs.messages import Completion, Invocation
from echo.hubs.options import HubOptions

if TYPE_CHECKING:
    from echo.hubs.connection import HubConnection

ACK_TIMEOUT = 30.0
"""Seconds that a change of a group waits for the node of the client."""

_MOST_ID = 0x7FFFFFFF  # .NET reads 32 bits


class ScaleoutLifetime(LocalLifetime):
    """The clients that are connected to this process, and through a backplane those of others.

    Calls of one sender on one channel keep their order; between nodes there is no common one.
    While the engine is away the clients of this process are served, and what other nodes should
    have got is lost and counted; what needs an answer from them raises `BackplaneError`.

    Args:
        backplane: what reaches the other nodes. Hubs may share it, each under its own name.
        name: the name of the hub, the same on all nodes.
        options: of the hub.
        ack_timeout: seconds that a change of a group waits for the node of the client.

    Raises ValueError if another hub has this name on this backplane.
    """

    def __init__(
        self,
        backplane: Backplane,
        name: str,
        options: HubOptions | None = None,
        *,
        ack_timeout: float = ACK_TIMEOUT,
    ) -> None:
        super().__init__()
        options = options or HubOptions()
        self.node = f"{platform.node()}_{uuid.uuid4().hex}"
        """The name of this node among those of the hub."""
        self._backplane = backplane
        self._channels = channels = Channels(name)
        self._protocols = [wire.PROTOCOLS[each] for each in options.protocols]
        self._result_timeout = options.client_result_timeout
        self._ack_timeout = ack_timeout
        self._receiver = self._receive  # the same for all channels
        self._joining: set[str] = set()
        self._results: dict[str, Reply] = {}
        self._acks: dict[int, Reply] = {}
        self._last_id = 0
        self._ack_channel = channels.ack + self.node
        self._return_channel = channels.returns + self.node
        own = (channels.all, channels.groups, self._ack_channel, self._return_channel)
        backplane.subscribe(own, self._receiver)
        backplane.catch_late(channels.connection, self._receiver)  # who asks is to know
        backplane.listen(self._note_state)

    # Who is here

    async def join(self, connection: HubConnection) -> None:
        channels = [self._channels.connection + connection.id]
        if connection.user_identifier is not None:
            channels.append(self._channels.user + connection.user_identifier)
        await super().join(connection)
        self._backplane.subscribe(channels, self._receiver)
        self._joining.add(connection.id)
        try:
            await self._backplane.subscribed(channels)
        finally:
            self._joining.discard(connection.id)

    async def leave(self, connection: HubConnection) -> None:
        if connection.id not in self.connections:
            return
        user = connection.user_identifier
        groups = tuple(self._groups_of.get(connection.id, ()))
        await super().leave(connection)
        prefix = self._channels.group
        gone = [prefix + group for group in groups if group not in self._groups]
        if user is not None and user not in self._users:
            gone.append(self._channels.user + user)
        self._backplane.unsubscribe((self._channels.connection + connection.id, *gone))

    async def add_to_group(self, connection_id: str, group: str) -> None:
        if connection_id not in self.connections:
            await self._command(ADD, connection_id, group)
            return
        while connection_id in self.connections:
            entered = self._enter(connection_id, group)
            try:
                await self._backplane.subscribed((self._channels.group + group,))
            except trio.Cancelled:
                if entered:
                    self._quit(connection_id, group)
                raise
            if group in self._groups_of.get(connection_id, ()):
                return  # else who put it in as well was cancelled

    async def remove_from_group(self, connection_id: str, group: str) -> None:
        if connection_id in self.connections:
            self._quit(connection_id, group)
        else:
            await self._command(REMOVE, connection_id, group)

    def _enter(self, connection_id: str, group: str) -> bool:
        entered = super()._enter(connection_id, group)
        if entered:
            self._backplane.subscribe((self._channels.group + group,), self._receiver)
        return entered

    def _quit(self, connection_id: str, group: str) -> None:
        super()._quit(connection_id, group)
        if group not in self._groups:
            self._backplane.unsubscribe((self._channels.group + group,))

    # Sending

    async def send(self, audience: Audience, target: str, arguments: Sequence[object]) -> None:
        """See `Lifetime.send`. Waits while the backplane is crowded, before anybody is called."""
        call = EncodedCall(Invocation(target=target, arguments=arguments))
        channels, excluded = self._beyond(audience)
        if not channels:
            await self._give_way(self.deliver(audience, call))
            return
        data = wire.encode_call(self._forms(call), excluded)
        backplane = self._backplane
        patient = await self._room()
        sent = self.deliver(audience, call)
        for channel in channels:
            if patient and backplane.crowded:
                patient = await self._room()
            backplane.publish(channel, data)
        await self._give_way(sent)

    async def _room(self) -> bool:
        """Wait for room in the backplane; returns whether there is some."""
        if self._backplane.crowded:
            await self._backplane.room()
        return not self._backplane.crowded

    def _beyond(self, audience: Audience) -> tuple[list[str], Sequence[str]]:
        """The channels of the audience on other nodes, and who is excluded there."""
        if isinstance(audience, Connections):
            beyond = tuple(id for id in audience.ids if id not in self.connections)
            return reach(self._channels, Connections(beyond))[0], ()
        channels, excluded = reach(self._channels, audience)
        return channels, (self.node, *excluded)

    def _forms(self, call: EncodedCall) -> Mapping[str, bytes]:
        """The call in all protocols of the hub. Raises `EncodingError`."""
        return {each.name: call.form(each) for each in self._protocols}

    # Asking other nodes

    async def invoke(
        self, connection_id: str, target: str, arguments: Sequence[object], returns: object
    ) -> object:
        """See `Lifetime.invoke`. Raises `BackplaneError` if the engine is away or goes away."""
        if connection_id in self.connections:
            return await super().invoke(connection_id, target, arguments, returns)
        id = uuid.uuid4().hex
        call = EncodedCall(Invocation(invocation_id=id, target=target, arguments=arguments))
        data = wire.encode_call(self._forms(call), (), id, self._return_channel)
        reply = self._results[id] = Reply()
        seconds = self._result_timeout
        try:
            with trio.move_on_after(float("inf") if seconds is None else seconds):
                await self._backplane.subscribed((self._return_channel,))
                channel = self._channels.connection + connection_id
                if await self._backplane.publish_counted(channel, data) == 0:
                    raise ClientDisconnected(f"Connection '{connection_id}' does not exist.")
                await reply.wait()
        finally:
            del self._results[id]
        if reply.value is None:
            raise TimeoutError(f"the client did not answer within {seconds:g} s")
        completion, protocol = reply.value
        if completion.error == GONE:
            raise ClientDisconnected(f"Connection '{connection_id}' disconnected.")
        return read_answer(completion, returns, protocol)

    async def _command(self, action: Literal[1, 2], connection_id: str, group: str) -> None:
        """Have the node of a client change a group.

        Does nothing if there is no other node. Raises `BackplaneError` if none has done it
        within `ack_timeout`, or the engine is away: nobody knows then whether it is done.
        """
        id = self._last_id = self._last_id % _MOST_ID + 1
        command = wire.encode_command(GroupCommand(id, self.node, action, group, connection_id))
        reply = self._acks[id] = Reply()
        groups = self._channels.groups
        try:
            with trio.move_on_after(self._ack_timeout):
                await self._backplane.subscribed((groups, self._ack_channel))
                nodes = await self._backplane.publish_counted(groups, command)
                if nodes is None or nodes > 1:  # not only this one
                    await reply.wait()
                return
        finally:
            del self._acks[id]
        raise BackplaneError(
            f"No node has changed a group of connection '{connection_id}' within "
            f"{self._ack_timeout:g} s: it is not connected, or its node is out of reach."
        )

    def _note_state(self, backplane: Backplane) -> None:
        if not backplane.connected:
            for reply in (*self._results.values(), *self._acks.values()):
                reply.lose(f"The backplane is away: {backplane.away}.")

    # What other nodes say

    def _receive(self, channel: str, data: bytes) -> None:
        """Raises `Malformed`."""
        channels = self._channels
        if channel == channels.groups:
            self._obey(wire.decode_command(data))
        elif channel == self._ack_channel:
            ack = self._acks.get(wire.decode_ack(data))
            if ack is not None:
                ack.come()
        elif channel == self._return_channel:
            value = wire.decode_result(data)
            result = self._results.get(value[0].invocation_id)
            if result is not None:
                result.come(value)
        else:
            call = wire.decode_call(data)
            if self.node not in call.excluded:
                self._deliver_call(channel, call)

    def _deliver_call(self, channel: str, call: HubCall) -> None:
        channels = self._channels
        audience: Audience
        if channel == channels.all:
            audience = All(frozenset(call.excluded))
        elif channel.startswith(channels.group):
            name = channel.removeprefix(channels.group)
            audience = Groups((name,), frozenset(call.excluded))
        elif channel.startswith(channels.user):
            audience = Users((channel.removeprefix(channels.user),))
        else:
            id = channel.removeprefix(channels.connection)
            if call.invocation_id is not None and call.return_channel is not None:
                self._ask(id, call, call.invocation_id, call.return_channel)
                return
            audience = Connections((id,))
        self.deliver(audience, ReceivedCall(call.forms))

    def _ask(self, connection_id: str, call: HubCall, id: str, returns: str) -> None:
        """Another node asks a client of this one."""
        if not returns.startswith(self._channels.returns):
            raise Malformed(f"a client result for {returns[:80]!r}, which is no such channel")
        question = Question(self._backplane, returns, id)
        connection = self.connections.get(connection_id)
        if connection is None or connection.ended:
            question.answer(Completion(invocation_id=id, error=GONE), self._protocols[0])
            return
        form = ReceivedCall(call.forms).form(connection.protocol)
        if id in connection.answers:
            raise Malformed("a client result with an id that is in use")
        question.ask(connection, form)

    def _obey(self, command: GroupCommand) -> None:
        """Another node wants a client of this one in a group, or out of it."""
        connection = self.connections.get(command.connection_id)
        if connection is None:
            return
        if command.action == ADD:
            self._enter(command.connection_id, command.group)
            if not connection.ended and connection.id not in self._joining:
                connection.nursery.start_soon(self._acknowledge_when_subscribed, command)
                return
        else:
            self._quit(command.connection_id, command.group)
        self._acknowledge(command)

    async def _acknowledge_when_subscribed(self, command: GroupCommand) -> None:
        try:
            await self._backplane.subscribed((self._channels.group + command.group,))
        finally:
            self._acknowledge(command)

    def _acknowledge(self, command: GroupCommand) -> None:
        self._backplane.publish(self._channels.ack + command.node, wire.encode_ack(command.id))
