"""Who has negotiated, and who is connected, by token.

Both are bounded: a negotiation that no client comes for is forgotten, and beyond a cap there are
no more; a connection is here as long as it lives. All changes are synchronous.
"""

from __future__ import annotations

import math
from collections import Counter

import trio

from echo.hubs.transports.link import Link
from echo.hubs.transports.negotiate import Negotiated
from echo.hubs.transports.options import ConnectionOptions, Transport
from echo.websocket.clock import Clock


class Entry:
    """A client: first it has negotiated, then its transport is known, then there is a link."""

    __slots__ = ("client", "link", "too_late", "transport")

    def __init__(self, client: Negotiated, too_late: float = math.inf) -> None:
        self.client = client
        self.too_late = too_late
        self.transport: Transport | None = None
        self.link: Link | None = None


class Table:
    def __init__(self, options: ConnectionOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._pending: dict[str, Entry] = {}  # oldest first
        self._connected: dict[str, Entry] = {}
        self.transports: Counter[Transport] = Counter()
        """How many are connected, by transport."""
        self.refused = 0
        """Clients that were turned away because too many had negotiated."""
        self.expired = 0
        """Negotiations for which no client came."""
        self._expires = False  # whether the clock will call `_expire`

    @property
    def pending(self) -> int:
        """How many have negotiated and not connected yet."""
        return len(self._pending)

    @property
    def full(self) -> bool:
        """Whether nobody else may negotiate now."""
        return len(self._pending) >= self._options.max_negotiations

    def expect(self, client: Negotiated) -> None:
        """This client may connect within `disconnect_timeout`."""
        seconds = self._options.disconnect_timeout
        self._pending[client.token] = Entry(client, trio.current_time() + seconds)
        if not self._expires:
            self._expires = True
            self._clock.call_in(seconds, self._expire)

    def find(self, token: str) -> Entry | None:
        """Whoever has this token."""
        return self._connected.get(token) or self._pending.get(token)

    def claim(self, entry: Entry, transport: Transport) -> None:
        """The client connects. If it has negotiated, its token is known until `forget()`."""
        entry.transport = transport
        self.transports[transport] += 1
        if self._pending.pop(entry.client.token, None) is not None:
            self._connected[entry.client.token] = entry

    def forget(self, entry: Entry) -> None:
        """The client, which has connected, is gone."""
        assert entry.transport is not None
        self.transports[entry.transport] -= 1
        self._connected.pop(entry.client.token, None)

    def _expire(self) -> None:
        now = trio.current_time()
        for token, entry in list(self._pending.items()):
            if entry.too_late > now:
                self._clock.call_in(entry.too_late - now, self._expire)
                return
            del self._pending[token]
            self.expired += 1
        self._expires = False
