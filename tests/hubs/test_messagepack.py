"""The MessagePack protocol: the published bytes, .NET's words, and lengths that lie."""

from __future__ import annotations

import base64
import math
import time
import tracemalloc
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec import Raw

from echo.hubs.framing import length_prefix
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
from echo.hubs.protocol import EncodingError, ProtocolError
from tests.hubs.support import MESSAGEPACK, parsed

HEADERS = {"x": "y", "z": "z"}

PUBLISHED: list[tuple[str, Message]] = [
    (
        "960180a378797aa66d6574686f64912a90",
        Invocation(invocation_id="xyz", target="method", arguments=[42]),
    ),
    ("960180c0a66d6574686f64912a90", Invocation(target="method", arguments=[42])),
    (
        "960182a178a179a17aa17aa378797aa66d6574686f64912a90",
        Invocation(headers=HEADERS, invocation_id="xyz", target="method", arguments=[42]),
    ),
    (
        "960480a378797aa66d6574686f64912a90",
        StreamInvocation(invocation_id="xyz", target="method", arguments=[42]),
    ),
    ("940280a378797a2a", StreamItem(invocation_id="xyz", item=42)),
    ("950380a378797a01a54572726f72", Completion(invocation_id="xyz", error="Error")),
    ("940380a378797a02", Completion(invocation_id="xyz")),
    ("950380a378797a032a", Completion(invocation_id="xyz", result=42)),
    ("930580a378797a", CancelInvocation(invocation_id="xyz")),
    ("9106", PING),
    ("9307a378797ac3", Close(error="xyz", allow_reconnect=True)),
    ("9208cc92", Ack(sequence_id=146)),
    ("9209cc92", Sequence(sequence_id=146)),
]

# As .NET writes them.
WRITTEN: list[tuple[str, Message]] = [
    ("lgGAo3h5eqZtZXRob2SQkA==", Invocation(invocation_id="xyz", target="method", arguments=[])),
    ("lgGAwKZtZXRob2SSKqZzdHJpbmeQ", Invocation(target="method", arguments=[42, "string"])),
    ("lgGAwKZtZXRob2SRwJA=", Invocation(target="method", arguments=[None])),
    (
        "lgGAwKZUYXJnZXSQkqtfX3Rlc3RfaWRfX6xfX3Rlc3RfaWQyX18=",
        Invocation(target="Target", arguments=[], stream_ids=("__test_id__", "__test_id2__")),
    ),
    ("lAKAo3h5esM=", StreamItem(invocation_id="xyz", item=True)),
    ("lQOAo3h5egPA", Completion(invocation_id="xyz", result=None)),
    ("kwfAwg==", Close()),
    ("kwemRXJyb3Ihwg==", Close(error="Error!")),
    ("kwfAww==", Close(allow_reconnect=True)),
    ("kggq", Ack(sequence_id=42)),
]

EXAMPLES = [(bytes.fromhex(text), message) for text, message in PUBLISHED] + [
    (base64.b64decode(text), message) for text, message in WRITTEN
]


def framed(body: bytes) -> bytes:
    return length_prefix(len(body)) + body


def read(body: bytes) -> Message | None:
    """The one message that the frame holds, or None if it is passed over."""
    messages = parsed(MESSAGEPACK, framed(body))
    return messages[0] if messages else None


@pytest.mark.parametrize(("body", "message"), EXAMPLES, ids=[body.hex() for body, _ in EXAMPLES])
def test_an_example_is_written_as_published_and_read_back(body: bytes, message: Message) -> None:
    assert MESSAGEPACK.encode(message) == framed(body)
    assert read(body) == message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        # Old clients know no streams; the JavaScript client leaves out what it has not.
        ("950180c0a16d9101", Invocation(target="m", arguments=[1])),
        ("950480a131a16d9101", StreamInvocation(invocation_id="1", target="m", arguments=[1])),
        ("960180a0a16d90c0", Invocation(target="m", arguments=[])),
        ("960180a0a16d910190", Invocation(target="m", arguments=[1])),
        ("9601c0c0a16d910190", Invocation(target="m", arguments=[1])),
        ("9207c0", Close()),
        ("9207a378797a", Close(error="xyz")),
        # More elements than are known
        (
            "980180a378797aa16d9090c3a26578",
            Invocation(invocation_id="xyz", target="m", arguments=[]),
        ),
        ("920601", PING),
        ("950380a131020a", Completion(invocation_id="1")),
        ("9408010203", Ack(sequence_id=1)),
        # The same values in other forms
        ("dc0001d200000006", PING),
        ("9208cf0000000000000005", Ack(sequence_id=5)),
        ("9308d30000000000000005a0", Ack(sequence_id=5)),
    ],
)
def test_what_other_clients_send_is_understood(body: str, message: Message) -> None:
    assert read(bytes.fromhex(body)) == message


