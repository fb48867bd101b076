"""The MessagePack encoding of the hub protocol: one array a message, each after its length.

The arrays are read by msgspec as the classes of this module, which know the order of the
elements; elements beyond them are ignored. One that msgspec refuses is looked at again: to say
what is wrong in .NET's words, or to pass over a type that is not known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import msgspec
from msgspec import UNSET, Raw, Struct

from echo.hubs.depth import MAX_DEPTH, messagepack_is_too_deep
from echo.hubs.framing import Frames, length_prefix
from echo.hubs.messages import (
    PING,
    Ack,
    CancelInvocation,
    Close,
    Completion,
    Headers,
    Invocation,
    Message,
    Ping,
    Sequence,
    StreamInvocation,
    StreamItem,
    Text,
)
from echo.hubs.protocol import (
    MAX_MESSAGE_SIZE,
    EncodingError,
    Parser,
    ProtocolError,
    TransferFormat,
)


class MessagePackProtocol:
    """The protocol "messagepack": version 2, in binary frames."""

    name = "messagepack"
    version = 2
    transfer_format: TransferFormat = "Binary"

    def encode(self, message: Message) -> bytes:
        """The message as MessagePack, after its length. Raises `EncodingError`.

        Dates with a zone become timestamps, dates without one stay text; bytes are binary, a
        UUID is its hyphenated text, an enum its value, a Decimal its text.
        """
        try:
            body = _encode(_ARRAYS[type(message)](message))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            kind = type(message).__name__
            raise EncodingError(f"MessagePack cannot carry this {kind}: {error}") from error
        return length_prefix(len(body)) + body

    def parser(self, max_message_size: int = MAX_MESSAGE_SIZE) -> Parser:
        """A parser for what one peer sends."""
        return Parser(Frames(max_message_size).split, _read)

    def decoder(self, type: object) -> Callable[[Raw], object]:
        """A function that converts what a peer sent to `type`."""
        return msgspec.msgpack.Decoder(type).decode


# --- the arrays ---

_ERROR, _VOID, _VALUE = 1, 2, 3  # what a Completion holds
_NOTHING = Raw()


class _Array(Struct, array_like=True, rename="camel"):
    def message(self) -> Message:
        raise NotImplementedError


class _Invocation(_Array, tag=1):
    headers: Headers | None
    invocation_id: str | None
    target: Text
    arguments: Raw
    stream_ids: tuple[str, ...] | None = None  # old clients leave it out

    def message(self) -> Message:
        return Invocation(
            headers=self.headers or None,
            invocation_id=self.invocation_id or None,
            target=self.target,
            arguments=self.arguments,
            stream_ids=self.stream_ids or (),
        )


class _StreamItem(_Array, tag=2):
    headers: Headers | None
    invocation_id: Text
    item: Raw

    def message(self) -> Message:
        return StreamItem(
            headers=self.headers or None, invocation_id=self.invocation_id, item=self.item
        )


class _Completion(_Array, tag=3):
    headers: Headers | None
    invocation_id: Text
    result_kind: int
    payload: Raw = _NOTHING

    def message(self) -> Message:
        error: str | None = None
        result: object = UNSET
        if self.result_kind == _VALUE:
            if self.payload is _NOTHING:
                raise ProtocolError("Reading 'result' failed.")
            result = self.payload
        elif self.result_kind == _ERROR:
            if not _fits(self.payload, str):
                raise ProtocolError("Reading 'error' as String failed.")
            error = msgspec.msgpack.decode(self.payload, type=str)
        elif self.result_kind != _VOID:
            raise ProtocolError("Invalid invocation result kind.")
        return Completion(
            headers=self.headers or None,
            invocation_id=self.invocation_id,
            error=error,
            result=result,
        )


class _StreamInvocation(_Array, tag=4):
    headers: Headers | None
    invocation_id: Text
    target: Text
    arguments: Raw
    stream_ids: tuple[str, ...] | None = None

    def message(self) -> Message:
        return StreamInvocation(
            headers=self.headers or None,
            invocation_id=self.invocation_id,
            target=self.target,
            arguments=self.arguments,
            stream_ids=self.stream_ids or (),
        )


class _CancelInvocation(_Array, tag=5):
    headers: Headers | None
    invocation_id: Text

    def message(self) -> Message:
        return CancelInvocation(headers=self.headers or None, invocation_id=self.invocation_id)


class _Ping(_Array, tag=6):
    def message(self) -> Message:
        return PING


class _Close(_Array, tag=7):
    error: str | None
    allow_reconnect: bool = False

    def message(self) -> Message:
        return Close(error=self.error, allow_reconnect=self.allow_reconnect)


class _Ack(_Array, tag=8):
    sequence_id: int

    def message(self) -> Message:
        return Ack(sequence_id=self.sequence_id)


class _Sequence(_Array, tag=9):
    sequence_id: int

    def message(self) -> Message:
        return Sequence(sequence_id=self.sequence_id)


_AnyArray = (
    _Invocation
    | _StreamItem
    | _Completion
    | _StreamInvocation
    | _CancelInvocation
    | _Ping
    | _Close
    | _Ack
    | _Sequence
)

_encode = msgspec.msgpack.Encoder().encode
_decode: Callable[[bytes], _Array] = msgspec.msgpack.Decoder(_AnyArray).decode
_decode_elements = msgspec.msgpack.Decoder(list[Raw]).decode


# --- writing: headers are always a map, the JavaScript client insists on it ---


def _call(tag: int) -> Callable[[Any], object]:
    def array(message: Invocation | StreamInvocation) -> object:
        return (
            tag,
            message.headers or {},
            message.invocation_id,
            message.target,
            message.arguments,
            message.stream_ids,
        )

    return array


def _completion(message: Completion) -> object:
    start = (3, message.headers or {}, message.invocation_id)
    if message.error is not None:
        return (*start, _ERROR, message.error)
    if message.result is UNSET:
        return (*start, _VOID)
    return (*start, _VALUE, message.result)


_ARRAYS: dict[type, Callable[[Any], object]] = {
    Invocation: _call(1),
    StreamItem: lambda message: (2, message.headers or {}, message.invocation_id, message.item),
    Completion: _completion,
    StreamInvocation: _call(4),
    CancelInvocation: lambda message: (5, message.headers or {}, message.invocation_id),
    Ping: lambda message: (6,),
    Close: lambda message: (7, message.error, message.allow_reconnect),
    Ack: lambda message: (8, message.sequence_id),
    Sequence: lambda message: (9, message.sequence_id),
}


# --- reading ---


def _read(body: bytes) -> Message | None:
    if len(body) > MAX_DEPTH and messagepack_is_too_deep(body):
        raise ProtocolError(f"Error reading MessagePack. It nests deeper than {MAX_DEPTH} levels.")
    try:
        array = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _pass_over(body, error)
        return None
    return array.message()


_FIELDS = {kind.__struct_config__.tag: msgspec.structs.fields(kind) for kind in get_args(_AnyArray)}
_FAILED = {
    "headers": "Reading map length for 'headers' failed.",
    "arguments": "Reading array length for 'arguments' failed.",
    "streamIds": "Reading array length for 'streamIds' failed.",
    "item": "Reading 'item' failed.",
    "invocationId": "Reading 'invocationId' as String failed.",
    "target": "Reading 'target' as String failed.",
    "error": "Reading 'error' as String failed.",
    "resultKind": "Reading 'resultKind' as Int32 failed.",
    "sequenceId": "Reading 'sequenceId' as Int64 failed.",
    "allowReconnect": "Reading 'allowReconnect' as Boolean failed.",
}


def _pass_over(body: bytes, error: Exception) -> None:
    """Pass over a message of a type that is not known; explain any other, refused with `error`."""
    try:
        elements = _decode_elements(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ProtocolError(f"Error reading MessagePack. {error}") from error
    if not elements or not _fits(elements[0], int):
        raise ProtocolError("Reading 'messageType' as Int32 failed.") from error
    fields = _FIELDS.get(msgspec.msgpack.decode(elements[0], type=int))
    if fields is None:
        return
    for place, field in enumerate(fields, 1):
        there = place < len(elements)
        if (field.required and not there) or (there and not _fits(elements[place], field.type)):
            raise ProtocolError(_FAILED[field.encode_name]) from error
    raise ProtocolError(f"Error reading MessagePack. {error}") from error


def _fits(value: Raw, type: Any) -> bool:
    try:
        msgspec.msgpack.decode(value, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True
