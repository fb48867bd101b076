"""The bytes between nodes: those that ASP.NET Core publishes as examples, and what is refused."""

from __future__ import annotations

import msgspec
import pytest

from echo.hubs.backplane import wire
from echo.hubs.backplane.wire import ADD, REMOVE, Channels, GroupCommand, HubCall, Malformed
from echo.hubs.framing import length_prefix
from echo.hubs.messages import Completion, Invocation
from echo.hubs.protocol import HubProtocol
from tests.hubs.support import JSON, MESSAGEPACK, decoded

# From src/SignalR/server/StackExchangeRedis/test/RedisProtocolTests.cs of dotnet/aspnetcore, where
# each protocol encodes everything as one byte, 2a.
FORMS = {"p1": b"*", "p2": b"*"}
ACKS = {
    0: "91 00",
    42: "91 2a",
    180: "91 cc b4",
    384: "91 cd 01 80",
    70_000: "91 ce 00 01 11 70",
}
COMMANDS = {
    GroupCommand(42, "S", ADD, "G", "C"): "95 2a a1 53 01 a1 47 a1 43",
    GroupCommand(42, "S", REMOVE, "G", "C"): "95 2a a1 53 02 a1 47 a1 43",
}
CALLS = {
    "": "92 90 82 a2 70 31 c4 01 2a a2 70 32 c4 01 2a",
    "a": "92 91 a1 61 82 a2 70 31 c4 01 2a a2 70 32 c4 01 2a",
    "abcdef": ("92 96 a1 61 a1 62 a1 63 a1 64 a1 65 a1 66 82 a2 70 31 c4 01 2a a2 70 32 c4 01 2a"),
}
RESULTS = {
    ("json", b'{"type":3,"invocationId":"1","result":1}'): (
        "92 a4 6a 73 6f 6e c4 28 7b 22 74 79 70 65 22 3a 33 2c 22 69 6e 76 6f 63 61 74 69 6f 6e 49"
        "64 22 3a 22 31 22 2c 22 72 65 73 75 6c 74 22 3a 31 7d"
    ),
    ("messagepack", bytes.fromhex("95 03 80 a3 78 79 7a 03 2a")): (
        "92 ab 6d 65 73 73 61 67 65 70 61 63 6b c4 09 95 03 80 a3 78 79 7a 03 2a"
    ),
}


@pytest.mark.parametrize("id", ACKS)
def test_acks(id: int) -> None:
    data = bytes.fromhex(ACKS[id])
    assert wire.encode_ack(id) == data
    assert wire.decode_ack(data) == id


@pytest.mark.parametrize("command", COMMANDS)
def test_group_commands(command: GroupCommand) -> None:
    data = bytes.fromhex(COMMANDS[command])
    assert wire.encode_command(command) == data
    assert wire.decode_command(data) == command


@pytest.mark.parametrize("excluded", CALLS)
def test_calls(excluded: str) -> None:
    data = bytes.fromhex(CALLS[excluded])
    assert wire.encode_call(FORMS, excluded) == data
    assert wire.decode_call(data) == HubCall(list(excluded), FORMS)


@pytest.mark.parametrize(("protocol", "message"), RESULTS)
def test_client_results(protocol: str, message: bytes) -> None:
    assert wire.encode_result(protocol, message) == bytes.fromhex(RESULTS[protocol, message])


def test_calls_that_are_to_be_answered() -> None:
    """Laid out as RedisProtocol.cs says; there is no example of it."""
    data = wire.encode_call(FORMS, (), "i", "r")
    assert data == bytes.fromhex("94 90 82 a2 70 31 c4 01 2a a2 70 32 c4 01 2a a1 69 a1 72")
    assert wire.decode_call(data) == HubCall([], FORMS, "i", "r")


@pytest.mark.parametrize("protocol", [JSON, MESSAGEPACK], ids=lambda each: each.name)
def test_client_results_are_read_in_their_framing(protocol: HubProtocol) -> None:
    """As .NET forwards them, unlike its examples."""
    answer = Completion(invocation_id="1", result=[1, "ü"])
    data = wire.encode_result(protocol.name, protocol.encode(answer))
    found, spoken = wire.decode_result(data)
    assert spoken.name == protocol.name
    assert decoded(found, protocol) == answer


