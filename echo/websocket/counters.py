"""What the sockets of a worker count: plain integers, which whoever exports them reads.

Counting must not be felt: what is sent is not counted when it is put, and what else there is to
count is counted once a read or once a write. What counts by name has names from a short list of
ours, never a client's words.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

LATENCY_BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper bounds in seconds, for what should take no time and must not take long."""

LOST = "lost"
DROPS = (
    *("aborted", "internal_error", "invalid_data", "keep_alive", LOST, "message_too_big"),
    *("protocol_error", "shutdown", "slow_client", "unanswered_close"),
)
REFUSALS = ("application", "invalid", "origin", "shutting_down")
_VIOLATIONS = {1002: "protocol_error", 1007: "invalid_data", 1009: "message_too_big"}


class Histogram:
    """How often something took how long."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = LATENCY_BUCKETS) -> None:
        self.bounds = bounds
        """The upper bounds of the buckets, rising; beyond the last there is one more bucket."""
        self.counts = [0] * (len(bounds) + 1)
        """How often, for each bucket alone."""
        self.total = 0.0
        """The sum of all that was observed."""

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Counters:
    """The counters of one worker since its start."""

    __slots__ = (
        *("bytes_received", "bytes_sent", "closes", "drops"),
        *("messages_received", "opened", "pieces", "refused", "surplus"),
    )

    def __init__(self) -> None:
        self.opened = 0
        """Sockets that were ever open."""
        self.messages_received = 0
        """Whole messages, whether a handler has taken them yet or not."""
        self.bytes_received = 0
        """Bytes from clients that are gone; for the others see `WebSocket.received`. Frames, not
        payload."""
        self.bytes_sent = 0
        """Bytes to clients that are gone; for the others see `Carrier.written`. The answers to
        handshakes that this layer writes are among them."""
        self.pieces = 0
        """Pieces that have left an outbox. With those that are still there (`Carrier.pieces`) and
        without the `surplus` they are the messages sent: a message is one piece,"""
        self.surplus = 0
        """but for headers that are pieces of their own, and frames that end no message."""
        self.closes: Counter[tuple[str, str]] = Counter()
        """Connections that have begun to end, by who closed ("client", "server", or "nobody" if
        there was no close frame) and by the code."""
        self.drops = Counter(dict.fromkeys(DROPS, 0))
        """Connections that ended without a closing handshake, by reason."""
        self.refused = Counter(dict.fromkeys(REFUSALS, 0))
        """Handshakes that were not accepted, by reason; "application" if it was the app's."""

    def note_close(self, by: str, code: int) -> None:
        """A connection begins to end; see `closes`."""
        self.closes[by, _code_label(code)] += 1

    def note_drop(self, reason: str, *, violation: int | None, close_sent: bool) -> None:
        """A connection is dropped. What its client did before weighs more than how it ended.

        Args:
            reason: a word of ours.
            violation: the close code for what the client did wrong, if it did.
            close_sent: whether our close frame is under way.
        """
        if violation is not None:
            reason = _VIOLATIONS.get(violation, "protocol_error")
        elif close_sent and reason == LOST:
            reason = "unanswered_close"
        self.drops[reason] += 1


def _code_label(code: int) -> str:
    """A code of the protocol's own; of the other two thousand only whose they are."""
    return str(code) if code < 3000 else "3xxx" if code < 4000 else "4xxx"
