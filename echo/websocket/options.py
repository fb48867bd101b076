"""The options of the socket layer: what is bounded, by how much, and what is off.

One frozen dataclass holds them for an app; `accept()` may override any of them for one socket.
A wrong value is refused when the options are made, not when a peer first meets it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketOptions:
    """Options of every WebSocket of an app. Times are in seconds, sizes in bytes.

    Raises:
        ValueError: a value is out of its range; the message names the option and the range.
    """

    # Keep-alive
    keep_alive_interval: float | None = 30.0
    """Seconds between two keep-alive frames. None: no keep-alive."""
    keep_alive_timeout: float | None = 30.0
    """Seconds a peer has to show a sign of life after a keep-alive ping (RFC 6455 section 5.5.2)
    before it counts as lost. None: no deadline; the keep-alive frames are then unsolicited
    pongs (section 5.5.3), which keep proxies awake and ask the peer for nothing."""

    # Receiving
    receive_buffer_size: int = 262_144
    """Most bytes that one `receive_chunk()` returns. A message that is larger than this is
    handed over in parts, before all of it has arrived."""
    inbox_size: int = 262_144
    """Bytes received and not yet asked for at which reading from the peer pauses. It resumes
    when the handler has taken them."""
    max_message_size: int = 16 * 1024 * 1024
    """Most bytes of one received message, after inflating. Beyond: close code 1009."""

    # Sending
    send_buffer_size: int = 65_536
    """Bytes waiting for the peer at which `send()` begins to wait. It goes on when half of them
    are gone, so that never more than this and one message wait."""
    send_timeout: float = 30.0
    """Seconds a peer has to read `send_buffer_size` bytes of what waits for it (or all, if less
    waits). A slower peer is dropped."""

    # Closing
    close_timeout: float = 5.0
    """Seconds for each half of a goodbye: for the peer to answer our close frame before the
    connection is dropped, and for a handler to end after its peer is gone before it is
    cancelled."""
    shutdown_code: int = 1001
    """Close code when the server shuts down: 1001 (going away) or 1012 (service restart: clients
    may reconnect)."""

    # Who may connect
    allowed_origins: tuple[str, ...] = ()
    """Origins whose pages may connect (RFC 6454, as `https://example.org`), compared without
    regard to case. Empty, or with "*": all. Requests without an Origin are not from a browser
    and pass."""

    # permessage-deflate (RFC 7692)
    compression: bool = False
    """Accept the extension when the client offers it. Off by default: compressing secrets
    together with text an attacker chooses gives the secrets away (CRIME, BREACH); one `send()`
    can opt out with `compress=False`."""
    server_context_takeover: bool = True
    """Keep the compression window between messages: better ratio, up to 256 KiB a socket."""
    server_max_window_bits: int = 15
    """Base-2 logarithm of the largest window we compress with, 9 to 15."""

    def __post_init__(self) -> None:
        for name in ("keep_alive_interval", "keep_alive_timeout"):
            if getattr(self, name) is not None:
                self._check_seconds(name, "a positive number of seconds, or None for off")
        for name in ("send_timeout", "close_timeout"):
            self._check_seconds(name, "a positive number of seconds")
        for name in ("receive_buffer_size", "inbox_size", "max_message_size", "send_buffer_size"):
            self._check_integer(name, 1, None, "bytes")
        self._check_integer("server_max_window_bits", 9, 15, "bits")
        if self.shutdown_code not in (1001, 1012):
            raise ValueError(f"shutdown_code must be 1001 or 1012, not {self.shutdown_code!r}")
        if isinstance(self.allowed_origins, str):
            raise ValueError("allowed_origins must be a tuple of origins, not one string")
        for origin in self.allowed_origins:
            check_origin(origin)

    def _check_seconds(self, name: str, allowed: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{name} must be {allowed}, not {value!r}")

    def _check_integer(self, name: str, least: int, most: int | None, unit: str) -> None:
        value = getattr(self, name)
        if type(value) is not int or value < least or (most is not None and value > most):
            limits = f"of at least {least}" if most is None else f"from {least} to {most}"
            raise ValueError(f"{name} must be a whole number {limits} ({unit}), not {value!r}")


class Overrides(TypedDict, total=False):
    """What `accept()` takes to override the app's options for one socket."""

    keep_alive_interval: float | None
    keep_alive_timeout: float | None
    receive_buffer_size: int
    inbox_size: int
    max_message_size: int
    send_buffer_size: int
    send_timeout: float
    close_timeout: float
    shutdown_code: int
    allowed_origins: tuple[str, ...]
    compression: bool
    server_context_takeover: bool
    server_max_window_bits: int


def check_origin(origin: str) -> None:
    """Refuse what can never equal an Origin header (RFC 6454 section 6.1).

    Raises:
        ValueError: it is neither "*", nor "null", nor scheme://host[:port].
    """
    if origin in ("*", "null"):
        return
    parts = urlsplit(origin)
    if (
        not parts.scheme
        or not parts.netloc
        or f"{parts.scheme}://{parts.netloc}".lower() != origin.lower()
    ):
        raise ValueError(
            f"allowed_origins: {origin!r} is no origin; write scheme://host or scheme://host:port, "
            "without a path or a closing slash"
        )
