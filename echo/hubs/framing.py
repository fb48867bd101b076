"""Where a message ends: records that end in 0x1E, and frames that begin with their length.

Both hold an incomplete message and nothing else, never more than `max_message_size` bytes of it,
refuse a longer one before they hold it, and look at each byte once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from echo.hubs.protocol import ProtocolError

SEPARATOR = b"\x1e"

_MOST_LENGTH_BYTES = 5
_MOST_LENGTH = 0x7FFFFFFF
_SHORT_PREFIXES = tuple(bytes((length,)) for length in range(0x80))


def too_large(max_message_size: int) -> ProtocolError:
    """The error for a message beyond the limit."""
    return ProtocolError(f"The maximum message size of {max_message_size}B was exceeded.")


class Records:
    """Text messages: each ends in the record separator."""

    __slots__ = ("_held", "_most")

    def __init__(self, max_message_size: int) -> None:
        self._most = max_message_size
        self._held = bytearray()

    def split(self, data: bytes) -> Iterable[bytes]:
        """The records that `data` completes, without their separators."""
        if not self._held and 0 <= data.find(SEPARATOR) == len(data) - 1 <= self._most:
            return (data[:-1],)  # as most messages come
        return self._split(data)

    def _split(self, data: bytes) -> Iterator[bytes]:
        held, most = self._held, self._most
        *records, rest = data.split(SEPARATOR)
        for record in records:
            if len(held) + len(record) > most:
                raise too_large(most)
            if held:
                record = bytes(held) + record
                held.clear()
            yield record
        if len(held) + len(rest) > most:
            raise too_large(most)
        held += rest


class Frames:
    """Binary messages: each follows its length, 7 bits a byte, the least significant first."""

    __slots__ = ("_held", "_length", "_most", "_prefix")

    def __init__(self, max_message_size: int) -> None:
        self._most = max_message_size
        self._prefix = bytearray()  # of a length that is not complete
        self._length: int | None = None  # of the message that is held
        self._held = bytearray()

    def split(self, data: bytes) -> Iterator[bytes]:
        """The messages that `data` completes, without their lengths."""
        position, size = 0, len(data)
        while position < size:
            length = self._length
            if length is None:
                length = data[position]
                position += 1
                if length > 0x7F or self._prefix:
                    self._prefix.append(length)
                    if length > 0x7F and len(self._prefix) < _MOST_LENGTH_BYTES:
                        continue
                    length = self._end_prefix()
                if length > self._most:
                    raise too_large(self._most)
                self._length = length
            stop = position + length - len(self._held)
            if stop > size:
                self._held += data[position:]
                return
            message = data[position:stop]
            if self._held:
                message = bytes(self._held) + message
                self._held.clear()
            self._length = None
            position = stop
            yield message

    def _end_prefix(self) -> int:
        length = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(self._prefix))
        if self._prefix[-1] > 0x7F or length > _MOST_LENGTH:
            raise ProtocolError("Messages over 2GB in size are not supported.")
        self._prefix.clear()
        return length


def length_prefix(length: int) -> bytes:
    """The bytes that go before a message of this length."""
    if length <= 0x7F:
        return _SHORT_PREFIXES[length]
    prefix = bytearray()
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix)
