"""The codec by itself: against the `websockets` library, cut anywhere, and at its bounds."""

from __future__ import annotations

import codecs
import tracemalloc
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from echo.websocket.codec import (
    BINARY,
    TEXT,
    Chunk,
    Close,
    Decoder,
    Event,
    Ping,
    Pong,
    Violation,
    close_payload,
    frame_header,
    is_close_code,
    parse_close,
)
from tests.harness import frame

MAX_SIZE = 300
CHUNK_SIZE = 100


@dataclass
class Reading:
    """What a parser made of a stream."""

    messages: list[tuple[int, bytes]]
    controls: list[Ping | Pong | Close]
    verdict: int | None
    reason: str = field(default="", compare=False)


def make(
    max_message_size: int = MAX_SIZE, chunk_size: int = CHUNK_SIZE
) -> tuple[Decoder, deque[Chunk]]:
    inbox: deque[Chunk] = deque()
    return Decoder(inbox, max_message_size=max_message_size, chunk_size=chunk_size), inbox


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    parts = []
    for size in sizes:
        parts.append(data[:size])
        data = data[size:]
    return [part for part in [*parts, data] if part]


def join(chunks: deque[Chunk]) -> list[tuple[int, bytes]]:
    messages: list[tuple[int, bytes]] = []
    parts: list[bytes] = []
    for data, kind, end in chunks:
        parts.append(data)
        if end:
            messages.append((kind, b"".join(parts)))
            parts = []
    return messages


def read_ours(parts: list[bytes]) -> tuple[Reading, deque[Chunk]]:
    decoder, inbox = make()
    events: list[Event] = []
    for part in parts:
        events += decoder.feed(part)
    violations = [event for event in events if isinstance(event, Violation)]
    assert violations in ([], events[-1:])
    controls = [event for event in events if not isinstance(event, Violation)]
    reading = Reading(join(inbox), controls, None)
    for violation in violations:
        reading.verdict, reading.reason = violation.code, violation.reason
    return reading, inbox


def read_theirs(data: bytes) -> Reading:
    """The same with `websockets`, whose sans-IO parser leaves UTF-8 to its callers."""
    protocol = Protocol(Side.SERVER, max_size=MAX_SIZE)
    protocol.receive_data(data)
    reading = Reading([], [], None)
    kind, parts = 0, b""
    text: codecs.IncrementalDecoder | None = None
    for each in protocol.events_received():
        assert isinstance(each, Frame)
        payload = bytes(each.data)
        if each.opcode is Opcode.PING:
            reading.controls.append(Ping(payload))
        elif each.opcode is Opcode.PONG:
            reading.controls.append(Pong(payload))
        elif each.opcode is Opcode.CLOSE:
            reading.controls.append(parse_close(payload))
        else:
            if each.opcode is not Opcode.CONT:
                kind, parts = int(each.opcode), b""
                text = codecs.getincrementaldecoder("utf-8")() if kind == TEXT else None
            parts += payload
            try:
                if text is not None:
                    text.decode(payload, each.fin)
            except UnicodeDecodeError:
                reading.verdict = 1007
                return reading
            if each.fin:
                reading.messages.append((kind, parts))
    failure = protocol.parser_exc
    if isinstance(failure, PayloadTooBig):
        reading.verdict = 1009
    elif isinstance(failure, UnicodeDecodeError):
        reading.verdict = 1007
    elif isinstance(failure, ProtocolError):
        reading.verdict, reading.reason = 1002, str(failure)
    return reading


payloads = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=20).map(str.encode),
    st.integers(90, 320).map(lambda size: b"z" * size),
)
masks = st.sampled_from([b"\0\0\0\0", b"\x01\x02\x03\x04", b"\xff\x00\xff\x00"])
data_frames = st.builds(
    frame, st.sampled_from([0x81, 0x82, 0x01, 0x02, 0x00, 0x80]), payloads, masks
)
control_frames = st.builds(frame, st.sampled_from([0x89, 0x8A]), st.binary(max_size=125), masks)
close_frames = st.builds(
    lambda code, reason, mask: frame(0x88, code.to_bytes(2, "big") + reason, mask),
    st.sampled_from([1000, 1001, 1004, 1005, 1014, 1015, 2999, 3000, 4999, 5000]),
    st.sampled_from([b"", "grüße".encode(), b"\xff"]),
    masks,
)


