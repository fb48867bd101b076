"""Calls between nodes: what came from another, what it asks of a client, what it is to answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import trio
from msgspec import Raw

from echo.hubs.backplane import wire
from echo.hubs.backplane.backplane import Backplane, BackplaneError
from echo.hubs.backplane.wire import Channels, Malformed
from echo.hubs.lifetime import All, Audience, Connections, EncodedCall, Groups, Users
from echo.hubs.messages import Completion, Invocation
from echo.hubs.protocol import EncodingError, HubProtocol

if TYPE_CHECKING:
    from echo.hubs.connection import HubConnection

GONE = "Connection disconnected."
"""The error of a client result whose client has left, in .NET's words."""

_MOST_QUESTIONS = 1000  # of other nodes that may wait for one client


def reach(channels: Channels, audience: Audience) -> tuple[list[str], frozenset[str]]:
    """The channels of an audience, and the connection ids that are excluded there."""
    match audience:
        case All(excluded):
            return [channels.all], excluded
        case Groups(names, excluded):
            return [channels.group + name for name in names], excluded
        case Users(ids):
            return [channels.user + id for id in ids], frozenset()
        case Connections(ids):
            return [channels.connection + id for id in ids], frozenset()


class ReceivedCall(EncodedCall):
    """A call from another node: clients get the bytes that came, once they are checked.

    Only a form that did not come is made of one that did: a node may not know all protocols.
    """

    __slots__ = ("_received",)

    def __init__(self, received: Mapping[str, bytes]) -> None:
        self.forms = {}
        self._received = received

    def form(self, protocol: HubProtocol) -> bytes:
        """The call in this protocol. Raises `Malformed`."""
        data = self._received.get(protocol.name)
        if data is not None:
            wire.check_call(protocol, data)
        else:
            data = self._translated(protocol)
        self.forms[protocol.name] = data
        return data

    def _translated(self, protocol: HubProtocol) -> bytes:
        for name, data in self._received.items():
            origin = wire.PROTOCOLS.get(name)
            if origin is not None:
                call = wire.read_form(origin, data, Invocation)
                assert isinstance(call.arguments, Raw)
                try:
                    arguments: Any = origin.decoder(Any)(call.arguments)
                    return protocol.encode(msgspec.structs.replace(call, arguments=arguments))
                except (EncodingError, msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise Malformed(str(error)) from error
        raise Malformed("a call in no protocol that is known")


class Reply:
    """What another node is to say, until it comes or the engine is gone."""

    __slots__ = ("_come", "_lost", "value")

    def __init__(self) -> None:
        self._come = trio.Event()
        self._lost: str | None = None
        self.value: tuple[Completion, HubProtocol] | None = None

    def come(self, value: tuple[Completion, HubProtocol] | None = None) -> None:
        self.value = value
        self._come.set()

    def lose(self, reason: str) -> None:
        if not self._come.is_set():
            self._lost = reason
            self._come.set()

    async def wait(self) -> None:
        await self._come.wait()
        if self._lost is not None:
            raise BackplaneError(self._lost)


class Question:
    """What another node asks of a client. Answers once."""

    __slots__ = ("_backplane", "_connection", "_id", "_returns")

    def __init__(self, backplane: Backplane, returns: str, id: str) -> None:
        self._backplane = backplane
        self._returns = returns
        self._id = id
        self._connection: HubConnection | None = None

    def ask(self, connection: HubConnection, form: bytes) -> None:
        """Send it to the client. One that waits for too long makes room for it."""
        answers = connection.answers
        if len(answers) >= _MOST_QUESTIONS:
            oldest = next((each for each in answers.values() if isinstance(each, Question)), None)
            if oldest is not None:
                oldest(Completion(invocation_id=oldest._id, error="The client did not answer."))
        self._connection = connection
        answers[self._id] = self
        connection.post(form)

    def __call__(self, completion: Completion | None) -> None:
        """The client answers; None: it is gone."""
        connection = self._connection
        assert connection is not None
        connection.answers.pop(self._id, None)
        gone = Completion(invocation_id=self._id, error=GONE)
        self.answer(completion or gone, connection.protocol)

    def answer(self, completion: Completion, protocol: HubProtocol) -> None:
        """Tell the node that asks."""
        data = wire.encode_result(protocol.name, protocol.encode(completion))
        self._backplane.publish(self._returns, data)
