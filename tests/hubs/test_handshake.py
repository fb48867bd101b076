"""The handshake: what asks for a protocol, what comes behind it, and what is refused."""

from __future__ import annotations

import pytest

from echo.hubs.handshake import (
    HandshakeParser,
    HandshakeRefused,
    choose_protocol,
    encode_handshake,
)
from echo.hubs.messages import PING, HandshakeRequest, HandshakeResponse
from echo.hubs.protocol import ProtocolError, TransferFormat
from tests.hubs.support import JSON, MESSAGEPACK, PROTOCOLS, parsed


def read(data: bytes) -> HandshakeRequest:
    answer = HandshakeParser().feed(data + b"\x1e")
    assert answer is not None and answer[1] == b""
    return answer[0]


def test_the_published_forms() -> None:
    request = HandshakeRequest("messagepack", 1)
    record = b'{"protocol":"messagepack","version":1}\x1e'
    assert encode_handshake(request) == record
    assert HandshakeParser().feed(record) == (request, b"")
    assert encode_handshake(HandshakeResponse()) == b"{}\x1e"
    refusal = HandshakeResponse(error="Requested protocol 'messagepack' is not available.")
    assert encode_handshake(refusal) == (
        b'{"error":"Requested protocol \'messagepack\' is not available."}\x1e'
    )


@pytest.mark.parametrize(
    ("record", "request_"),
    [
        (b'{"version":10,"protocol":""}', HandshakeRequest("", 10)),
        (b'{"protocol":"dummy","unknown":null,"version":-1}', HandshakeRequest("dummy", -1)),
        (b' {"protocol" : "j\\u0073on", "version": 0} ', HandshakeRequest("json", 0)),
    ],
)
def test_any_order_and_unknown_properties_are_read(
    record: bytes, request_: HandshakeRequest
) -> None:
    assert read(record) == request_


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_what_comes_behind_the_request_is_handed_on(size: int) -> None:
    request = HandshakeRequest("messagepack", 1)
    behind = MESSAGEPACK.encode(PING) * 2
    stream = encode_handshake(request) + behind
    parser = HandshakeParser()
    chunks = [stream[at : at + size] for at in range(0, len(stream), size)]
    while (answer := parser.feed(chunks.pop(0))) is None:
        pass
    assert answer[0] == request
    assert parsed(MESSAGEPACK, [answer[1], *chunks]) == [PING, PING]


@pytest.mark.parametrize(
    ("record", "error"),
    [
        ("42", "Unexpected JSON Token Type 'Number'. Expected a JSON Object."),
        ('"42"', "Unexpected JSON Token Type 'String'. Expected a JSON Object."),
        ("null", "Unexpected JSON Token Type 'Null'. Expected a JSON Object."),
        ("[]", "Unexpected JSON Token Type 'Array'. Expected a JSON Object."),
        ("{}", "Missing required property 'protocol'. Message content: {}"),
        (
            '{"protocol":"json"}',
            'Missing required property \'version\'. Message content: {"protocol":"json"}',
        ),
        (
            '{"version":1}',
            "Missing required property 'protocol'. Message content: {\"version\":1}",
        ),
        ('{"version":"123"}', "Expected 'version' to be of type Number."),
        ('{"protocol":"json","version":true}', "Expected 'version' to be of type Number."),
        ('{"protocol":null,"version":123}', "Expected 'protocol' to be of type String."),
    ],
)
def test_a_wrong_request_is_explained_in_the_words_of_dotnet(record: str, error: str) -> None:
    with pytest.raises(ProtocolError) as raised:
        read(record.encode())
    assert str(raised.value) == error


@pytest.mark.parametrize("record", [b"", b"GET / HTTP/1.1\r\n", b'{"a":"\xff"', b"[" * 30_000])
def test_what_is_no_json_is_refused(record: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"^Error reading JSON\. "):
        read(record)


def test_an_error_shows_no_more_than_the_beginning_of_a_request() -> None:
    with pytest.raises(ProtocolError) as raised:
        read(b'{"x":"%s"}' % (b"x" * 30_000))
    assert len(str(raised.value)) < 300


def test_a_request_over_the_limit_is_refused_before_it_ends() -> None:
    parser = HandshakeParser(100)
    assert parser.feed(b" " * 100) is None
    with pytest.raises(ProtocolError, match="maximum message size of 100B was exceeded"):
        parser.feed(b" ")
    with pytest.raises(ProtocolError, match="maximum message size"):
        HandshakeParser(10).feed(encode_handshake(HandshakeRequest("json", 1)))
    behind = b"x" * 1000
    answer = HandshakeParser(100).feed(encode_handshake(HandshakeRequest("json", 1)) + behind)
    assert answer == (HandshakeRequest("json", 1), behind)


@pytest.mark.parametrize("version", [-1, 0, 1, 2])
def test_every_version_up_to_2_gets_its_protocol(version: int) -> None:
    assert choose_protocol(HandshakeRequest("json", version), PROTOCOLS) is JSON
    assert choose_protocol(HandshakeRequest("MessagePack", version), PROTOCOLS) is MESSAGEPACK


BOTH: tuple[TransferFormat, ...] = ("Text", "Binary")


@pytest.mark.parametrize(
    ("name", "version", "formats", "error"),
    [
        ("dummy", 1, BOTH, "The protocol 'dummy' is not supported."),
        ("", 1, BOTH, "The protocol '' is not supported."),
        ("json", 3, BOTH, "The server does not support version 3 of the 'json' protocol."),
        (
            "messagepack",
            1,
            ("Text",),
            "Cannot use the 'messagepack' protocol on the current transport. "
            "The transport does not support 'Binary' transfer format.",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_in_the_words_of_dotnet(
    name: str, version: int, formats: tuple[TransferFormat, ...], error: str
) -> None:
    with pytest.raises(HandshakeRefused) as raised:
        choose_protocol(HandshakeRequest(name, version), PROTOCOLS, formats)
    assert str(raised.value) == error
