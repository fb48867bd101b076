"""The frame codec of RFC 6455 sections 5 and 7: bytes in, data and control frames out.

Nothing here waits and nothing here knows a socket, a task or a clock. Data goes straight into
the inbox it was given; control frames and violations are returned. The one loop of
`Decoder.feed` takes whole, unfragmented frames in one pass; everything rarer goes through
`_frame`, one frame at a time. What is refused is refused at its first offending byte.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, TypeAlias

from echo.websocket.counters import Counters

try:
    from websockets.speedups import apply_mask
except ImportError:  # no C compiler when it was installed
    from websockets.utils import apply_mask

if TYPE_CHECKING:
    from echo.websocket.deflate import Inflater


class MessageType(IntEnum):
    """What a message carries; the values are the opcodes of section 5.2."""

    TEXT = 1
    BINARY = 2


Chunk: TypeAlias = tuple[bytes, MessageType, bool]
"""A part of a message: its bytes, the message's type, and whether it ends the message."""

TEXT, BINARY = MessageType.TEXT, MessageType.BINARY
CONTINUATION, CLOSE, PING, PONG = 0x0, 0x8, 0x9, 0xA
FIN, RSV1, RSV2_3, MASK = 0x80, 0x40, 0x30, 0x80

MAX_CONTROL_PAYLOAD = 125
_MOST_PIECES = 64  # of a chunk in the making: a piece costs more memory than a byte
NO_STATUS = 1005  # what a close frame without a code reads as
ABNORMAL = 1006  # what a connection without a close frame reads as

_WHOLE_TEXT, _WHOLE_BINARY = int(FIN | TEXT), int(FIN | BINARY)


