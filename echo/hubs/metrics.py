"""What a hub counts. Plain attributes, read by whoever exports them."""

from __future__ import annotations

from collections import Counter

from echo.websocket.counters import Histogram


class Metrics:
    """The counters of one hub since its start."""

    __slots__ = (
        *("client_results", "connection_seconds", "connections", "connections_total", "ends"),
        *("failed_invocations", "handshakes_refused", "invocation_seconds", "invocations"),
        *("resumed", "streams"),
    )

    def __init__(self) -> None:
        self.connections = 0
        """Clients that are connected now."""
        self.connections_total = 0
        """Clients that have ever connected."""
        self.connection_seconds = 0.0
        """How long they were connected, in all; those that are still there not counted."""
        self.ends: Counter[str] = Counter()
        """Connections that ended, by the type of their error; "closed" if there was none."""
        self.handshakes_refused = 0
        """Connections that ended before they began."""
        self.invocations = 0
        """Calls of clients, those with streams included."""
        self.failed_invocations = 0
        """Of these, those that ended in an error."""
        self.invocation_seconds = Histogram()
        """How long calls with one result took, from the first step of their method."""
        self.client_results: Counter[str] = Counter()
        """Questions to clients, by how they ended: "result", "error", "timeout" or
        "disconnected"."""
        self.streams = 0
        """Calls with streams that run now."""
        self.resumed = 0
        """Times that a client came back to its connection (stateful reconnect)."""
