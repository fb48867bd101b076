"""HubServer: one hub of an app: its options, its clients, and the door for new ones."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from echo.hubs.clients import HubContext
from echo.hubs.connection import HubConnection
from echo.hubs.dispatch import Dispatcher
from echo.hubs.errors import error_text
from echo.hubs.framing import SEPARATOR
from echo.hubs.handshake import (
    HandshakeParser,
    HandshakeRefused,
    choose_protocol,
    encode_handshake,
)
from echo.hubs.hub import Hub, allowed, policies_of
from echo.hubs.json import JsonProtocol
from echo.hubs.lifetime import Lifetime, LocalLifetime
from echo.hubs.messagepack import MessagePackProtocol
from echo.hubs.messages import HandshakeResponse
from echo.hubs.metrics import Metrics
from echo.hubs.options import HubOptions
from echo.hubs.protocol import HubProtocol, ProtocolError
from echo.hubs.replay import Replay
from echo.hubs.transports.link import Link, LinkResumed, User

if TYPE_CHECKING:
    from echo.websocket.clock import Clock

logger = logging.getLogger("echo.hubs")

_PROTOCOLS: tuple[HubProtocol, ...] = (JsonProtocol(), MessagePackProtocol())

# The lowest version of the protocols whose clients know Ack and Sequence.
_STATEFUL_VERSION = 2


class HubServer:
    """Serves the clients of one hub.

    Args:
        hub: its class.
        options: its options; None for the defaults.
        clock: what tells the time of its connections, while the app is served.
        lifetime: who is connected; None for the clients of this process.

    Raises TypeError, which says why, if the class cannot serve as a hub.
    """

    last_words = True
    """Whether `shut_down()` sees to the end of the connections."""

    def __init__(
        self,
        hub: type[Hub],
        options: HubOptions | None = None,
        *,
        clock: Callable[[], Clock],
        lifetime: Lifetime | None = None,
    ) -> None:
        self.options = options or HubOptions()
        self.clock = clock
        self.lifetime = lifetime or LocalLifetime()
        self.metrics = Metrics()
        self.dispatcher = Dispatcher(hub, self.options, self.lifetime, self.metrics)
        self.context = HubContext(self.lifetime, self.metrics)
        """The hub for the rest of the app."""
        self.connections: set[HubConnection] = set()
        """The clients of this process. Changes synchronously."""
        self.draining = False
        """Whether the server shuts down: clients are sent away."""
        self._policies = policies_of(hub)
        self._protocols = [each for each in _PROTOCOLS if each.name in self.options.protocols]

    async def admits(self, user: User | None) -> bool:
        """Whether `@authorize` on the hub lets this user connect."""
        return await allowed(self._policies, user)

    def user_id(self, link: Link) -> str | None:
        """By which `clients.user()` finds this client."""
        if self.options.user_id is not None:
            return self.options.user_id(link.user, link.request)
        return link.user.id if link.user is not None else None

    async def serve(self, link: Link) -> None:
        """Serve one client, from its handshake until it has left. The link is closed then."""
        connection = await self._shake_hands(link)
        if connection is None:
            self.metrics.handshakes_refused += 1
            await link.close()
            return
        metrics = self.metrics
        began = trio.current_time()
        metrics.connections += 1
        metrics.connections_total += 1
        self.connections.add(connection)
        if self.draining:
            connection.stop()
        try:
            await connection.run()
        finally:
            self.connections.discard(connection)
            metrics.connections -= 1
            metrics.connection_seconds += trio.current_time() - began

    async def shut_down(self, spread: float) -> None:
        """The server shuts down: send all clients away, evenly over so many seconds.

        They are invited to come back, which will be to another server.
        """
        self.draining = True
        connections = list(self.connections)
        random.shuffle(connections)
        for number, connection in enumerate(connections):
            self.clock().call_in(spread * number / len(connections), connection.stop)

    # The handshake

    async def _shake_hands(self, link: Link) -> HubConnection | None:
        """Agree on a protocol; None if there is no agreement, of which the client is told."""
        error = "Handshake was canceled."
        with trio.move_on_after(self.options.handshake_timeout):
            try:
                return await self._agree(link)
            except HandshakeRefused as refusal:
                error = str(refusal)
            except Exception as failure:
                if not isinstance(failure, ProtocolError):
                    logger.exception("The handshake of %s failed", link.id)
                sentence = "An unexpected error occurred during connection handshake."
                detailed = self.options.detailed_errors
                error = error_text(sentence, failure, detailed=detailed)
        if not link.ended:
            logger.debug("%s: handshake refused: %s", link.id, error)
            link.send(encode_handshake(HandshakeResponse(error=error)))
        return None

    async def _agree(self, link: Link) -> HubConnection | None:
        """Read the client's request and accept it; None if the client is gone."""
        most = self.options.max_message_size
        parser = HandshakeParser(most)
        size = 0
        agreed = None
        while agreed is None:
            try:
                data = await link.receive()
            except LinkResumed:
                continue
            if not data:
                return None
            size += len(data.partition(SEPARATOR)[0])
            if size > most:
                raise HandshakeRefused("Handshake was canceled.")
            agreed = parser.feed(data)
        request, first = agreed
        protocol = choose_protocol(request, self._protocols, link.transfer_formats)
        if not await self.admits(link.user):
            raise HandshakeRefused("Unauthorized")
        replay = None
        if link.stateful and request.version >= _STATEFUL_VERSION:
            replay = Replay()
        link.stateful = replay is not None
        connection = HubConnection(self, link, protocol, replay, first)
        link.set_format(protocol.transfer_format)
        link.send(encode_handshake(HandshakeResponse()))
        return connection