@st.composite
def fragmented(draw: st.DrawFn) -> bytes:
    """A message in order: parts, with control frames between them."""
    first = draw(st.sampled_from([0x01, 0x02]))
    data = draw(payloads)
    parts = cut(data, draw(st.lists(st.integers(0, 30), max_size=4)))
    frames = [
        frame((first if index == 0 else 0) | (0x80 if index == len(parts) - 1 else 0), part)
        for index, part in enumerate(parts)
    ]
    return b"".join(each + draw(st.one_of(st.just(b""), control_frames)) for each in frames)


streams = st.lists(
    st.one_of(fragmented(), data_frames, control_frames, close_frames), max_size=8
).map(b"".join)
cuts = st.lists(st.integers(1, 12), max_size=200)


def check_against_theirs(data: bytes, sizes: list[int]) -> None:
    ours, inbox = read_ours(cut(data, sizes))
    theirs = read_theirs(data)
    if ours.verdict is not None and theirs.verdict is None:
        # We refuse at the first offending byte, they when the frame is whole: let them have it.
        theirs = read_theirs(data + bytes(1 << 16))
    if ours.verdict == 1002 and theirs.verdict == 1009:
        theirs.verdict = 1002  # we look at the first bytes of a frame before its length
    if ours.reason.startswith("close code") and theirs.verdict == 1007:
        theirs.verdict = 1002  # and at a close code before its reason
    if theirs.reason == "incomplete fragmented message" and isinstance(ours.controls[-1], Close):
        # They want no close frame within a message; section 5.4 lets control frames in.
        assert ours.verdict is None
        ours.verdict = 1002
        del ours.controls[-1]
    assert ours.verdict == theirs.verdict
    assert ours.controls == theirs.controls
    assert ours.messages == theirs.messages
    assert all(len(chunk) <= CHUNK_SIZE for chunk, _, _ in inbox)


@settings(max_examples=150, deadline=None)
@given(streams, cuts)
def test_any_stream_of_frames_reads_as_in_websockets_however_it_is_cut(
    data: bytes, sizes: list[int]
) -> None:
    check_against_theirs(data, sizes)


@settings(max_examples=150, deadline=None)
@given(streams, cuts, st.integers(0, 1 << 16), st.integers(0, 7))
def test_a_stream_with_a_flipped_bit_is_refused_where_websockets_refuses_it(
    data: bytes, sizes: list[int], where: int, bit: int
) -> None:
    if not data:
        return
    changed = bytearray(data)
    changed[where % len(data)] ^= 1 << bit
    if _has_a_length_that_is_not_minimal(bytes(changed)):
        return  # they accept those; see the test of its own
    check_against_theirs(bytes(changed), sizes)


def _has_a_length_that_is_not_minimal(data: bytes) -> bool:
    decoder, _ = make()
    events = decoder.feed(data)
    last = events[-1] if events else None
    return isinstance(last, Violation) and ("shortest" in last.reason or "negative" in last.reason)


@settings(max_examples=150, deadline=None)
@given(streams, cuts)
def test_where_a_stream_is_cut_changes_nothing_of_what_is_read(
    data: bytes, sizes: list[int]
) -> None:
    assert read_ours(cut(data, sizes))[0] == read_ours([data] if data else [])[0]


# Chunks


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 700), min_size=1, max_size=4),
    st.integers(1, 250),
    st.lists(st.integers(1, 300), max_size=30),
    st.sampled_from([0x01, 0x02]),
)
def test_chunks_are_no_larger_than_asked_and_only_the_last_ends_the_message(
    frames: list[int], chunk_size: int, sizes: list[int], opcode: int
) -> None:
    decoder, inbox = make(1 << 20, chunk_size)
    message = b""
    stream = b""
    for index, size in enumerate(frames):
        part = bytes(65 + (index + each) % 26 for each in range(size))
        last = index == len(frames) - 1
        stream += frame((0 if index else opcode) | (0x80 if last else 0), part)
        message += part
    for part in cut(stream, sizes):
        assert not decoder.feed(part)
    assert b"".join(data for data, _, _ in inbox) == message
    assert all(len(data) <= chunk_size for data, _, _ in inbox)
    assert [end for _, _, end in inbox] == [False] * (len(inbox) - 1) + [True]
    assert {kind for _, kind, _ in inbox} == {opcode}


def test_a_frame_that_fits_into_a_chunk_comes_in_one_piece_even_byte_by_byte() -> None:
    for size in (0, 1, 5, 99, 100):
        decoder, inbox = make()
        for byte in frame(0x82, b"x" * size):
            assert not decoder.feed(bytes([byte]))
        assert list(inbox) == [(b"x" * size, BINARY, True)]


