"""The JSON protocol: the specification's examples, .NET's words, and what JSON cannot say."""

from __future__ import annotations

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
from msgspec import UNSET, Raw

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
from tests.hubs.support import JSON, parsed

HEADERS = {"Foo": "Bar", "Key\nWith\r\nLines": "Still Works"}
IN_JSON = r'"headers":{"Foo":"Bar","Key\nWith\r\nLines":"Still Works"}'

EXAMPLES: list[tuple[str, Message]] = [
    (
        '{"type":1,"invocationId":"123","target":"Send","arguments":[42,"Test Message"]}',
        Invocation(invocation_id="123", target="Send", arguments=[42, "Test Message"]),
    ),
    (
        '{"type":1,"target":"Send","arguments":[42,"Test Message"]}',
        Invocation(target="Send", arguments=[42, "Test Message"]),
    ),
    (
        '{"type":1,"invocationId":"123","target":"Send","arguments":[42],"streamIds":["1"]}',
        Invocation(invocation_id="123", target="Send", arguments=[42], stream_ids=("1",)),
    ),
    (
        '{"type":1,"headers":{"Foo":"Bar"},"invocationId":"123","target":"Send","arguments":[]}',
        Invocation(headers={"Foo": "Bar"}, invocation_id="123", target="Send", arguments=[]),
    ),
    (
        '{"type":1,"target":"Method","arguments":["מחרוזת כלשהי",null,true]}',
        Invocation(target="Method", arguments=["מחרוזת כלשהי", None, True]),
    ),
    (
        '{"type":4,"invocationId":"123","target":"Send","arguments":[42,"Test Message"]}',
        StreamInvocation(invocation_id="123", target="Send", arguments=[42, "Test Message"]),
    ),
    ('{"type":2,"invocationId":"123","item":42}', StreamItem(invocation_id="123", item=42)),
    ('{"type":2,"invocationId":"123","item":null}', StreamItem(invocation_id="123", item=None)),
    ('{"type":3,"invocationId":"123"}', Completion(invocation_id="123")),
    ('{"type":3,"invocationId":"123","result":42}', Completion(invocation_id="123", result=42)),
    (
        '{"type":3,"invocationId":"123","result":null}',
        Completion(invocation_id="123", result=None),
    ),
    (
        '{"type":3,"invocationId":"123","error":"It didn\'t work!"}',
        Completion(invocation_id="123", error="It didn't work!"),
    ),
    (
        '{"type":3,' + IN_JSON + ',"invocationId":"123"}',
        Completion(headers=HEADERS, invocation_id="123"),
    ),
    ('{"type":5,"invocationId":"123"}', CancelInvocation(invocation_id="123")),
    ('{"type":6}', PING),
    ('{"type":7}', Close()),
    ('{"type":7,"error":""}', Close(error="")),
    (
        '{"type":7,"error":"Connection closed because of an error!","allowReconnect":true}',
        Close(error="Connection closed because of an error!", allow_reconnect=True),
    ),
    ('{"type":8,"sequenceId":1394}', Ack(sequence_id=1394)),
    ('{"type":9,"sequenceId":1234}', Sequence(sequence_id=1234)),
]


def read(text: str | bytes) -> Message | None:
    """The one message that the record holds, or None if it is passed over."""
    record = text.encode() if isinstance(text, str) else text
    messages = parsed(JSON, record + b"\x1e")
    return messages[0] if messages else None


def arguments_of(*values: object) -> str:
    """The JSON of these arguments."""
    record = JSON.encode(Invocation(target="t", arguments=values)).decode()
    return record.removeprefix('{"type":1,"target":"t","arguments":').removesuffix("}\x1e")


@pytest.mark.parametrize(("text", "message"), EXAMPLES, ids=[text for text, _ in EXAMPLES])
def test_an_example_is_written_as_published_and_read_back(text: str, message: Message) -> None:
    assert JSON.encode(message) == text.encode() + b"\x1e"
    assert read(text) == message