@pytest.mark.parametrize("body", ["910a", "9300c0c0", "91ff", "9211a3666f6f"])
def test_a_message_of_an_unknown_type_is_passed_over(body: str) -> None:
    assert read(bytes.fromhex(body)) is None


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("90", "Reading 'messageType' as Int32 failed."),
        ("91a3666f6f", "Reading 'messageType' as Int32 failed."),
        ("9101", "Reading map length for 'headers' failed."),
        ("9201a3666f6f", "Reading map length for 'headers' failed."),
        ("9601812aa3666f6fc0a16d9090", "Reading map length for 'headers' failed."),
        ("960100c0a16d9090", "Reading map length for 'headers' failed."),
        ("920180", "Reading 'invocationId' as String failed."),
        ("960180c2a16d9090", "Reading 'invocationId' as String failed."),
        ("930180a3616263", "Reading 'target' as String failed."),
        ("940180a36162632a", "Reading 'target' as String failed."),
        ("960180a3616263a09090", "Reading 'target' as String failed."),
        ("940180c0a16d", "Reading array length for 'arguments' failed."),
        ("960180c0a16d902a", "Reading array length for 'streamIds' failed."),
        ("960180c0a16d90912a", "Reading array length for 'streamIds' failed."),
        ("960480c0a16d9090", "Reading 'invocationId' as String failed."),
        ("920280", "Reading 'invocationId' as String failed."),
        ("940280a02a", "Reading 'invocationId' as String failed."),
        ("930280a378797a", "Reading 'item' failed."),
        ("930380a378797a", "Reading 'resultKind' as Int32 failed."),
        ("940380a378797aa378797a", "Reading 'resultKind' as Int32 failed."),
        ("940380a378797a2a", "Invalid invocation result kind."),
        ("940380a378797a01", "Reading 'error' as String failed."),
        ("950380a378797a012a", "Reading 'error' as String failed."),
        ("940380a378797a03", "Reading 'result' failed."),
        ("920580", "Reading 'invocationId' as String failed."),
        ("930580a0", "Reading 'invocationId' as String failed."),
        ("9107", "Reading 'error' as String failed."),
        ("92072a", "Reading 'error' as String failed."),
        ("9307c02a", "Reading 'allowReconnect' as Boolean failed."),
        ("9108", "Reading 'sequenceId' as Int64 failed."),
        ("9208c0", "Reading 'sequenceId' as Int64 failed."),
        ("9109", "Reading 'sequenceId' as Int64 failed."),
    ],
)
def test_a_wrong_message_is_explained_in_the_words_of_dotnet(body: str, error: str) -> None:
    with pytest.raises(ProtocolError) as raised:
        read(bytes.fromhex(body))
    assert str(raised.value) == error


@pytest.mark.parametrize(
    "body",
    [
        "",
        "c1",
        "06",
        "80",
        "92",
        "960180a378797aa66d6574686f64912a",
        "910600",
        "9207a1ff",
        "9307c1c3",
    ],
)
def test_what_is_no_messagepack_array_is_refused(body: str) -> None:
    with pytest.raises(ProtocolError):
        read(bytes.fromhex(body))


# --- lengths that lie, and depth ---


@pytest.mark.parametrize(
    "huge", ["ddffffffff", "dfffffffff", "dbffffffff", "c6ffffffff", "c9ffffffff01", "dd7fffffff"]
)
@pytest.mark.parametrize(
    "start", ["", "9601", "960180", "960180c0a16d", "960180c0a16d90", "940280a131"]
)
def test_a_count_without_its_elements_costs_nothing(start: str, huge: str) -> None:
    body = framed(bytes.fromhex(start + huge))
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            parsed(MESSAGEPACK, body)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def nested(levels: int, inner: bytes) -> bytes:
    """A StreamItem in which `inner` is that deep: the message is the first level."""
    openings = [b"\x91", b"\x81\x01", b"\xdc\x00\x01", b"\xde\x00\x01\x02"]
    openings += [b"\xdd\x00\x00\x00\x01", b"\xdf\x00\x00\x00\x01\x03"]
    within = b"".join(openings[level % len(openings)] for level in range(levels - 1))
    return b"\x94\x02\x80\xa11" + within + inner


