"""What holds for every message, every split and every garbage, in both protocols."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from echo.hubs.binding import BindingError, Converter
from echo.hubs.framing import length_prefix
from echo.hubs.handshake import HandshakeParser
from echo.hubs.messages import (
    PING,
    Ack,
    CancelInvocation,
    Close,
    Completion,
    Invocation,
    Message,
    Sequence,
    StreamInvocation,
    StreamItem,
)
from echo.hubs.protocol import HubProtocol, ProtocolError
from tests.hubs.support import JSON, MESSAGEPACK, PROTOCOLS, parsed

each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda each: each.name)
often = settings(max_examples=120, deadline=None)

LIMIT = 512

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=40)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=20,
)
ids = st.text(min_size=1, max_size=9)
headers = st.none() | st.dictionaries(st.text(max_size=9), st.text(max_size=9), min_size=1)
sequence_ids = st.integers(0, 2**63 - 1)
calls = {
    "headers": headers,
    "target": ids,
    "arguments": st.lists(values, max_size=4),
    "stream_ids": st.lists(ids, max_size=3).map(tuple),
}
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Invocation, invocation_id=st.none() | ids, **calls),
    st.builds(StreamInvocation, invocation_id=ids, **calls),
    st.builds(StreamItem, headers=headers, invocation_id=ids, item=values),
    st.builds(Completion, headers=headers, invocation_id=ids, result=values | st.just(UNSET)),
    st.builds(Completion, headers=headers, invocation_id=ids, error=st.text(max_size=40)),
    st.builds(CancelInvocation, headers=headers, invocation_id=ids),
    st.just(PING),
    st.builds(Close, error=st.none() | st.text(max_size=40), allow_reconnect=st.booleans()),
    st.builds(Ack, sequence_id=sequence_ids),
    st.builds(Sequence, sequence_id=sequence_ids),
)


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """The data in pieces, some of them perhaps empty."""
    ends = sorted(place % (len(data) + 1) for place in places)
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


cuts = st.lists(st.integers(0, 5000), max_size=8)


@each_protocol
@often
@given(sent=st.lists(messages, max_size=5), places=cuts)
def test_every_message_is_read_back_however_it_is_split(
    protocol: HubProtocol, sent: list[Message], places: list[int]
) -> None:
    stream = b"".join(map(protocol.encode, sent))
    assert parsed(protocol, cut(stream, places)) == sent


@often
@given(st.binary(max_size=300) | st.datetimes(datetime(1, 1, 2), timezones=st.just(UTC)))
def test_bytes_and_dates_are_read_back(value: bytes | datetime) -> None:
    converter = Converter(type(value))
    for protocol in PROTOCOLS:
        frame = protocol.encode(StreamItem(invocation_id="1", item=value))
        (message,) = protocol.parser().feed(frame)
        assert isinstance(message, StreamItem)
        assert converter.convert(message.item, protocol) == value


def outcome(protocol: HubProtocol, chunks: list[bytes]) -> tuple[list[Message], str | None]:
    """The messages, undecoded, and the error that ended them. Nothing else may be raised."""
    parser = protocol.parser(LIMIT)
    read: list[Message] = []
    try:
        for chunk in chunks:
            read.extend(parser.feed(chunk))
    except ProtocolError as error:
        return read, str(error)
    return read, None


JSON_PIECES = (
    rb"""{"type": 1 3 , " \ \ud800 "target":"x" "arguments":[ "invocationId":"1" "result": [ ] {"""
    rb""" } null -1e9 {"type":1,"target":"t","arguments":[[ "error":"e" true """
).split()
json_garbage = st.lists(
    st.sampled_from([*JSON_PIECES, b"\x1e", b'{"type":6}\x1e', b"\xff"]) | st.binary(max_size=4),
    max_size=30,
).map(b"".join)
bodies = st.lists(
    st.sampled_from([bytes([first]) for first in (*range(0x80, 0x9A), *range(0xC0, 0xE0), 0x01, 0)])
    | st.sampled_from([b"\xa1x", b"\x96\x01\x80\xa11\xa1t", b"\x95\x03\x80\xa11", b"\x91\x06"])
    | st.binary(max_size=4),
    max_size=30,
).map(b"".join)
messagepack_garbage = st.lists(
    bodies.map(lambda body: length_prefix(len(body)) + body) | st.binary(max_size=9), max_size=6
).map(b"".join)


@often
@given(data=json_garbage, places=cuts)
@example(data=b" " * LIMIT + b"\x1e", places=[3])
@example(data=b" " * LIMIT + b" ", places=[3])
def test_json_garbage_has_the_same_end_however_it_is_split(data: bytes, places: list[int]) -> None:
    assert outcome(JSON, cut(data, places)) == outcome(JSON, [data])


@often
@given(data=messagepack_garbage, places=cuts)
@example(data=b"\x81", places=[0])
@example(data=length_prefix(LIMIT + 1), places=[1])
def test_messagepack_garbage_has_the_same_end_however_it_is_split(
    data: bytes, places: list[int]
) -> None:
    assert outcome(MESSAGEPACK, cut(data, places)) == outcome(MESSAGEPACK, [data])


@often
@given(data=json_garbage, places=cuts)
def test_garbage_is_no_handshake(data: bytes, places: list[int]) -> None:
    def answer(chunks: list[bytes]) -> object:
        parser = HandshakeParser(LIMIT)
        try:
            for at, chunk in enumerate(chunks):
                if found := parser.feed(chunk):
                    return found[0], found[1] + b"".join(chunks[at + 1 :])
        except ProtocolError as error:
            return str(error)
        return None

    assert answer(cut(data, places)) == answer([data])


@each_protocol
@often
@given(data=st.data())
def test_garbage_in_a_value_is_a_binding_error(protocol: HubProtocol, data: st.DataObject) -> None:
    value = data.draw(json_garbage if protocol is JSON else bodies)
    for type in (Any, list[Any], dict[str, int], str, float, datetime, bytes):
        with suppress(BindingError):
            Converter(type).convert(Raw(value), protocol)


@each_protocol
@often
@given(message=messages, place=st.integers(0, 5000), bit=st.integers(0, 7))
def test_a_flipped_bit_does_no_more_than_break_the_protocol(
    protocol: HubProtocol, message: Message, place: int, bit: int
) -> None:
    frame = bytearray(protocol.encode(message))
    frame[place % len(frame)] ^= 1 << bit
    outcome(protocol, [bytes(frame)])


def test_no_garbage_takes_more_memory_than_its_size_allows() -> None:
    """A count of four billion in five bytes must cost five bytes."""
    luck = random.Random(5)
    heads = [b"\xdd\x7f", b"\xdf\x7f", b"\xdb\x7f", b"\xc6\x7f", b"\xdc\xff\xff", b"\x9f", b"\x8f"]
    starts = [b"", b"\x96\x01\x80\xc0\xa1t", b"\x94\x02\x80\xa11", b"\x95\x03\x80\xa11\x03"]
    size = 8000
    for turn in range(150):
        body = luck.choice(starts)
        while len(body) < size:
            body += luck.choice(heads) if luck.random() < 0.02 else luck.randbytes(9)
        frame = length_prefix(len(body)) + body
        tracemalloc.start()
        try:
            read = list(MESSAGEPACK.parser().feed(frame))
        except ProtocolError:
            read = []
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 20 * size, (turn, peak)
        for message in read:
            assert msgspec.structs.asdict(message)