def test_a_result_that_is_null_is_not_a_result_that_is_absent() -> None:
    (null,) = JSON.parser().feed(b'{"type":3,"invocationId":"1","result":null}\x1e')
    assert isinstance(null, Completion) and null.result == Raw(b"null")
    (absent,) = JSON.parser().feed(b'{"type":3,"invocationId":"1"}\x1e')
    assert isinstance(absent, Completion) and absent.result is UNSET


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            ' { "arguments": [1,2], "type":1, "target": "Method" } ',
            Invocation(target="Method", arguments=[1, 2]),
        ),
        (
            '{"arguments":[1],"streamIds":[],"target":"m","invocationId":"3","type":4}',
            StreamInvocation(invocation_id="3", target="m", arguments=[1]),
        ),
        ('{"type":3,"result":10,"invocationId":"15"}', Completion(invocation_id="15", result=10)),
        ('{"item":"foo","invocationId":"1a","type":2}', StreamItem(invocation_id="1a", item="foo")),
        (
            '{"type":1,"extra":{"a":[1]},"target":"m","arguments":[],"more":1}',
            Invocation(target="m", arguments=[]),
        ),
    ],
)
def test_properties_come_in_any_order_and_unknown_ones_are_ignored(
    text: str, message: Message
) -> None:
    assert read(text) == message


def test_what_is_null_or_empty_and_optional_counts_as_absent() -> None:
    text = '{"type":1,"invocationId":%s,"target":"m","arguments":[null],"headers":null}'
    for nothing in ('""', "null"):
        assert read(text % nothing) == Invocation(target="m", arguments=[None])
    assert read('{"type":3,"invocationId":"1","error":null,"result":null}') == Completion(
        invocation_id="1", result=None
    )
    assert read('{"type":1,"target":"m","arguments":[],"streamIds":null}') == Invocation(
        target="m", arguments=[]
    )
    assert read('{"type":7,"error":null,"allowReconnect":null}') == Close()


@pytest.mark.parametrize("text", ['{"type":10}', '{"type":0,"target":1}', '{"type":-1}'])
def test_a_message_of_an_unknown_type_is_passed_over(text: str) -> None:
    assert read(text) is None
    assert parsed(JSON, text.encode() + b'\x1e{"type":6}\x1e') == [PING]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("null", "Unexpected JSON Token Type 'Null'. Expected a JSON Object."),
        ('"foo"', "Unexpected JSON Token Type 'String'. Expected a JSON Object."),
        ("[42]", "Unexpected JSON Token Type 'Array'. Expected a JSON Object."),
        ("42", "Unexpected JSON Token Type 'Number'. Expected a JSON Object."),
        (" true", "Unexpected JSON Token Type 'True'. Expected a JSON Object."),
        ("{}", "Missing required property 'type'."),
        ('{"type":"foo"}', "Expected 'type' to be of type Number."),
        ('{"type":null}', "Expected 'type' to be of type Number."),
        ('{"type":1.5}', "Expected 'type' to be of type Number."),
        ('{"type":1,"headers":[]}', "Expected 'headers' to be of type Object."),
        (
            '{"type":1,"headers":{"a":"b","Foo":42},"target":"t","arguments":[]}',
            "Expected header 'Foo' to be of type String.",
        ),
        ('{"type":1}', "Missing required property 'target'."),
        ('{"type":1,"target":"","arguments":[]}', "Missing required property 'target'."),
        ('{"type":1,"invocationId":42}', "Expected 'invocationId' to be of type String."),
        ('{"type":1,"invocationId":"1","target":42}', "Expected 'target' to be of type String."),
        ('{"type":1,"target":null}', "Expected 'target' to be of type String."),
        ('{"type":1,"target":"foo"}', "Missing required property 'arguments'."),
        (
            '{"type":1,"target":"foo","arguments":[],"streamIds":[1]}',
            "Expected 'streamIds' to be of type Array.",
        ),
        ('{"type":2}', "Missing required property 'invocationId'."),
        ('{"type":2,"invocationId":42}', "Expected 'invocationId' to be of type String."),
        ('{"type":2,"invocationId":"42"}', "Missing required property 'item'."),
        ('{"type":3}', "Missing required property 'invocationId'."),
        ('{"type":3,"invocationId":""}', "Missing required property 'invocationId'."),
        ('{"type":3,"invocationId":"42","error":[]}', "Expected 'error' to be of type String."),
        (
            '{"type":3,"invocationId":"42","error":"foo","result":true}',
            "The 'error' and 'result' properties are mutually exclusive.",
        ),
        ('{"type":4}', "Missing required property 'invocationId'."),
        ('{"type":4,"invocationId":"42","target":"t"}', "Missing required property 'arguments'."),
        ('{"type":5}', "Missing required property 'invocationId'."),
        ('{"type":7,"allowReconnect":1}', "Expected 'allowReconnect' to be true or false."),
        ('{"type":8}', "Missing required property 'sequenceId'."),
        ('{"type":8,"sequenceId":true}', "Expected 'sequenceId' to be of type Number."),
        ('{"type":9,"sequenceId":"value"}', "Expected 'sequenceId' to be of type Number."),
    ],
)
def test_a_wrong_message_is_explained_in_the_words_of_dotnet(text: str, error: str) -> None:
    with pytest.raises(ProtocolError) as raised:
        read(text)
    assert str(raised.value) == error


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{",
        b'{"type":3,"invocationId":"42","result":true',
        b'{"type":1,"target":"foo","arguments":[[}]}',
        b'{"type":1,"target":"foo","arguments":[1,]}',
        b'{"type":1,"target":"foo","arguments":[]} 1',
        b'{"type":6/**/}',
        b'\xef\xbb\xbf{"type":6}',
        b'{"type":1,"target":"\xff","arguments":[]}',
        b'{"type":7,"error":"a\nb"}',
    ],
)
def test_what_is_no_json_is_refused(record: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"^Error reading JSON\. "):
        read(record)


