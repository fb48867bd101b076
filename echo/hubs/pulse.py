"""What a connection does by the clock: pings, the client's timeout, acknowledgements.

Each is an entry in the clock that all connections share, none is a task. Pings go out at a fixed
interval whatever else is sent, so that no client ever waits longer for a sign of life.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from echo.hubs.errors import ClientTimeout
from echo.hubs.messages import PING, Ack

if TYPE_CHECKING:
    from echo.hubs.connection import HubConnection
    from echo.hubs.options import HubOptions
    from echo.websocket.clock import Clock, Timer

ACK_INTERVAL = 1.0
"""Seconds from a message of the client to the Ack for it."""


class Pulse:
    """The timers of one connection."""

    __slots__ = ("_ack", "_clock", "_connection", "_heard", "_options", "_ping", "_timeout")

    def __init__(self, connection: HubConnection, clock: Clock, options: HubOptions) -> None:
        self._connection = connection
        self._clock = clock
        self._options = options
        self._heard = 0.0  # when the reader last began to wait for the client
        self._ack: Timer | None = None
        self._timeout: Timer | None = None
        self._ping: Timer | None = None
        if not connection.link.keeps_alive:
            self._ping = clock.call_in(options.keep_alive_interval, self._send_ping)

    def stop(self) -> None:
        for timer in (self._ack, self._ping, self._timeout):
            if timer is not None:
                timer.cancel()

    def _send_ping(self) -> None:
        self._connection.post_unnumbered(PING)
        self._ping = self._clock.call_in(self._options.keep_alive_interval, self._send_ping)

    # The client's timeout

    def expect(self) -> None:
        """The client has sent a ping: from now on it is expected to."""
        if self._timeout is None and self._ping is not None:
            self._timeout = self._clock.call_in(self._options.client_timeout, self._judge)

    def heard(self) -> None:
        """All that came is dispatched: the time counts from now."""
        if self._timeout is not None:
            self._heard = trio.current_time()

    def _judge(self) -> None:
        most = self._options.client_timeout
        left = most
        if self._connection.reader.receiving:  # else it is we who keep the client waiting
            left -= trio.current_time() - self._heard
        if left > 0:
            self._timeout = self._clock.call_in(left, self._judge)
        else:
            self._connection.stop(
                ClientTimeout("Client hasn't sent a message/ping within the client timeout.")
            )

    # Acknowledgements

    def acknowledge(self) -> None:
        """A numbered message has come: acknowledge it soon."""
        if self._ack is None:
            self._ack = self._clock.call_in(ACK_INTERVAL, self._send_ack)

    def _send_ack(self) -> None:
        self._ack = None
        replay = self._connection.replay
        number = replay.ack() if replay is not None else None
        if number is not None:
            self._connection.post_unnumbered(Ack(sequence_id=number))