def test_a_frame_that_is_larger_than_a_chunk_comes_before_it_is_whole() -> None:
    decoder, inbox = make()
    decoder.feed(frame(0x82, b"x" * 250)[:-100])
    assert list(inbox) == [(b"x" * 100, BINARY, False)]
    decoder.feed(frame(0x82, b"x" * 250)[-100:])
    assert [(len(data), end) for data, _, end in inbox] == [(100, False), (100, False), (50, True)]


# At the first offending byte


@pytest.mark.parametrize(
    ("text", "offending"),
    [
        pytest.param(b"\x80", 0, id="continuation of nothing"),
        pytest.param(b"\xc0\x80", 0, id="overlong two bytes"),
        pytest.param(b"\xc3\x28", 1, id="no continuation"),
        pytest.param(b"\xe0\x80\x80", 1, id="overlong three bytes"),
        pytest.param(b"\xed\xa0\x80", 1, id="surrogate"),
        pytest.param(b"\xf0\x80\x80\x80", 1, id="overlong four bytes"),
        pytest.param(b"\xf4\x90\x80\x80", 1, id="above U+10FFFF"),
        pytest.param(b"\xf5\x80\x80\x80", 0, id="no first byte"),
        pytest.param(b"\xe2\x82\x28", 2, id="third byte"),
        pytest.param("aß\U0001f600".encode() + b"\xff", 7, id="after good text"),
    ],
)
@pytest.mark.parametrize("fragmented", [False, True])
def test_bad_utf8_is_refused_with_its_first_offending_byte(
    text: bytes, offending: int, fragmented: bool
) -> None:
    decoder, _ = make()
    if not fragmented:
        stream = frame(0x81, text + b"more", b"\0\0\0\0")
        assert not decoder.feed(stream[:6])
        feeds = [stream[6 + index : 7 + index] for index in range(len(text))]
    else:
        feeds = [
            frame(0x00 if index else 0x01, text[index : index + 1]) for index in range(len(text))
        ]
    for feed in feeds[:offending]:
        assert not decoder.feed(feed)
    (violation,) = decoder.feed(feeds[offending])
    assert isinstance(violation, Violation)
    assert violation.code == 1007


@pytest.mark.parametrize("text", [b"\xe2\x82", b"\xf0\x9f\x98", b"\xc3"])
def test_text_that_ends_within_a_character_is_refused_with_its_end(text: bytes) -> None:
    decoder, _ = make()
    assert not decoder.feed(frame(0x01, text))
    (violation,) = decoder.feed(frame(0x80, b""))
    assert isinstance(violation, Violation)
    assert violation.code == 1007


@pytest.mark.parametrize(
    "first", [0x91, 0xA1, 0xC1, 0xC9, 0x83, 0x8B, 0x8F, 0x09, 0x08, 0x80, 0x00]
)
def test_a_first_byte_that_gives_it_away_is_refused_alone(first: int) -> None:
    decoder, _ = make()
    (violation,) = decoder.feed(bytes([first]))
    assert isinstance(violation, Violation)
    assert violation.code == 1002


@pytest.mark.parametrize("first", [0x81, 0x82, 0x01, 0x02])
def test_a_message_within_a_message_is_refused_with_its_first_byte(first: int) -> None:
    decoder, _ = make()
    assert not decoder.feed(frame(0x02, b"part"))
    (violation,) = decoder.feed(bytes([first]))
    assert isinstance(violation, Violation)
    assert violation.code == 1002


@pytest.mark.parametrize("head", [b"\x81\x00", b"\x82\x7f", b"\x89\xfe", b"\x8a\xff", b"\x88\xfe"])
def test_a_second_byte_that_gives_it_away_is_refused_with_it(head: bytes) -> None:
    decoder, _ = make()
    assert not decoder.feed(head[:1])
    (violation,) = decoder.feed(head[1:])
    assert isinstance(violation, Violation)
    assert violation.code == 1002


