"""Stateful reconnect: what was sent and not yet acknowledged, and what of the client's is new.

Both sides number the messages of calls and streams from 1, without writing the numbers; pings,
Close, Ack and Sequence have none. After a reconnect each side says in a Sequence which number it
goes on with, and sends again what the other has not acknowledged. Nothing here waits.
"""

from __future__ import annotations

from collections import deque

from echo.hubs.messages import (
    CancelInvocation,
    Completion,
    Invocation,
    Message,
    StreamInvocation,
    StreamItem,
)
from echo.hubs.protocol import ProtocolError

_NUMBERED = frozenset((Invocation, StreamItem, Completion, StreamInvocation, CancelInvocation))


class Replay:
    """The numbers of one connection, both ways, and what to send again."""

    __slots__ = ("_acked", "_again", "_kept", "_last", "_next", "_sent", "size")

    def __init__(self) -> None:
        # Ours to the client
        self._kept: deque[bytes] = deque()
        self._sent = 0  # the number of the last message
        self.size = 0
        """Bytes of what the client has not acknowledged."""
        # The client's to us
        self._next = 1  # the number of its next message
        self._last = 0  # the highest number that came
        self._acked = 0
        self._again = False  # whether something came twice: our ack may be lost

    def sent(self, data: bytes) -> None:
        """A numbered message goes out: keep it."""
        self._sent += 1
        self._kept.append(data)
        self.size += len(data)

    def acknowledged(self, number: int) -> None:
        """The client has all messages up to this number."""
        kept = self._kept
        first = self._sent - len(kept) + 1
        for _ in range(min(number - first + 1, len(kept))):
            self.size -= len(kept.popleft())

    def resumed(self) -> tuple[int, list[bytes]]:
        """There is a new transport: the number that we go on with, and what to send again."""
        return self._sent - len(self._kept) + 1, list(self._kept)

    def is_new(self, message: Message) -> bool:
        """Whether a message from the client is to be processed: all but those that came before."""
        if type(message) not in _NUMBERED:
            return True
        number = self._next
        self._next += 1
        if number <= self._last:
            self._again = self._again or number == self._last
            return False
        self._last = number
        return True

    def sequence(self, number: int) -> None:
        """The client goes on with this number. Raises `ProtocolError` if that leaves a gap.

        Not `_next` counts for that: the link may break again while the client repeats messages
        that we have acknowledged meanwhile.
        """
        if number > self._last + 1:
            raise ProtocolError("Sequence ID greater than amount of messages we've received.")
        self._next = number

    def ack(self) -> int | None:
        """The number to acknowledge to the client now, None if it knows it already."""
        if self._last == self._acked and not self._again:
            return None
        self._again = False
        self._acked = self._last
        return self._last
