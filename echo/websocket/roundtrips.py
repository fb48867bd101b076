"""Round trips: pings of ours that wait for their pongs (RFC 6455 section 5.5.2 and 5.5.3).

A payload is the time at which its ping was sent, so a pong tells how long it took; one that
nobody waits for, unsolicited or late, is let pass.
"""

from __future__ import annotations

import struct
import time

import trio


class RoundTrip:
    """A ping that waits for its pong."""

    def __init__(self, sent: int) -> None:
        self.ended = trio.Event()
        self.seconds: float | None = None  # None still, if the connection ended first
        self._sent = sent  # nanoseconds

    @property
    def payload(self) -> bytes:
        return struct.pack("!Q", self._sent)

    def end(self) -> None:
        self.seconds = (time.perf_counter_ns() - self._sent) / 1e9
        self.ended.set()


class RoundTrips:
    """Those of one connection."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, RoundTrip] = {}  # by payload, oldest first

    def begin(self) -> RoundTrip:
        trip = RoundTrip(time.perf_counter_ns())
        self._waiting[trip.payload] = trip
        return trip

    def forget(self, trip: RoundTrip) -> None:
        self._waiting.pop(trip.payload, None)

    def answered(self, payload: bytes) -> None:
        """A pong came: it answers all pings up to its own (section 5.5.3)."""
        if payload in self._waiting:
            for sent, trip in list(self._waiting.items()):
                del self._waiting[sent]
                trip.end()
                if sent == payload:
                    break

    def abandon(self) -> None:
        """The connection has ended: no pong will come."""
        for trip in self._waiting.values():
            trip.ended.set()