def nested(levels: int, *, empty: bool = False) -> bytes:
    """A message that nests so deep: itself, its arguments, and lists and maps in turn."""
    within = levels - 2
    opening = (b"[", b'{"]":')
    closing = (b"]", b"}")
    inner = b"".join(opening[level % 2] for level in range(within))
    inner += b"1" if not empty or within % 2 == 0 else b""
    inner += b"".join(closing[level % 2] for level in reversed(range(within)))
    return b'{"type":1,"target":"[[[","arguments":[' + inner + b"]}"


def test_64_levels_are_read_and_65_refused() -> None:
    for empty in (False, True):
        assert isinstance(read(nested(64, empty=empty)), Invocation)
        with pytest.raises(ProtocolError, match="deeper than 64 levels"):
            read(nested(65, empty=empty))


def test_brackets_in_strings_and_side_by_side_are_no_depth() -> None:
    values = ["[" * 100, '"]}{["', "\\", '\\"[', [[]] * 100, {"{": [{}] * 70}]
    assert read(JSON.encode(Invocation(target="t", arguments=values))[:-1]) == Invocation(
        target="t", arguments=values
    )


@pytest.mark.parametrize(
    "record",
    [
        b"[" * 32768,
        b'{"a":' * 6000,
        b"[" * 66 + b'"' + b'\\"' * 16000,
        b"[" * 66 + b'"' * 32000,
        b"]" * 100 + b"[" * 100,
    ],
)
def test_depth_without_end_is_refused_in_linear_time(record: bytes) -> None:
    began = time.perf_counter()
    with pytest.raises(ProtocolError, match=r"^Error reading JSON\. "):
        read(record)
    assert time.perf_counter() - began < 1


def test_half_a_character_becomes_the_replacement_character() -> None:
    """A browser sends half an emoji like this; that must not cost its connection."""
    text = r'{"type":1,"target":"m\ud83d","arguments":["\ud83d\ude00\ud83d","\\ud83d","\udc00x"]}'
    assert read(text) == Invocation(target="m\ufffd", arguments=["😀\ufffd", r"\ud83d", "\ufffdx"])


def test_half_a_character_cannot_be_sent() -> None:
    with pytest.raises(EncodingError, match=r"JSON cannot carry this Completion: .*surrogates"):
        JSON.encode(Completion(invocation_id="1", error="\ud83d"))


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    down_left: float | None = None


