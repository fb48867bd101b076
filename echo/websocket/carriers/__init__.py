"""What a socket can ride on. A carrier owns the write side of one connection.

The socket puts frames into its carrier's outbox, and whoever reads for the carrier hands the
peer's bytes to `WebSocket.feed`. How the bytes travel is the carrier's business alone:
`reactor` (Linux, plain TCP and unix sockets), `stream` (any Trio stream that somebody else
reads), `asgi` (the messages of any ASGI server).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from echo.websocket.carriers.carrier import Carrier

if TYPE_CHECKING:
    from echo.websocket.socket import WebSocket

__all__ = ["Carrier", "Seam", "Server", "seams"]


@dataclass(frozen=True, slots=True)
class Server:
    """What a server tells about itself through a seam."""

    terminated: Callable[[], Awaitable[object]]
    """Returns when the server has begun to shut down."""
    grace: float
    """Seconds from then on until the server cancels what still runs."""


class Seam(Protocol):
    """A way to the bytes beneath a server's ASGI messages; `hosting/` knows the servers."""

    def server(self, send: Any) -> Server | None:
        """The server behind an ASGI `send`, or None if this seam does not know it."""

    def reaches(self, send: Any) -> bool:
        """Whether the bytes beneath this `send` can be had."""

    async def accept(self, send: Any, message: dict[str, Any], socket: WebSocket) -> None:
        """Give the socket its carrier, then answer the handshake with `websocket.accept`."""


seams: list[Seam] = []
"""The seams to try, in order. Whoever knows a server appends here."""