def test_what_later_versions_add_is_ignored() -> None:
    assert wire.decode_ack(bytes.fromhex("92 2a c0")) == 42
    command = GroupCommand(42, "S", ADD, "G", "C")
    assert wire.decode_command(bytes.fromhex("96 2a a1 53 01 a1 47 a1 43 90")) == command
    call = bytes.fromhex("95 90 80 a1 69 a1 72 c3")
    assert wire.decode_call(call) == HubCall([], {}, "i", "r")


def test_channels_are_named_as_in_dotnet() -> None:
    channels = Channels("Chat.ChatHub")
    assert channels.all == "Chat.ChatHub:all"
    assert channels.connection + "c" == "Chat.ChatHub:connection:c"
    assert channels.group + "g" == "Chat.ChatHub:group:g"
    assert channels.user + "u" == "Chat.ChatHub:user:u"
    assert channels.groups == "Chat.ChatHub:internal:groups"
    assert channels.ack + "n" == "Chat.ChatHub:internal:ack:n"
    assert channels.returns + "n" == "Chat.ChatHub:internal:return:n"


MALFORMED = [
    b"",
    b"\xff",
    b"\x90",
    b"\x91\xc0",
    b"hello",
    b"\x92\x90\x80\x00",  # and more behind it
    b"\x92\x91\x01\x80",
    b"\x92\x90\x81\xa1a\xa1b",  # text for binary
    b"\x92\x90\x81\xa1\xff\xc4\x00",  # not UTF-8
    b"\xdd\xff\xff\xff\xff",  # the length of much
    b"\x91" * 100_000,
    b"\x95\x01\xa1S\x03\xa1G\xa1C",  # no such action
    b"\x92\xa1x\xc4\x00",  # no such protocol
    b"\x92\xa4json\xc4\x00",
]


@pytest.mark.parametrize("data", MALFORMED, ids=lambda data: repr(data[:12]))
def test_what_is_malformed_is_refused(data: bytes) -> None:
    for decode in (wire.decode_call, wire.decode_command, wire.decode_result):
        with pytest.raises(Malformed):
            decode(data)
    if data[:1] != b"\x95":  # which begins with an id
        with pytest.raises(Malformed):
            wire.decode_ack(data)


@pytest.mark.parametrize("protocol", [JSON, MESSAGEPACK], ids=lambda each: each.name)
def test_a_form_is_one_whole_message(protocol: HubProtocol) -> None:
    for size in (0, 100, 200, 20_000, 3_000_000):
        for text in ("x", "ü"):
            data = protocol.encode(Invocation(target="a", arguments=[text * size]))
            assert wire.read_form(protocol, data, Invocation).target == "a"
            wire.check_call(protocol, data)
            for wrong in (b"", data[:-1], data[1:], data + data, data + data[:1], data + b"x"):
                refuse(protocol, wrong)
    refuse(protocol, protocol.encode(Completion(invocation_id="1")))


def refuse(protocol: HubProtocol, form: bytes) -> None:
    with pytest.raises(Malformed):
        wire.read_form(protocol, form, Invocation)
    with pytest.raises(Malformed):
        wire.check_call(protocol, form)


def test_text_is_utf8_throughout() -> None:
    refuse(JSON, b'{"type":1,"target":"a","arguments":["\xff"]}\x1e')


def test_what_nests_too_deep_is_refused_in_the_end() -> None:
    refuse(JSON, b'{"type":1,"target":"a","arguments":' + b"[" * 99_999 + b"]" * 99_999 + b"}\x1e")
    body = b"\x96\x01\x80\xc0\xa1a" + b"\x91" * 16_000 + b"\x90\x90"
    refuse(MESSAGEPACK, length_prefix(len(body)) + body)


def test_a_call_is_read_by_any_messagepack() -> None:
    data = wire.encode_call({"json": JSON.encode(Invocation(target="a", arguments=[1]))}, ["x"])
    form = b'{"type":1,"target":"a","arguments":[1]}\x1e'
    assert msgspec.msgpack.decode(data) == [["x"], {"json": form}]
