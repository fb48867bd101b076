"""A hub with clients in this process: `MemoryLink` stands in for a transport.

The client is as patient or as rude as a test wants it: it says what it likes, when it likes, and
what it does not read waits for it, as it would in a socket.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar, TypeVar

import trio
from msgspec import UNSET
from trio.lowlevel import ParkingLot

from echo.hubs import Hub, HubOptions
from echo.hubs.handshake import encode_handshake
from echo.hubs.lifetime import Lifetime
from echo.hubs.messages import (
    CancelInvocation,
    Close,
    Completion,
    HandshakeRequest,
    Invocation,
    Message,
    Ping,
    StreamInvocation,
    StreamItem,
)
from echo.hubs.protocol import HubProtocol, TransferFormat
from echo.hubs.server import HubServer
from echo.hubs.transports.link import Link, LinkResumed, User
from echo.hubs.transports.options import Transport
from echo.hubs.transports.request import Request
from echo.websocket.clock import Clock
from tests.hubs.support import JSON, decoded

Expected = TypeVar("Expected")


@dataclass(frozen=True)
class Person:
    """A user."""

    id: str | None
    role: str = "guest"


class MemoryLink(Link):
    """The server's end; a test holds the client's."""

    transport: ClassVar[Transport] = "WebSockets"

    def __init__(self, *, room: int = 65_536, **about: Any) -> None:
        super().__init__(**about)
        self.to_server: deque[bytes] = deque()
        self.to_client: deque[bytes] = deque()
        self.transfer_format: TransferFormat = "Text"
        self.connected = True  # whether there is a transport
        self.closed_with: str | None = "not closed"
        self._room = room
        self._resumed = False
        self._receiving = False
        self._changed = ParkingLot()

    # The server's end

    def set_format(self, transfer_format: TransferFormat) -> None:
        assert transfer_format in self.transfer_formats
        self.transfer_format = transfer_format

    async def receive(self) -> bytes:
        assert not self._receiving, "one task receives"
        self._receiving = True
        try:
            while not self.to_server:
                if self.ended:
                    return b""
                if self._resumed:
                    self._resumed = False
                    self.connected = True
                    raise LinkResumed
                await self._changed.park()
            return self.to_server.popleft()
        finally:
            self._receiving = False

    def send(self, data: bytes) -> None:
        if self.connected and not self.ended:
            self.to_client.append(data)
            self.changed()

    @property
    def unsent(self) -> int:
        return sum(map(len, self.to_client)) if self.connected else 0

    async def drain(self) -> None:
        await trio.lowlevel.checkpoint()
        while self.unsent >= self._room / 2 and not self.ended:
            await self._changed.park()

    async def close(self, error: str | None = None) -> None:
        await trio.lowlevel.checkpoint()
        if not self.ended:
            self.closed_with = error
            self.end("closed by the server")

    def abort(self, reason: str) -> None:
        self.to_client.clear()
        self.end(reason)

    # What happens to it

    def end(self, why: str) -> None:
        if self._note_end(why):
            self.changed()

    def lose_transport(self) -> None:
        """The network is gone, and all that was under way."""
        self.connected = False
        self.to_client.clear()
        self.to_server.clear()

    def find_transport(self) -> None:
        """The client has reconnected."""
        self._resumed = True
        self.changed()

    def changed(self) -> None:
        self._changed.unpark_all()

    async def wait_changed(self) -> None:
        await self._changed.park()


class LongPollingLink(MemoryLink):
    transport = "LongPolling"
    keeps_alive = True


class EventsLink(MemoryLink):
    transport = "ServerSentEvents"
    transfer_formats = ("Text",)


class Client:
    """A client of a hub, at one end of a `MemoryLink`."""

    def __init__(self, link: MemoryLink, protocol: HubProtocol) -> None:
        self.link = link
        self.protocol = protocol
        self.served = trio.Event()
        """Set when the server is done with it."""
        self._ids = map(str, count(1))
        self._parser = protocol.parser(1 << 26)
        self._messages: deque[Message] = deque()

    @property
    def id(self) -> str:
        return self.link.id

    # Speaking

    def send_raw(self, data: bytes) -> None:
        if self.link.connected and not self.link.ended:
            self.link.to_server.append(data)
            self.link.changed()

    def send(self, *messages: Message) -> None:
        self.send_raw(b"".join(map(self.protocol.encode, messages)))

    def shake_hands(self, version: int = 1, name: str | None = None) -> None:
        request = HandshakeRequest(protocol=name or self.protocol.name, version=version)
        self.send_raw(encode_handshake(request))

    def call(
        self,
        target: str,
        *arguments: object,
        streams: tuple[str, ...] = (),
    ) -> str:
        """Call a method; returns the invocation id."""
        id = next(self._ids)
        self.send(
            Invocation(invocation_id=id, target=target, arguments=arguments, stream_ids=streams)
        )
        return id

    def call_without_answer(
        self, target: str, *arguments: object, streams: tuple[str, ...] = ()
    ) -> None:
        self.send(Invocation(target=target, arguments=arguments, stream_ids=streams))

    def call_stream(
        self,
        target: str,
        *arguments: object,
        streams: tuple[str, ...] = (),
        id: str | None = None,
    ) -> str:
        id = id or next(self._ids)
        self.send(
            StreamInvocation(
                invocation_id=id, target=target, arguments=arguments, stream_ids=streams
            )
        )
        return id

    def item(self, stream: str, value: object) -> None:
        self.send(StreamItem(invocation_id=stream, item=value))

    def complete(self, id: str, error: str | None = None, result: object = UNSET) -> None:
        """End a stream, or answer."""
        self.send(Completion(invocation_id=id, error=error, result=result))

    def cancel(self, id: str) -> None:
        self.send(CancelInvocation(invocation_id=id))

    def ping(self) -> None:
        self.send(Ping())

    def leave(self) -> None:
        """Be gone without a word."""
        self.link.end("the client left")

    # Listening

    async def read_raw(self) -> bytes:
        """The next bytes; b"" at the end."""
        while not self.link.to_client:
            if self.link.ended:
                return b""
            await self.link.wait_changed()
        data = self.link.to_client.popleft()
        self.link.changed()
        return data

    async def next(self) -> Message | None:
        """The next message, pings included; None at the end."""
        while not self._messages:
            data = await self.read_raw()
            if not data:
                return None
            self._messages += [decoded(each, self.protocol) for each in self._parser.feed(data)]
        return self._messages.popleft()

    async def expect(self, kind: type[Expected]) -> Expected:
        """The next message but pings, which has to be of this kind."""
        message = await self.next()
        while isinstance(message, Ping) and kind is not Ping:
            message = await self.next()
        assert isinstance(message, kind), message
        return message

    async def invoke(self, target: str, *arguments: object) -> Completion:
        """Call a method and read its completion, which has to come next."""
        id = self.call(target, *arguments)
        completion = await self.expect(Completion)
        assert completion.invocation_id == id
        return completion

    async def result(self, target: str, *arguments: object) -> Any:
        """Call a method and read its result."""
        completion = await self.invoke(target, *arguments)
        assert completion.error is None, completion.error
        return completion.result

    async def error(self, target: str, *arguments: object) -> str:
        """Call a method and read the error it ends in."""
        completion = await self.invoke(target, *arguments)
        assert completion.error is not None, completion
        return completion.error

    async def items(self, id: str) -> tuple[list[Any], str | None]:
        """Read a stream to its end: its items and its error."""
        items: list[Any] = []
        while True:
            message = await self.expect(object)
            assert isinstance(message, StreamItem | Completion), message
            assert message.invocation_id == id
            if isinstance(message, Completion):
                return items, message.error
            items.append(message.item)

    async def called(self, target: str) -> list[Any]:
        """Read a call by the server; returns its arguments."""
        call = await self.expect(Invocation)
        assert call.target == target
        assert isinstance(call.arguments, list)
        return call.arguments

    async def closed(self) -> Close:
        """Read the server's last message, a Close, and wait until it is done with us."""
        last = None
        while (message := await self.next()) is not None:
            last = message
        await self.served.wait()
        assert isinstance(last, Close), last
        return last

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be read."""
        return not self.link.to_client and not self._messages


class Service:
    """A served hub."""

    def __init__(self, server: HubServer, clock: Clock, nursery: trio.Nursery) -> None:
        self.server = server
        self.clock = clock
        self._nursery = nursery

    def open(
        self,
        protocol: HubProtocol = JSON,
        *,
        user: User | None = None,
        stateful: bool = False,
        kind: type[MemoryLink] = MemoryLink,
        request: Request | None = None,
        nursery: trio.Nursery | None = None,
    ) -> Client:
        """A client that has yet to shake hands; it is served in the nursery."""
        link = kind(
            room=self.server.options.transport_buffer_size,
            id=secrets.token_urlsafe(16),
            token=secrets.token_urlsafe(16),
            request=request or Request(),
            user=user,
            stateful=stateful,
        )
        client = Client(link, protocol)

        async def serve() -> None:
            await self.server.serve(link)
            client.served.set()

        (nursery or self._nursery).start_soon(serve)
        return client

    async def connect(self, protocol: HubProtocol = JSON, **about: Any) -> Client:
        """A client whose handshake is done."""
        client = self.open(protocol, **about)
        client.shake_hands(2 if about.get("stateful") else 1)
        assert await client.read_raw() == b"{}\x1e"
        return client


@asynccontextmanager
async def serving(
    hub: type[Hub],
    options: HubOptions | None = None,
    *,
    lifetime: Lifetime | None = None,
    seconds: float = 20,
) -> AsyncIterator[Service]:
    """Serve a hub; what has not ended after so many seconds, hangs."""
    clock = Clock()
    server = HubServer(hub, options, clock=lambda: clock, lifetime=lifetime)
    with trio.fail_after(seconds):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(clock.run)
            yield Service(server, clock, nursery)
            nursery.cancel_scope.cancel()