def test_64_levels_are_read_and_65_refused() -> None:
    for inner in (b"\x01", b"\xc4\x02\x91\x91", b"\xc4\x01\x90"):
        assert isinstance(read(nested(64, inner)), StreamItem)
    assert isinstance(read(nested(63, b"\x90")), StreamItem)
    for deep in (nested(64, b"\x90"), nested(65, b"\x01"), nested(5000, b"\x01")):
        with pytest.raises(ProtocolError, match="deeper than 64 levels"):
            read(deep)


def test_values_side_by_side_are_no_depth() -> None:
    values: list[Any] = [
        [[]] * 100,
        [{}] * 100,
        {str(number): [number] for number in range(100)},
        "é" * 300,
        bytes(range(256)) * 300,
        [1.5, -1, -100, 2**40, -(2**40), 200, 70_000, True, None, "é" * 20, "é" * 40] * 100,
        [datetime(2020, 1, 1, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC), b"\x90" * 70] * 50,
        [
            "x" * 70_000,
            [msgspec.msgpack.Ext(5, b"\x90" * size) for size in (1, 2, 4, 8, 16, 99, 300)],
        ],
    ]
    for value in values:
        message = StreamItem(invocation_id="1", item=[value, [[[]]]])
        body = MESSAGEPACK.encode(message)
        assert parsed(MESSAGEPACK, body, MESSAGEPACK.parser(len(body))) == [message]


def test_depth_is_measured_in_linear_time() -> None:
    began = time.perf_counter()
    body = b"\x94\x02\x80\xa11\xdd" + (32_000).to_bytes(4) + b"\x90" * 32_000
    assert isinstance(read(body), StreamItem)
    for cut in (b"\x91" * 32_000, b"\xdd\xff\xff\xff\xff" * 6000, b"\x90" * 32_000):
        with pytest.raises(ProtocolError):
            read(cut)
    assert time.perf_counter() - began < 2


# --- values ---


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    down_left: float | None = None


def item_of(value: object) -> str:
    """The bytes of this value."""
    frame = MESSAGEPACK.encode(StreamItem(invocation_id="1", item=value))
    return frame[1:].removeprefix(b"\x94\x02\x80\xa11").hex()


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (datetime(2017, 4, 11, tzinfo=UTC), "d6ff58ec1c80"),
        (datetime(2017, 4, 11, 2, tzinfo=timezone(timedelta(hours=2))), "d6ff58ec1c80"),
        (datetime(2017, 4, 11, 0, 0, 0, 1, tzinfo=UTC), "d7ff00000fa058ec1c80"),
        (datetime(1, 1, 1, tzinfo=UTC), "c70cff00000000fffffff1886e0900"),
        (datetime(2000, 1, 1), b"\xb32000-01-01T00:00:00".hex()),
        (b"\x01\x02\x03", "c403010203"),
        (bytearray(b"\x01"), "c40101"),
        (UUID(int=1), b"\xd9\x2400000000-0000-0000-0000-000000000001".hex()),
        (Decimal("1.10"), b"\xa41.10".hex()),
        (Colour.RED, b"\xa3red".hex()),
        (Point(1), b"\x82\xa1x\x01\xa9down_left\xc0".hex()),
        (math.inf, "cb7ff0000000000000"),
        (2**64 - 1, "cfffffffffffffffff"),
        (-(2**63), "d38000000000000000"),
        ({1: (2, 3)}, "8101920203"),
    ],
)
def test_how_a_value_is_written(value: object, written: str) -> None:
    assert item_of(value) == written


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("d6ff58ec1c80", datetime(2017, 4, 11, tzinfo=UTC)),
        ("d7ff00000fa058ec1c80", datetime(2017, 4, 11, 0, 0, 0, 1, tzinfo=UTC)),
        ("c70cff000003e8fffffffffffffff0", datetime(1969, 12, 31, 23, 59, 44, 1, tzinfo=UTC)),
        (b"\xb42017-04-11T00:00:00Z".hex(), datetime(2017, 4, 11, tzinfo=UTC)),
    ],
)
def test_every_form_of_a_timestamp_is_read(written: str, moment: datetime) -> None:
    assert MESSAGEPACK.decoder(datetime)(Raw(bytes.fromhex(written))) == moment


