"""The options of connections, with a hub or without: who may connect, how, and what is bounded.

One frozen dataclass holds them; a hub's options are these and more. A wrong value is refused
when the options are made, not when a client first meets it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from echo.websocket.options import check_origin

Transport: TypeAlias = Literal["WebSockets", "ServerSentEvents", "LongPolling"]

TRANSPORTS: tuple[Transport, ...] = get_args(Transport)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionOptions:
    """Options of connections. Times are in seconds, sizes in bytes.

    Raises:
        ValueError: a value is out of its range; the message names the option and the range.
    """

    # Who may connect, and how
    transports: tuple[Transport, ...] = TRANSPORTS
    """What a client may choose from, in the order in which it is offered."""
    minimum_protocol_version: int = 0
    """The least version of negotiate that is answered, 0 or 1. In version 0, which only old
    clients ask for, a client's public id is its secret token too."""
    allowed_origins: tuple[str, ...] = ()
    """Origins whose pages may connect, as `https://example.org`, compared without regard to case;
    "*" stands for all, but without their credentials. Pages of the server's own host always may.
    Empty: over HTTP no others, over WebSockets whom `WebSocketOptions.allowed_origins` lets."""
    allow_stateful_reconnect: bool = False
    """Whether a client that asks for it may lose its WebSocket and go on with another."""
    sticky: bool = True
    """Whether all requests of a connection reach this process. False where several processes share
    a port: then any of them connects a client that has negotiated with another, over WebSockets,
    and nothing else is offered."""
    node: str = ""
    """Name of this process, of 1 to 32 letters, digits and hyphens, for a proxy that sees to
    that: connection tokens, the `id` of all requests but negotiate, are this name, a dot, and
    what is random. Empty: no name."""
    max_negotiations: int = 10_000
    """Most clients that have negotiated and not connected yet; beyond: 429."""

    # What waits
    application_buffer_size: int = 65_536
    """Bytes from one client that wait for the application; then the client has to wait."""
    transport_buffer_size: int = 65_536
    """Bytes that wait for one client at which `drain()` begins to wait: in a hub its streams, and
    its methods that send to their caller."""
    outbox_size: int = 1024 * 1024
    """Bytes that may wait for a client. It is dropped when there are more."""
    max_post_size: int = 30_000_000
    """Most bytes of one POST, by which clients send where there is no WebSocket; beyond: 413."""

    # How long
    post_timeout: float = 10.0
    """Seconds that a POST may pause before all of its body has come; then 408."""
    transport_send_timeout: float = 10.0
    """Seconds a client may take nothing of what is sent to it; then it is dropped."""
    long_poll_timeout: float = 90.0
    """Seconds after which a poll is answered although there is nothing to tell."""
    disconnect_timeout: float = 15.0
    """Seconds that a connection may be without a transport: between negotiate and connect, between
    two polls, and until a stateful reconnect."""
    close_timeout: float = 5.0
    """Seconds a client has to take what waits for it, and to answer, when its connection ends."""

    @property
    def offered(self) -> tuple[Transport, ...]:
        """The transports that a client may choose from here."""
        return self.transports if self.sticky else ("WebSockets",)

    def __post_init__(self) -> None:
        if isinstance(self.transports, str) or not set(self.transports) <= set(TRANSPORTS):
            allowed = ", ".join(map(repr, TRANSPORTS))
            raise ValueError(f"transports must be a tuple of {allowed}, not {self.transports!r}")
        if isinstance(self.allowed_origins, str):
            raise ValueError("allowed_origins must be a tuple of origins, not one string")
        for origin in self.allowed_origins:
            check_origin(origin)
        if not self.sticky and "WebSockets" not in self.transports:
            raise ValueError("sticky must be True without WebSockets among the transports")
        if not re.fullmatch("[A-Za-z0-9-]{0,32}", self.node):
            raise ValueError(
                f"node must be 1 to 32 letters, digits and hyphens, or empty, not {self.node!r}"
            )
        if self.minimum_protocol_version not in (0, 1):
            given = self.minimum_protocol_version
            raise ValueError(f"minimum_protocol_version must be 0 or 1, not {given!r}")
        for name, unit in (
            ("max_negotiations", "clients"),
            ("application_buffer_size", "bytes"),
            ("transport_buffer_size", "bytes"),
            ("outbox_size", "bytes"),
            ("max_post_size", "bytes"),
        ):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(
                    f"{name} must be a whole number of at least 1 ({unit}), not {value!r}"
                )
        for name in (
            *("post_timeout", "transport_send_timeout", "long_poll_timeout"),
            *("disconnect_timeout", "close_timeout"),
        ):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"{name} must be a positive number of seconds, not {value!r}")