class Renamed(msgspec.Struct, rename="camel"):
    first_name: str


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(2000, 1, 1, tzinfo=UTC), '"2000-01-01T00:00:00Z"'),
        (datetime(2000, 1, 1, tzinfo=timezone(timedelta(hours=2))), '"2000-01-01T00:00:00+02:00"'),
        (datetime(2000, 1, 1), '"2000-01-01T00:00:00"'),
        (b"\x01\x02\x03", '"AQID"'),
        (UUID("0F9CB7D4-4E4B-4B4F-8F5E-3A2B6C7D8E9F"), '"0f9cb7d4-4e4b-4b4f-8f5e-3a2b6c7d8e9f"'),
        (Decimal("1.10"), "1.10"),
        (Colour.RED, '"red"'),
        (Point(1), '{"x":1,"down_left":null}'),
        (Renamed("Ada"), '{"firstName":"Ada"}'),
        (10**30, "1" + "0" * 30),
        (2.0, "2.0"),
        (math.nan, "null"),
        (math.inf, "null"),
        ({1: (2, {3})}, '{"1":[2,[3]]}'),
    ],
)
def test_how_a_value_is_written(value: object, text: str) -> None:
    assert arguments_of(value) == f"[{text}]"


class Foreign:
    pass


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Foreign(), "Foreign"),
        (1j, "complex"),
        ((letter for letter in "a"), "generator"),
        ({(1, 2): 3}, "keys"),
        (endless(), "recursion"),
    ],
)
def test_what_cannot_be_written_is_named(value: object, named: str) -> None:
    with pytest.raises(EncodingError, match=rf"^JSON cannot carry this StreamItem: .*{named}"):
        JSON.encode(StreamItem(invocation_id="1", item=value))


def test_numbers_are_read_exactly() -> None:
    message = next(
        JSON.parser().feed(b'{"type":2,"invocationId":"1","item":[%d,-0.5]}\x1e' % 2**70)
    )
    assert isinstance(message, StreamItem) and isinstance(message.item, Raw)
    assert JSON.decoder(list[int | float])(message.item) == [2**70, -0.5]


def test_raw_values_are_sent_on_as_they_came() -> None:
    record = b'{"type":1,"target":"m","arguments":[1,{"a": 2.50}]}\x1e'
    (message,) = JSON.parser().feed(record)
    assert JSON.encode(message) == record


# --- records ---


def test_messages_are_found_wherever_the_stream_is_split() -> None:
    messages = [message for _, message in EXAMPLES]
    stream = b"".join(map(JSON.encode, messages))
    assert parsed(JSON, stream) == messages
    assert parsed(JSON, [stream[at : at + 1] for at in range(len(stream))]) == messages
    assert parsed(JSON, [b"", stream[:7], b"", stream[7:100], stream[100:], b""]) == messages


def test_messages_before_a_broken_one_are_delivered() -> None:
    messages = JSON.parser().feed(b'{"type":6}\x1e{"type":1}\x1e{"type":6}\x1e')
    assert next(messages) == PING
    with pytest.raises(ProtocolError, match="target"):
        next(messages)


@pytest.mark.parametrize("ends", [b"", b"\x1e"])
def test_a_message_over_the_limit_is_refused(ends: bytes) -> None:
    fits = b'{"type":7,"error":"%s"}'
    fits %= b"x" * (1000 - len(fits) + 2)
    assert len(parsed(JSON, fits + b"\x1e", JSON.parser(1000))) == 1
    large = fits + b" "
    for chunks in ([large + ends], [large[:999], large[999:] + ends], [b"\x20" * 500] * 3):
        parser = JSON.parser(1000)
        with pytest.raises(ProtocolError, match="maximum message size of 1000B was exceeded"):
            parsed(JSON, [b'{"type":6}\x1e', *chunks], parser)


def test_an_incomplete_message_is_held_up_to_the_limit_and_no_more() -> None:
    parser = JSON.parser(100_000)
    chunk = bytes(1000)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="maximum message size"):
            for _ in range(1000):
                list(parser.feed(chunk))
        assert tracemalloc.get_traced_memory()[1] < 250_000
    finally:
        tracemalloc.stop()


def test_a_drip_and_a_flood_take_linear_time() -> None:
    record = JSON.encode(Close(error="x" * 200_000))
    began = time.perf_counter()
    parser = JSON.parser(300_000)
    assert sum(len(list(parser.feed(record[at : at + 1]))) for at in range(len(record))) == 1
    assert len(parsed(JSON, JSON.encode(PING) * 50_000)) == 50_000
    assert time.perf_counter() - began < 10
