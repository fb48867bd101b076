"""Microsoft's JavaScript client reads what we write and writes what we read."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from echo.hubs.binding import BindingError, Converter
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
from echo.hubs.protocol import HubProtocol
from tests.hubs.node import run_script
from tests.hubs.support import JSON, PROTOCOLS, parsed

MOMENT = datetime(2024, 2, 29, 12, 0, 0, 5000, tzinfo=UTC)

# What we write, and what the client is to see in it. Its types are those of the specification.
OURS: list[tuple[Message, dict[str, Any]]] = [
    (
        Invocation(target="Show", arguments=[42, -1.5, "ä😀\x1e", None, True, [1], {"a": 2**40}]),
        {
            "type": 1,
            "target": "Show",
            "arguments": [42, -1.5, "ä😀\x1e", None, True, [1], {"a": 2**40}],
        },
    ),
    (
        Invocation(headers={"a": "b"}, invocation_id="7", target="Ask", arguments=("now?",)),
        {
            "type": 1,
            "headers": {"a": "b"},
            "invocationId": "7",
            "target": "Ask",
            "arguments": ["now?"],
        },
    ),
    (
        StreamItem(invocation_id="1", item={"x": [1]}),
        {"type": 2, "invocationId": "1", "item": {"x": [1]}},
    ),
    (StreamItem(invocation_id="1", item=None), {"type": 2, "invocationId": "1", "item": None}),
    (Completion(invocation_id="1"), {"type": 3, "invocationId": "1"}),
    (Completion(invocation_id="1", result=None), {"type": 3, "invocationId": "1", "result": None}),
    (Completion(invocation_id="1", result=0), {"type": 3, "invocationId": "1", "result": 0}),
    (Completion(invocation_id="1", error="no"), {"type": 3, "invocationId": "1", "error": "no"}),
    (PING, {"type": 6}),
    (Close(error="over"), {"type": 7, "error": "over"}),
    (Close(allow_reconnect=True), {"type": 7, "allowReconnect": True}),
    (Ack(sequence_id=5_000_000_000), {"type": 8, "sequenceId": 5_000_000_000}),
    (Sequence(sequence_id=1), {"type": 9, "sequenceId": 1}),
]
VALUES = [MOMENT, b"\x00\xff"]
SEEN_IN_JSON = ["2024-02-29T12:00:00.005000Z", "AP8="]
SEEN_IN_MESSAGEPACK = [{"date": "2024-02-29T12:00:00.005Z"}, {"bytes": "AP8="}]

THEIRS: list[Message] = [
    Invocation(target="Send", arguments=[42, "Test Message", -1.5, None, True, [], {}]),
    Invocation(invocation_id="1", target="Send", arguments=[{"a": [{"b": "ä😀\x1e"}]}]),
    Invocation(target="Send", arguments=[2**31, -(2**40), 2**53 - 1, 1e300]),
    Invocation(target="Send", arguments=["no streams"]),
    Invocation(invocation_id="2", target="Send", arguments=[], stream_ids=("3", "4")),
    StreamInvocation(invocation_id="5", target="Send", arguments=[10]),
    StreamItem(invocation_id="3", item={"x": 1}),
    StreamItem(invocation_id="3", item=None),
    Completion(invocation_id="3"),
    Completion(invocation_id="6", result=None),
    Completion(invocation_id="6", result=[1]),
    Completion(invocation_id="6", error="Client didn't provide a result."),
    CancelInvocation(invocation_id="5"),
    PING,
    Close(),
    Ack(sequence_id=3),
    Sequence(sequence_id=5_000_000_000),
]


@pytest.fixture(scope="module")
def answer() -> Any:
    """What the client read and wrote, by protocol."""
    messages = [message for message, _ in OURS]
    messages.append(Invocation(target="Show", arguments=VALUES))
    ours = {
        protocol.name: [base64.b64encode(protocol.encode(each)).decode() for each in messages]
        for protocol in PROTOCOLS
    }
    return json.loads(run_script(Path(__file__).with_name("protocols.js"), json.dumps(ours)))


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda each: each.name)
def test_the_client_reads_what_we_write(answer: Any, protocol: Any) -> None:
    read = answer[protocol.name]["read"]
    for (message, expected), [seen] in zip(OURS, read[:-1], strict=True):
        for optional in ("headers", "streamIds", "error", "allowReconnect"):
            # The MessagePack client fills in what its JSON brother leaves out.
            if seen.get(optional) in (None, [], {}, False):
                seen.pop(optional, None)
        assert seen == expected, message
    in_json = protocol is JSON
    assert read[-1][0]["arguments"] == (SEEN_IN_JSON if in_json else SEEN_IN_MESSAGEPACK)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda each: each.name)
def test_we_read_what_the_client_writes(answer: Any, protocol: Any) -> None:
    written = [base64.b64decode(frame) for frame in answer[protocol.name]["written"]]
    *frames, half, moment, binary = written
    assert parsed(protocol, frames) == THEIRS
    assert arguments(protocol, moment, datetime) == [MOMENT]
    if protocol is JSON:
        assert arguments(protocol, half, str) == ["half \ufffd"]
        assert arguments(protocol, binary, dict[int, int]) == [{0: 0, 1: 255}]
    else:
        with pytest.raises(BindingError):  # it is not UTF-8
            arguments(protocol, half, str)
        assert arguments(protocol, binary, bytes) == [b"\x00\xff"]


def arguments(protocol: HubProtocol, frame: bytes, kind: Any) -> Any:
    """The arguments, each of this type, of the call in this frame."""
    (message,) = protocol.parser().feed(frame)
    assert isinstance(message, Invocation)
    return Converter(list[kind]).convert(message.arguments, protocol)
