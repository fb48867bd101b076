"""What nodes tell each other, in the layout of ASP.NET Core's Redis backplane. Bytes only.

Every message is a MessagePack array; elements beyond those that are known are ignored. What may
come from anybody who reaches the engine is checked here: a `Malformed` disturbs nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeVar

import msgspec
from msgspec import Raw, Struct

from echo.hubs.framing import SEPARATOR, length_prefix
from echo.hubs.json import JsonProtocol
from echo.hubs.messagepack import MessagePackProtocol
from echo.hubs.messages import Completion, Invocation, Message
from echo.hubs.protocol import HubProtocol, ProtocolError

T = TypeVar("T")

PROTOCOLS: Mapping[str, HubProtocol] = {
    each.name: each for each in (JsonProtocol(), MessagePackProtocol())
}
"""The hub protocols that can be read, by name."""

ADD: Literal[1] = 1
REMOVE: Literal[2] = 2

_MOST_PREFIX = 5  # bytes of a length


class Malformed(Exception):
    """What came over a channel is not what belongs there; `str()` is one sentence."""


class Channels:
    """The names of a hub's channels, or what they begin with.

    Args:
        hub: the name of the hub, the same on all nodes.
    """

    __slots__ = ("ack", "all", "connection", "group", "groups", "returns", "user")

    def __init__(self, hub: str) -> None:
        self.all = f"{hub}:all"
        """Calls of all clients."""
        self.connection = f"{hub}:connection:"
        """Calls of one client, whose id follows."""
        self.group = f"{hub}:group:"
        """Calls of a group, whose name follows."""
        self.user = f"{hub}:user:"
        """Calls of a user, whose id follows."""
        self.groups = f"{hub}:internal:groups"
        """Changes of groups, for all nodes."""
        self.ack = f"{hub}:internal:ack:"
        """What a node, whose name follows, is told of the changes that it wanted."""
        self.returns = f"{hub}:internal:return:"
        """Client results for a node, whose name follows."""


class HubCall(Struct, array_like=True, frozen=True, omit_defaults=True):
    """A call of clients."""

    excluded: list[str]
    """Connection ids that are not called."""
    forms: dict[str, bytes]
    """The call in each hub protocol, in its framing."""
    invocation_id: str | None = None
    """Under which the client answers, if it is to."""
    return_channel: str | None = None
    """Where the answer goes."""


class GroupCommand(Struct, array_like=True, frozen=True):
    """A change of a group that the node of the connection is to make, and to acknowledge."""

    id: int
    node: str
    """Who wants to know."""
    action: Literal[1, 2]
    group: str
    connection_id: str


class _Ack(Struct, array_like=True, frozen=True):
    id: int


class _Result(Struct, array_like=True, frozen=True):
    protocol: str
    message: bytes


class _ArrayCall(Struct, array_like=True, tag=1):
    """An Invocation in MessagePack."""

    headers: dict[str, str] | None
    invocation_id: str | None
    target: str
    arguments: Raw


_encode = msgspec.msgpack.Encoder().encode
_decode_call = msgspec.msgpack.Decoder(HubCall).decode
_decode_command = msgspec.msgpack.Decoder(GroupCommand).decode
_decode_ack = msgspec.msgpack.Decoder(_Ack).decode
_decode_result = msgspec.msgpack.Decoder(_Result).decode
_decode_json_call = msgspec.json.Decoder(Invocation).decode
_decode_array_call = msgspec.msgpack.Decoder(_ArrayCall).decode


def encode_call(
    forms: Mapping[str, bytes],
    excluded: Iterable[str] = (),
    invocation_id: str | None = None,
    return_channel: str | None = None,
) -> bytes:
    """A call; the last two if clients are to answer."""
    call = (list(excluded), forms)
    return _encode(call if return_channel is None else (*call, invocation_id, return_channel))


def decode_call(data: bytes) -> HubCall:
    """Raises `Malformed`. The forms are as they came: see `read_form()`."""
    return _decoded(_decode_call, data)


def encode_command(command: GroupCommand) -> bytes:
    """A change of a group."""
    return _encode(command)


def decode_command(data: bytes) -> GroupCommand:
    """Raises `Malformed`."""
    return _decoded(_decode_command, data)


def encode_ack(id: int) -> bytes:
    """That the command with this id is done."""
    return _encode((id,))


def decode_ack(data: bytes) -> int:
    """The id of the command that is done. Raises `Malformed`."""
    return _decoded(_decode_ack, data).id


def encode_result(protocol: str, message: bytes) -> bytes:
    """A client's answer: a Completion in a hub protocol, in its framing."""
    return _encode((protocol, message))


def decode_result(data: bytes) -> tuple[Completion, HubProtocol]:
    """A client's answer, its result not decoded. Raises `Malformed`."""
    result = _decoded(_decode_result, data)
    protocol = PROTOCOLS.get(result.protocol)
    if protocol is None:
        raise Malformed(f"a client result in {result.protocol[:40]!r}, which is not known")
    return read_form(protocol, result.message, Completion), protocol


def read_form(protocol: HubProtocol, data: bytes, kind: type[T]) -> T:
    """The one message that `data` is, of this kind. Raises `Malformed`."""
    try:
        if protocol.transfer_format == "Text" and not data.isascii():
            data.decode()  # the parser leaves arguments as they are
        messages: list[Message] = list(protocol.parser(len(data)).feed(data))
    except (ProtocolError, UnicodeDecodeError) as error:
        raise Malformed(f"{protocol.name}: {error}") from error
    if len(messages) == 1 and _is_whole(protocol, data):
        (message,) = messages
        if isinstance(message, kind):
            return message
    raise Malformed(f"{protocol.name}: not one {kind.__name__}")


def check_call(protocol: HubProtocol, data: bytes) -> None:
    """Refuse what is not one Invocation: no client must get it. Raises `Malformed`."""
    try:
        if protocol.transfer_format == "Binary":
            size = _prefix_size(data)
            if size:
                _decode_array_call(memoryview(data)[size:])
                return
        elif data.isascii() and data.find(SEPARATOR) == len(data) - 1:
            _decode_json_call(memoryview(data)[:-1])
            return
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass  # what is unusual is not always wrong
    read_form(protocol, data, Invocation)


def _is_whole(protocol: HubProtocol, data: bytes) -> bool:
    """Whether nothing incomplete follows the last message; there is one message in `data`."""
    if protocol.transfer_format == "Text":
        return data.endswith(SEPARATOR)
    return _prefix_size(data) > 0


def _prefix_size(data: bytes) -> int:
    """The bytes of the length that the rest of `data` has; 0 if it has another."""
    for size in range(1, min(len(data), _MOST_PREFIX) + 1):
        if data.startswith(length_prefix(len(data) - size)) and data[size - 1] <= 0x7F:
            return size
    return 0


def _decoded(decode: Callable[[bytes], T], data: bytes) -> T:
    try:
        return decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error)) from error
