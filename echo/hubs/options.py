"""The options of a hub: those of its connections, and what else is bounded or off.

A wrong value is refused when the options are made, not when a client first meets it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from echo.hubs.transports.options import ConnectionOptions

if TYPE_CHECKING:
    from echo.hubs.filters import HubFilter
    from echo.hubs.transports.link import User
    from echo.hubs.transports.request import Request

PROTOCOLS = ("json", "messagepack")
"""The protocols that there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubOptions(ConnectionOptions):
    """Options of a hub, and those of its connections. Times are in seconds, sizes in bytes.

    Raises:
        ValueError: a value is out of its range; the message names the option and the range.
    """

    # What clients are told
    detailed_errors: bool = False
    """Tell clients the type and the text of every error, not of `HubError` only."""

    # What a client says
    protocols: tuple[str, ...] = PROTOCOLS
    """The protocols that clients may ask for."""
    handshake_timeout: float = 15.0
    """Seconds a client has to say which protocol it wants."""
    max_message_size: int = 32 * 1024
    """Most bytes of one message from a client. Beyond, its connection ends with an error."""

    # Keep-alive
    keep_alive_interval: float = 15.0
    """Seconds between two pings to a client."""
    client_timeout: float = 30.0
    """Seconds without a message after which a client that has ever sent a ping counts as lost."""

    # Calls
    parallel_invocations: int = 1
    """Calls of one client that run at a time; the next waits. Those with a stream, either way,
    do not count."""
    max_streams: int = 100
    """Calls with a stream of one client that run at a time; the next is refused."""
    stream_capacity: int = 10
    """Items of a client's stream that wait for their method: then reading from it pauses."""
    max_client_results: int = 100
    """Answers of clients that the calls of one client wait for at a time; the next is refused."""
    client_result_timeout: float | None = 300.0
    """Seconds a client has to answer what the server asks of it. None: as long as it is there."""

    # Stateful reconnect
    replay_size: int = 100_000
    """Bytes kept for a client that may lose its network, at which calls wait for it to
    acknowledge what it has."""
    replay_timeout: float = 5.0
    """Seconds that they wait; then more is kept, up to `outbox_size`."""

    # What the app adds
    filters: tuple[HubFilter, ...] = ()
    """What runs around calls, connects and disconnects; the first is the outermost."""
    user_id: Callable[[User | None, Request], str | None] | None = None
    """Names the user of a connection, by which `clients.user()` finds it. None: `user.id`."""

    _SECONDS: ClassVar[tuple[str, ...]] = (
        *("handshake_timeout", "keep_alive_interval", "client_timeout"),
        "replay_timeout",
    )
    _WHOLE_NUMBERS: ClassVar[dict[str, str]] = {
        "max_message_size": "bytes",
        "parallel_invocations": "calls",
        "max_streams": "calls",
        "stream_capacity": "items",
        "max_client_results": "answers",
        "replay_size": "bytes",
    }

    def __post_init__(self) -> None:
        ConnectionOptions.__post_init__(self)  # slots and super() do not go together
        for name in self._SECONDS:
            self._check_seconds(name, "a positive number of seconds")
        if self.client_result_timeout is not None:
            allowed = "a positive number of seconds, or None for no limit"
            self._check_seconds("client_result_timeout", allowed)
        for name, unit in self._WHOLE_NUMBERS.items():
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(
                    f"{name} must be a whole number of at least 1 ({unit}), not {value!r}"
                )
        names = self.protocols
        if isinstance(names, str) or not names or not set(names) <= set(PROTOCOLS):
            allowed = " and ".join(repr(name) for name in PROTOCOLS)
            raise ValueError(
                f"protocols must be a tuple of one or both of {allowed}, not {names!r}"
            )

    def _check_seconds(self, name: str, allowed: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{name} must be {allowed}, not {value!r}")