@pytest.mark.parametrize(
    ("length", "code"),
    [
        pytest.param(b"\xfe\x00\x7d", 1002, id="two bytes for 125"),
        pytest.param(b"\xff" + (65535).to_bytes(8, "big"), 1002, id="eight bytes for 65535"),
        pytest.param(b"\xff\x80" + bytes(7), 1002, id="top bit"),
        pytest.param(b"\xfe\x01\x2d", 1009, id="one above the largest message"),
    ],
)
@pytest.mark.parametrize("at_once", [False, True])
def test_a_bad_length_is_refused_before_any_payload(
    length: bytes, code: int, at_once: bool
) -> None:
    decoder, inbox = make()
    stream = b"\x82" + length
    if at_once:
        (violation,) = decoder.feed(stream + b"\0\0\0\0" + bytes(200))
    else:
        for byte in stream[:-1]:
            assert not decoder.feed(bytes([byte]))
        (violation,) = decoder.feed(stream[-1:])
    assert isinstance(violation, Violation)
    assert violation.code == code
    assert not inbox


def test_the_parts_of_a_message_count_together_against_its_largest_size() -> None:
    decoder, _ = make()
    assert not decoder.feed(frame(0x02, bytes(200)))
    assert not decoder.feed(frame(0x00, bytes(100)))
    (violation,) = decoder.feed(frame(0x80, bytes(1))[:2])
    assert isinstance(violation, Violation)
    assert violation.code == 1009


def test_nothing_is_read_after_a_close_frame_or_a_violation() -> None:
    decoder, inbox = make()
    assert decoder.feed(frame(0x88, b"") + frame(0x82, b"late")) == [Close(1005, "")]
    assert not decoder.feed(frame(0x89, b"late"))
    assert not inbox
    decoder, inbox = make()
    assert len(decoder.feed(b"\x83" + frame(0x82, b"late"))) == 1
    assert not decoder.feed(frame(0x82, b"late"))
    assert not inbox


def test_who_must_not_mask_is_refused_if_it_does() -> None:
    inbox: deque[Chunk] = deque()
    decoder = Decoder(inbox, max_message_size=100, chunk_size=100, masked=False)
    assert not decoder.feed(frame(0x81, "grüße".encode(), None))
    assert list(inbox) == [("grüße".encode(), TEXT, True)]
    (violation,) = decoder.feed(frame(0x81, b"x"))
    assert isinstance(violation, Violation)
    assert violation.code == 1002


# Making frames


@given(st.sampled_from([0x81, 0x82, 0x01, 0x00, 0x80]), st.integers(0, 70_000))
def test_a_header_is_the_shortest_that_websockets_would_make(first: int, length: int) -> None:
    theirs = Frame(Opcode(first & 0x0F), bytes(length), fin=bool(first & 0x80)).serialize(
        mask=False
    )
    assert frame_header(first, length) + bytes(length) == theirs


def test_the_header_of_a_huge_frame_has_eight_bytes_of_length() -> None:
    assert frame_header(0x82, 1 << 40) == b"\x82\x7f" + (1 << 40).to_bytes(8, "big")


@given(st.integers(0, 5100), st.text(max_size=60))
def test_a_close_payload_reads_as_it_was_made_or_is_refused(code: int, reason: str) -> None:
    if code == 1005 and not reason:
        assert parse_close(close_payload(code, reason)) == Close(1005, "")
    elif not is_close_code(code) or len(reason.encode()) > 123:
        with pytest.raises(ValueError, match="close"):
            close_payload(code, reason)
    else:
        assert parse_close(close_payload(code, reason)) == Close(code, reason)


def test_the_longest_close_reason_has_123_bytes() -> None:
    assert len(close_payload(1000, "x" * 123)) == 125
    with pytest.raises(ValueError, match="123 is the most"):
        close_payload(1000, "x" * 124)
    with pytest.raises(ValueError, match="1006 may not be sent"):
        close_payload(1006, "")


# Memory


def test_a_message_that_comes_byte_by_byte_costs_a_bounded_state() -> None:
    decoder, inbox = make(1 << 40, 4096)
    stream = b"\x82\xff" + (1 << 39).to_bytes(8, "big") + bytes(4)
    assert not decoder.feed(stream)
    tracemalloc.start()
    try:
        for _ in range(100_000):
            decoder.feed(b"x")
            inbox.clear()
        assert tracemalloc.get_traced_memory()[1] < 256 * 1024
    finally:
        tracemalloc.stop()


def test_empty_parts_of_a_message_that_never_ends_cost_nothing() -> None:
    decoder, inbox = make()
    assert not decoder.feed(frame(0x01, b""))
    parts = frame(0x00, b"") * 1000
    tracemalloc.start()
    try:
        for _ in range(50):
            assert not decoder.feed(parts)
        assert tracemalloc.get_traced_memory()[0] < 64 * 1024
    finally:
        tracemalloc.stop()
    assert len(inbox) <= 1
