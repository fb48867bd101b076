"""The messages of the SignalR hub protocol, named as its specification names them.

Each class is at once the JSON form of its message: its tag is the `type`, its fields are the
properties, in the order in which .NET writes them, and what is at its default is left out. What
a peer sent as arguments, item or result stays undecoded (`msgspec.Raw`) until somebody knows the
types to convert it to; what is sent is any value that msgspec can encode.
"""

from __future__ import annotations

from collections import abc
from typing import TYPE_CHECKING, Annotated, TypeAlias

from msgspec import UNSET, Meta, Raw, Struct

if TYPE_CHECKING:
    Arguments: TypeAlias = abc.Sequence[object] | Raw
    """Arguments to send, or the whole undecoded array that came."""
    Value: TypeAlias = object
    """A value to send, or the `Raw` that came."""
else:  # what the decoder is to make of them
    Arguments = Value = Raw

Headers: TypeAlias = dict[str, str]
Text: TypeAlias = Annotated[str, Meta(min_length=1)]


class _Message(Struct, frozen=True, omit_defaults=True, rename="camel", tag_field="type"):
    """What all messages have in common: how JSON writes them."""


class Invocation(_Message, frozen=True, tag=1, kw_only=True):
    """A call of `target`. Without an `invocation_id` nobody waits for its completion."""

    headers: Headers | None = None
    invocation_id: Text | None = None
    target: Text
    arguments: Arguments
    stream_ids: tuple[str, ...] = ()
    """The streams that the caller sends to this call, in the order of its parameters."""


class StreamItem(_Message, frozen=True, tag=2, kw_only=True):
    """One item of a stream, in either direction."""

    headers: Headers | None = None
    invocation_id: Text
    item: Value


class Completion(_Message, frozen=True, tag=3, kw_only=True):
    """The end of a call or of an uploaded stream. Has an `error`, or a `result`, or neither."""

    headers: Headers | None = None
    invocation_id: Text
    error: str | None = None
    result: Value = UNSET
    """`UNSET` when the call has no result; `None` is a result."""


class StreamInvocation(_Message, frozen=True, tag=4, kw_only=True):
    """A call of a method that answers with stream items."""

    headers: Headers | None = None
    invocation_id: Text
    target: Text
    arguments: Arguments
    stream_ids: tuple[str, ...] = ()


class CancelInvocation(_Message, frozen=True, tag=5, kw_only=True):
    """The caller no longer wants the result or the stream."""

    headers: Headers | None = None
    invocation_id: Text


class Ping(_Message, frozen=True, tag=6):
    """A sign of life."""


class Close(_Message, frozen=True, tag=7, kw_only=True):
    """The sender ends the connection; `allow_reconnect` invites the client to come back."""

    error: str | None = None
    allow_reconnect: bool = False


class Ack(_Message, frozen=True, tag=8, kw_only=True):
    """All messages up to `sequence_id` have arrived (stateful reconnect)."""

    sequence_id: int


class Sequence(_Message, frozen=True, tag=9, kw_only=True):
    """The next message has the number `sequence_id` (stateful reconnect)."""

    sequence_id: int


Message: TypeAlias = (
    Invocation
    | StreamItem
    | Completion
    | StreamInvocation
    | CancelInvocation
    | Ping
    | Close
    | Ack
    | Sequence
)

PING = Ping()


class HandshakeRequest(Struct, frozen=True):
    """The client's first words: the protocol that it wants to speak, and its version."""

    protocol: str
    version: int


class HandshakeResponse(Struct, frozen=True, omit_defaults=True):
    """The server's answer; the connection is open unless there is an `error`."""

    error: str | None = None
