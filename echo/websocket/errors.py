"""What can go wrong with a WebSocket, named by whose fault it is.

A peer that leaves raises `ConnectionClosed`: `ConnectionClosedOK` after a close frame,
`ConnectionClosedError` without one or after a broken rule. The application's own mistakes
raise `UsageError`. A handler need not catch the first two: `accept()` ends quietly on them.
"""

from __future__ import annotations


class WebSocketError(Exception):
    """Root of the errors of this layer."""


class UsageError(WebSocketError, RuntimeError):
    """The application used a socket in a way the protocol forbids; the message says how."""


class OriginNotAllowed(WebSocketError):
    """A page of this origin may not connect (RFC 6455 section 10.2)."""


class ConnectionClosed(WebSocketError):
    """The connection is over: nothing more can be received or sent.

    `code` and `reason` are the peer's, as in `WebSocket.close_code` and `.close_reason`.
    """

    def __init__(self, code: int, reason: str, why: str) -> None:
        super().__init__(code, reason, why)
        self.code = code
        self.reason = reason
        self.why = why

    def __str__(self) -> str:
        return self.why


class ConnectionClosedOK(ConnectionClosed):
    """The peer closed, or answered our close, with a close frame (RFC 6455 section 7.1.4)."""


class ConnectionClosedError(ConnectionClosed):
    """The peer vanished, broke the protocol, or was dropped because it was too slow."""
