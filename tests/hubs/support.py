"""What the tests of the protocols share: messages with their values decoded, to compare."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from echo.hubs.json import JsonProtocol
from echo.hubs.messagepack import MessagePackProtocol
from echo.hubs.messages import Message
from echo.hubs.protocol import HubProtocol, Parser

JSON = JsonProtocol()
MESSAGEPACK = MessagePackProtocol()
PROTOCOLS: tuple[HubProtocol, ...] = (JSON, MESSAGEPACK)


def decoded(message: Message, protocol: HubProtocol) -> Message:
    """The message with what came undecoded decoded."""
    decode = protocol.decoder(Any)
    values = msgspec.structs.asdict(message)
    raw = {name: decode(value) for name, value in values.items() if isinstance(value, Raw)}
    return msgspec.structs.replace(message, **raw)


def note_encodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the protocols that encode a message from now on, once for each time."""
    encoded: list[str] = []

    def count(kind: type[HubProtocol]) -> None:
        encode = kind.encode

        def counted(protocol: HubProtocol, message: Message) -> bytes:
            encoded.append(protocol.name)
            return encode(protocol, message)

        monkeypatch.setattr(kind, "encode", counted)

    count(JsonProtocol)
    count(MessagePackProtocol)
    return encoded


def parsed(
    protocol: HubProtocol, chunks: bytes | Iterable[bytes], parser: Parser | None = None
) -> list[Message]:
    """All messages in these bytes."""
    parser = parser or protocol.parser()
    chunks = [chunks] if isinstance(chunks, bytes) else chunks
    return [decoded(message, protocol) for chunk in chunks for message in parser.feed(chunk)]