@dataclass(frozen=True, slots=True)
class Ping:
    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    payload: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """A close frame. `code` is 1005 if it carried none (section 7.1.5)."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Violation:
    """The peer broke the protocol; `code` is the close code that says so (section 7.4.1)."""

    code: int
    reason: str


Event: TypeAlias = Ping | Pong | Close | Violation


class _Refused(Exception):
    """Carries a Violation from where it is seen to `feed`."""

    def __init__(self, code: int, reason: str) -> None:
        self.violation = Violation(code, reason)


class Decoder:
    """Reads frames from one peer.

    Args:
        inbox: where data goes, in order.
        max_message_size: bytes of one message, after inflating; beyond it 1009.
        chunk_size: most bytes of one chunk in the inbox. A frame is kept until it is whole or
            this much of it is there, so that small frames never come in parts.
        inflater: permessage-deflate, when it was negotiated.
        masked: whether the peer must mask (a client must, a server must not; section 5.1).
        counters: count the messages; None: nobody asks for them.
    """

    __slots__ = (
        "_between_messages",
        "_chunk_size",
        "_compressed",
        "_counters",
        "_fin",
        "_gathered",
        "_in_frame",
        "_inbox",
        "_inflater",
        "_longest",
        "_mask",
        "_masked",
        "_max_size",
        "_message_size",
        "_over",
        "_pieces",
        "_tail",
        "_type",
        "_utf8",
        "remaining",
        "stalled",
    )

    def __init__(
        self,
        inbox: MutableSequence[Chunk],
        *,
        max_message_size: int,
        chunk_size: int,
        inflater: Inflater | None = None,
        masked: bool = True,
        counters: Counters | None = None,
    ) -> None:
        self._inbox = inbox
        self._max_size = max_message_size
        self._chunk_size = chunk_size
        self._longest = min(max_message_size, chunk_size)  # message that is one chunk
        self._inflater = inflater
        self._masked = masked
        self._between_messages = masked  # nothing is in progress, and none of our bytes wait
        self._counters = counters or Counters()
        self._over = False  # a close frame or a violation ended the reading
        self._tail = b""  # bytes not looked at yet: an incomplete header, or a stall
        self.stalled = False
        """Inflating stopped because it had put enough into the inbox; `feed(b"")` goes on."""
        # The message in progress
        self._type: MessageType | None = None
        self._message_size = 0
        self._compressed = False
        self._utf8: codecs.IncrementalDecoder | None = None
        # The frame in progress, and what of its message has not gone to the inbox
        self._in_frame = False
        self._fin = False
        self.remaining = 0
        """Payload bytes of the frame in progress that are still to come."""
        self._mask = b""
        self._pieces: list[bytes] = []
        self._gathered = 0

    def feed(self, data: bytes) -> Sequence[Event]:
        """Take what the peer sent; return its control frames and, last, a violation."""
        position = 0
        if self._between_messages:
            position = self._whole_messages(data, 0)
            if position == len(data):
                return ()
        elif self._over:
            return ()
        events: list[Event] = []
        try:
            self._read(data, position, events)
        except _Refused as refused:
            self._over = True
            self._tail = b""
            self.stalled = False
            events.append(refused.violation)
        self._between_messages = (
            self._masked and self._type is None and not (self._tail or self.stalled or self._over)
        )
        return events

    def _whole_messages(self, data: bytes, position: int) -> int:
        """The fast path: messages in one frame, all of it in `data`; return where they end."""
        inbox = self._inbox
        longest = self._longest
        before = len(inbox)
        size = len(data)
        while size - position > 5:
            first = data[position]
            length = data[position + 1] - MASK
            start = position + 6
            if length == 126 and size - position > 7:
                length = (data[position + 2] << 8) | data[position + 3]
                start = position + 8
                if length < 126:
                    break  # not the shortest form
            elif length > 125:
                break
            stop = start + length
            if length < 0 or length > longest or stop > size:
                break
            if first == _WHOLE_BINARY:
                payload = apply_mask(data[start:stop], data[start - 4 : start])
                inbox.append((payload, BINARY, True))
            elif first == _WHOLE_TEXT:
                payload = apply_mask(data[start:stop], data[start - 4 : start])
                if not (payload.isascii() or _is_utf8(payload)):
                    break
                inbox.append((payload, TEXT, True))
            else:
                break
            position = stop
        self._counters.messages_received += len(inbox) - before
        return position

    def _read(self, data: bytes, position: int, events: list[Event]) -> None:
        if self._tail:
            data = self._tail + data
            self._tail = b""
        if self.stalled:
            self._inflate(b"")
            if self.stalled:
                self._tail = data
                return
        size = len(data)
        while position < size:
            if self._in_frame:
                position = self._payload(data, position)
            else:
                position = self._frame(data, position, events)
            if self.stalled:
                self._tail = data[position:]
                return
            if self._over:
                return
            if self._type is None and self._masked:
                position = self._whole_messages(data, position)

    def _frame(self, data: bytes, position: int, events: list[Event]) -> int:
        """Read one header, and what is there of its payload; return where it ends."""
        available = len(data) - position
        first = data[position]
        self._check_first(first)
        if available > 1:
            second = data[position + 1]
            length = second & 0x7F
            if bool(second & MASK) != self._masked:
                raise _Refused(1002, "frame is not masked" if self._masked else "frame is masked")
            if first & 0x08 and length > MAX_CONTROL_PAYLOAD:
                raise _Refused(1002, "control frame is too long")
            extended = 2 if length == 126 else 8 if length == 127 else 0
            start = position + 2 + extended + (4 if self._masked else 0)
            if available >= 2 + extended:
                if extended:
                    length = int.from_bytes(data[position + 2 : position + 2 + extended], "big")
                    if length < (126 if extended == 2 else 1 << 16):
                        raise _Refused(1002, "frame length is not in its shortest form")
                    if length >> 63:
                        raise _Refused(1002, "frame length is negative")
                if not first & 0x08:
                    self._check_size(first, length)
                # A control frame is small: it is waited for as if it were all header.
                if len(data) >= (start + length if first & 0x08 else start):
                    mask = data[start - 4 : start] if self._masked else b""
                    if first & 0x08:
                        payload = data[start : start + length]
                        payload = apply_mask(payload, mask) if mask else payload
                        self._control(first & 0x0F, payload, events)
                        return start + length
                    self._begin(first, length, mask)
                    return self._payload(data, start)
        self._tail = data[position:]
        return len(data)

    def _check_first(self, first: int) -> None:
        """Refuse what the first byte of a frame alone gives away (section 5.2)."""
        opcode = first & 0x0F
        if first & RSV2_3:
            raise _Refused(1002, "reserved bits are set")
        if first & RSV1 and (self._inflater is None or opcode not in (TEXT, BINARY)):
            raise _Refused(1002, "reserved bit is set on a frame that is not compressed")
        if opcode in (CLOSE, PING, PONG):
            if not first & FIN:
                raise _Refused(1002, "control frame is fragmented")
        elif opcode == CONTINUATION:
            if self._type is None:
                raise _Refused(1002, "continuation frame continues nothing")
        elif opcode not in (TEXT, BINARY):
            raise _Refused(1002, f"opcode {opcode} is not defined")
        elif self._type is not None:
            raise _Refused(1002, "a new message begins before the last one has ended")

    def _check_size(self, first: int, length: int) -> None:
        compressed = self._compressed if self._type is not None else bool(first & RSV1)
        if not compressed and self._message_size + length > self._max_size:
            self._refuse_size()

    def _refuse_size(self) -> None:
        raise _Refused(1009, f"message is larger than {self._max_size} bytes")

    def _control(self, opcode: int, payload: bytes, events: list[Event]) -> None:
        if opcode == PING:
            events.append(Ping(payload))
        elif opcode == PONG:
            events.append(Pong(payload))
        else:
            events.append(parse_close(payload))
            self._over = True

    def _begin(self, first: int, length: int, mask: bytes) -> None:
        """Begin the payload of a data frame."""
        if self._type is None:
            self._type = TEXT if first & 0x0F == TEXT else BINARY
            self._message_size = 0
            self._compressed = bool(first & RSV1)
            self._utf8 = None
        if not self._compressed:
            self._message_size += length
        self._in_frame = True
        self._fin = bool(first & FIN)
        self.remaining = length
        self._mask = mask

    def _payload(self, data: bytes, position: int) -> int:
        """Take what is there of the payload in progress; return where it ends."""
        view = memoryview(data)
        stop = min(position + self.remaining, len(data))
        while True:
            take = min(stop - position, self._chunk_size - self._gathered)
            piece: bytes
            if self._mask:
                piece = apply_mask(view[position : position + take], self._mask)
                turn = take % 4
                if turn:
                    self._mask = self._mask[turn:] + self._mask[:turn]
            else:
                piece = bytes(view[position : position + take])
            position += take
            self.remaining -= take
            if self._compressed:
                self._inflate(piece)
            else:
                self._gather(piece)
                if not self.remaining:
                    self._end_frame()
            if position == stop or self.stalled:
                return position

    def _gather(self, piece: bytes) -> None:
        """Add to the chunk in the making; put it into the inbox when it is full."""
        if self._type is TEXT and piece:
            self._check_text(piece)
        if piece:
            pieces = self._pieces
            pieces.append(piece)
            self._gathered += len(piece)
            if len(pieces) >= _MOST_PIECES:
                pieces[:] = (b"".join(pieces),)
        if self._gathered >= self._chunk_size and (self.remaining or self._compressed):
            self._put(end=False)

    def _inflate(self, piece: bytes) -> None:
        """Inflate as much as the inbox may take in one go; the rest waits in the inflater."""
        assert self._inflater is not None
        room = 2
        ends = self._fin and not self.remaining
        try:
            if not self.stalled:
                self._inflater.push(piece, ends=ends)
            while out := self._inflater.pull(self._chunk_size - self._gathered):
                self._message_size += len(out)
                if self._message_size > self._max_size:
                    self._refuse_size()
                self._gather(out)
                if not self._gathered:
                    room -= 1
                    if not room:
                        self.stalled = True
                        return
        except ValueError as error:
            raise _Refused(1007, "compressed data is corrupt") from error
        self.stalled = False
        if not self.remaining:
            if ends:
                self._inflater.end()
            self._end_frame()

    def _end_frame(self) -> None:
        self._in_frame = False
        if self._fin:
            if self._utf8 is not None:
                self._check_text(b"", final=True)
            self._put(end=True)
            self._type = None
            self._message_size = 0
        elif self._gathered:
            self._put(end=False)

    def _put(self, *, end: bool) -> None:
        assert self._type is not None
        pieces = self._pieces
        chunk = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._gathered = 0
        self._inbox.append((chunk, self._type, end))
        self._counters.messages_received += end

    def _check_text(self, piece: bytes, *, final: bool = False) -> None:
        """Refuse bytes that are not UTF-8, even in the middle of a character (section 8.1)."""
        if self._utf8 is None:
            if piece.isascii():
                return
            self._utf8 = codecs.getincrementaldecoder("utf-8")()
        try:
            self._utf8.decode(piece, final)
            # Python waits for the third byte of a surrogate, though the second gives it away.
            held = self._utf8.getstate()[0]
            if held[:1] == b"\xed" and held[1:] >= b"\xa0":
                raise _Refused(1007, "text is not UTF-8")
        except UnicodeDecodeError as error:
            raise _Refused(1007, "text is not UTF-8") from error


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_close_code(code: int) -> bool:
    """Whether an endpoint may send this code in a close frame (section 7.4 and its registry)."""
    return 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, 1005, 1006))


def parse_close(payload: bytes) -> Close:
    if not payload:
        return Close(NO_STATUS, "")
    if len(payload) == 1:
        raise _Refused(1002, "close frame has half a code")
    code = int.from_bytes(payload[:2], "big")
    if not is_close_code(code):
        raise _Refused(1002, f"close code {code} may not be sent")
    try:
        return Close(code, payload[2:].decode())
    except UnicodeDecodeError as error:
        raise _Refused(1007, "close reason is not UTF-8") from error


def close_payload(code: int, reason: str) -> bytes:
    """The payload of a close frame; 1005 gives an empty one.

    Raises:
        ValueError: the code may not be sent, or the reason is longer than 123 bytes.
    """
    if code == NO_STATUS and not reason:
        return b""
    if not is_close_code(code):
        raise ValueError(
            f"close code {code} may not be sent: use 1000 to 1003, 1007 to 1014 or 3000 to 4999"
        )
    payload = code.to_bytes(2, "big") + reason.encode()
    if len(payload) > MAX_CONTROL_PAYLOAD:
        raise ValueError(f"close reason is {len(payload) - 2} bytes long; 123 is the most")
    return payload


def frame_header(first: int, length: int) -> bytes:
    """The header of an unmasked frame; `first` holds FIN, the reserved bits and the opcode."""
    if length < 126:
        return bytes((first, length))
    if length < 65536:
        return struct.pack("!BBH", first, 126, length)
    return struct.pack("!BBQ", first, 127, length)