def test_a_date_with_an_offset_of_dotnet_is_a_pair() -> None:
    pair = Raw(bytes.fromhex("92d6ff58ec1c80cd0258"))
    read_pair = MESSAGEPACK.decoder(tuple[datetime, int])
    assert read_pair(pair) == (datetime(2017, 4, 11, tzinfo=UTC), 600)


@pytest.mark.parametrize(
    ("value", "named"),
    [(object(), "object"), (2**64, "serialize ints"), ("\ud83d", "surrogates"), (1j, "complex")],
)
def test_what_cannot_be_written_is_named(value: object, named: str) -> None:
    with pytest.raises(
        EncodingError, match=rf"^MessagePack cannot carry this StreamItem: .*{named}"
    ):
        MESSAGEPACK.encode(StreamItem(invocation_id="1", item=value))


def test_raw_values_are_sent_on_as_they_came() -> None:
    frame = framed(bytes.fromhex("960180c0a16d91cd000190"))
    (message,) = MESSAGEPACK.parser().feed(frame)
    assert MESSAGEPACK.encode(message) == frame


# --- frames ---


@pytest.mark.parametrize("length", [0, 1, 127, 128, 5248, 16383, 16384, 2**21, 2**28, 2**31 - 1])
def test_a_length_takes_seven_bits_a_byte(length: int) -> None:
    prefix = length_prefix(length)
    assert len(prefix) == max(1, -(-length.bit_length() // 7))
    assert sum((byte & 0x7F) << 7 * place for place, byte in enumerate(prefix)) == length
    assert [byte > 0x7F for byte in prefix] == [True] * (len(prefix) - 1) + [False]


def test_the_published_lengths() -> None:
    assert length_prefix(5248) == b"\x80\x29"
    assert length_prefix(0x7FFFFFFF) == b"\xff\xff\xff\xff\x07"


def test_messages_are_found_wherever_the_stream_is_split() -> None:
    messages = [message for _, message in EXAMPLES]
    messages.append(Close(error="x" * 300))  # with a length of two bytes
    stream = b"".join(map(MESSAGEPACK.encode, messages))
    assert parsed(MESSAGEPACK, stream) == messages
    assert parsed(MESSAGEPACK, [stream[at : at + 1] for at in range(len(stream))]) == messages
    assert parsed(MESSAGEPACK, [stream[:5], b"", stream[5:60], stream[60:]]) == messages


def test_a_length_in_more_bytes_than_it_needs_is_read() -> None:
    for prefix in (b"\x82\x00", b"\x82\x80\x80\x80\x00"):
        assert parsed(MESSAGEPACK, prefix + b"\x91\x06\x02\x91\x06") == [PING, PING]


@pytest.mark.parametrize("prefix", ["ffffffff08", "ffffffffff", "8080808080", "8080808010"])
def test_a_length_over_2_gb_is_refused(prefix: str) -> None:
    with pytest.raises(ProtocolError, match="Messages over 2GB in size are not supported"):
        parsed(MESSAGEPACK, bytes.fromhex(prefix))


@pytest.mark.parametrize("length", [1001, 2**31 - 1])
def test_a_message_over_the_limit_is_refused_at_its_length(length: int) -> None:
    fits = MESSAGEPACK.encode(Close(error="x" * 994))
    assert fits[:2] == length_prefix(1000)
    assert len(parsed(MESSAGEPACK, fits, MESSAGEPACK.parser(1000))) == 1
    prefix = length_prefix(length)
    for chunks in ([prefix], [prefix[at : at + 1] for at in range(len(prefix))]):
        with pytest.raises(ProtocolError, match="maximum message size of 1000B was exceeded"):
            parsed(MESSAGEPACK, [b"\x02\x91\x06", *chunks], MESSAGEPACK.parser(1000))


def test_messages_before_a_broken_one_are_delivered() -> None:
    messages = MESSAGEPACK.parser().feed(b"\x02\x91\x06\x02\x91\x07\x02\x91\x06")
    assert next(messages) == PING
    with pytest.raises(ProtocolError, match="'error'"):
        next(messages)


def test_a_drip_and_a_flood_take_linear_time() -> None:
    frame = MESSAGEPACK.encode(Close(error="x" * 200_000))
    began = time.perf_counter()
    parser = MESSAGEPACK.parser(300_000)
    assert sum(len(list(parser.feed(frame[at : at + 1]))) for at in range(len(frame))) == 1
    assert len(parsed(MESSAGEPACK, MESSAGEPACK.encode(PING) * 50_000)) == 50_000
    assert time.perf_counter() - began < 10
