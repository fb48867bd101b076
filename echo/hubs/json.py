"""The JSON encoding of the hub protocol: one object a message, each ended by 0x1E.

Almost every message takes one call of msgspec. One that it refuses is looked at again: to say
what is wrong in the words that .NET has for it, to pass over a type that is not known, or to
read what .NET and browsers let pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, get_args

import msgspec
from msgspec import UNSET, Raw

from echo.hubs.depth import MAX_DEPTH, json_is_too_deep
from echo.hubs.framing import SEPARATOR, Records
from echo.hubs.messages import Completion, Message
from echo.hubs.protocol import (
    MAX_MESSAGE_SIZE,
    EncodingError,
    Parser,
    ProtocolError,
    TransferFormat,
)

# Numbers stay numbers, as in .NET, where a Decimal must not become a string.
_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode: Callable[[bytes], Message] = msgspec.json.Decoder(Message).decode
_decode_properties = msgspec.json.Decoder(dict[str, Raw]).decode


class JsonProtocol:
    """The protocol "json": version 2, in text frames."""

    name = "json"
    version = 2
    transfer_format: TransferFormat = "Text"

    def encode(self, message: Message) -> bytes:
        """The message as JSON, with its record separator. Raises `EncodingError`.

        Dates in UTC end in Z, bytes are base64, a UUID is its hyphenated text, an enum its
        value, a Decimal a number. NaN and infinities, which JSON lacks, become null.
        """
        try:
            return _encode(message) + SEPARATOR
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            kind = type(message).__name__
            raise EncodingError(f"JSON cannot carry this {kind}: {error}") from error

    def parser(self, max_message_size: int = MAX_MESSAGE_SIZE) -> Parser:
        """A parser for what one peer sends."""
        return Parser(Records(max_message_size).split, _read)

    def decoder(self, type: object) -> Callable[[Raw], object]:
        """A function that converts what a peer sent to `type`."""
        return msgspec.json.Decoder(type).decode


def _read(record: bytes) -> Message | None:
    if len(record) > 2 * MAX_DEPTH:
        check_depth(record)
    message: Message | None
    try:
        message = _decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = _read_again(record, error)
    if type(message) is Completion and message.error is not None and message.result is not UNSET:
        raise ProtocolError("The 'error' and 'result' properties are mutually exclusive.")
    return message


def check_depth(record: bytes) -> None:
    """Refuse what nests too deep for .NET."""
    if json_is_too_deep(record):
        raise ProtocolError(f"Error reading JSON. It nests deeper than {MAX_DEPTH} levels.")


def read_properties(record: bytes) -> dict[str, Raw]:
    """The properties of an object, undecoded. Raises `ProtocolError`."""
    try:
        return _decode_properties(record)
    except msgspec.ValidationError:
        name = _NAMES.get(record.lstrip(b" \t\r\n")[:1], "Number")
        raise ProtocolError(
            f"Unexpected JSON Token Type '{name}'. Expected a JSON Object."
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"Error reading JSON. {error}") from None


# --- the second look ---

_FIELDS = {kind.__struct_config__.tag: msgspec.structs.fields(kind) for kind in get_args(Message)}
_NAMES = {
    b"{": "Object",
    b"[": "Array",
    b'"': "String",
    b"t": "True",
    b"f": "False",
    b"n": "Null",
}
_EXPECTED = {
    "invocationId": "of type String",
    "target": "of type String",
    "error": "of type String",
    "headers": "of type Object",
    "streamIds": "of type Array",
    "sequenceId": "of type Number",
    "allowReconnect": "true or false",
}

# An escaped pair of surrogates, one alone, or any other escape.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def _read_again(record: bytes, error: Exception) -> Message | None:
    """Read, pass over (None) or explain a record that was refused with `error`."""
    if isinstance(error, UnicodeDecodeError):
        raise ProtocolError(f"Error reading JSON. {error}") from error
    # JavaScript escapes half a character, of an emoji that was cut in two. A browser that has to
    # encode one itself makes it U+FFFD; so do we, or it would cost the connection.
    record = _ESCAPE.sub(lambda found: rb"\ufffd" if found[1] else found[0], record)
    properties = read_properties(record)
    if "type" not in properties:
        raise ProtocolError("Missing required property 'type'.") from error
    if not fits(properties["type"], int):
        raise ProtocolError("Expected 'type' to be of type Number.") from error
    fields = _FIELDS.get(msgspec.json.decode(properties["type"], type=int))
    if fields is None:
        return None  # of a later version of the protocol
    missing = None
    for field in fields:
        name = field.encode_name
        value = properties.get(name)
        if value is None or _stands_for_nothing(value, field):
            properties.pop(name, None)
            missing = missing or (name if field.required else None)
        elif not fits(value, field.type):
            raise ProtocolError(_complaint(name, value)) from error
    if missing:
        raise ProtocolError(f"Missing required property '{missing}'.") from error
    try:
        return _decode(_encode(properties))
    except (msgspec.DecodeError, UnicodeDecodeError) as malformed:
        raise ProtocolError(f"Error reading JSON. {malformed}") from malformed


def _stands_for_nothing(value: Raw, field: msgspec.structs.FieldInfo) -> bool:
    """Whether the property counts as absent: an empty name, or a null that is no value."""
    if field.encode_name in ("invocationId", "target"):
        return bytes(value) == b'""'
    return not field.required and field.type is not Raw and bytes(value) == b"null"


def fits(value: Raw, type: Any) -> bool:
    """Whether an undecoded value is of this type."""
    try:
        msgspec.json.decode(value, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def _complaint(name: str, value: Raw) -> str:
    if name == "headers" and fits(value, dict[str, Raw]):
        for header, text in msgspec.json.decode(value, type=dict[str, Raw]).items():
            if not fits(text, str):
                return f"Expected header '{header}' to be of type String."
    return f"Expected '{name}' to be {_EXPECTED[name]}."
