"""What the rest of the hub layer knows of a protocol: bytes to messages, messages to bytes.

Nothing here waits. A peer's mistake is a `ProtocolError` and ends its connection; a value of
our own that has no form on the wire is an `EncodingError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, Protocol, TypeAlias

from msgspec import Raw

from echo.hubs.messages import Message

MAX_MESSAGE_SIZE = 32 * 1024
"""Bytes of one message, without its framing, that are accepted unless told otherwise."""

TransferFormat: TypeAlias = Literal["Text", "Binary"]


class ProtocolError(Exception):
    """The peer broke the protocol: its connection has to end. `str()` is one sentence."""


class EncodingError(Exception):
    """A message of ours holds a value that the protocol cannot carry; `str()` says which."""


class HubProtocol(Protocol):
    """One encoding of the messages. An instance has no state and serves all connections."""

    @property
    def name(self) -> str:
        """What a client asks for in its handshake, in lower case."""

    @property
    def version(self) -> int:
        """The highest version that is spoken; all lower ones are too."""

    @property
    def transfer_format(self) -> TransferFormat:
        """What a transport must carry for it."""

    def encode(self, message: Message) -> bytes:
        """The message in its framing, ready to send. Raises `EncodingError`."""

    def parser(self, max_message_size: int = MAX_MESSAGE_SIZE) -> Parser:
        """A parser for what one peer sends."""

    def decoder(self, type: object) -> Callable[[Raw], object]:
        """A function that converts what a peer sent to `type`.

        Raises TypeError if the type cannot be converted to. The function raises what msgspec
        and the type's own code raise: see `echo.hubs.binding`.
        """


class Parser:
    """Reads the messages of one peer from its bytes, wherever these were split.

    What is held of an incomplete message is at most `max_message_size` bytes and its framing.

    Args:
        split: takes bytes, gives the messages that they complete, still encoded.
        decode: makes a message of one of them; None if its type is not known.
    """

    __slots__ = ("_decode", "_split")

    def __init__(
        self, split: Callable[[bytes], Iterable[bytes]], decode: Callable[[bytes], Message | None]
    ) -> None:
        self._split = split
        self._decode = decode

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that `data` completes, each decoded when it is asked for.

        Take them all before the next call. Raises `ProtocolError` in the place of the first
        message that breaks the protocol; after that there is nothing more to feed.
        """
        return filter(None, map(self._decode, self._split(data)))
