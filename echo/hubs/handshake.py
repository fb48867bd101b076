"""The first record each way: which protocol the client wants, and whether it gets it.

Always JSON in a record that ends in 0x1E, whatever protocol follows and whatever frames carry
it. What the client sends right behind its request belongs to the parser of that protocol.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from echo.hubs.framing import SEPARATOR, too_large
from echo.hubs.json import check_depth, fits, read_properties
from echo.hubs.messages import HandshakeRequest, HandshakeResponse
from echo.hubs.protocol import MAX_MESSAGE_SIZE, HubProtocol, ProtocolError, TransferFormat

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(HandshakeRequest).decode

_MOST_SHOWN = 200  # bytes of a wrong request


class HandshakeRefused(ProtocolError):
    """The client asks for what is not to be had; `str()` is the `error` to answer."""


class HandshakeParser:
    """Waits for a client's handshake request. Of anything else it holds `max_message_size`."""

    __slots__ = ("_held", "_most")

    def __init__(self, max_message_size: int = MAX_MESSAGE_SIZE) -> None:
        self._most = max_message_size
        self._held = bytearray()

    def feed(self, data: bytes) -> tuple[HandshakeRequest, bytes] | None:
        """The request and the bytes behind it, or None until it is complete.

        Raises `ProtocolError` if this is no handshake request.
        """
        record, separator, rest = data.partition(SEPARATOR)
        if len(self._held) + len(record) > self._most:
            raise too_large(self._most)
        self._held += record
        return (_read(bytes(self._held)), rest) if separator else None


def encode_handshake(message: HandshakeRequest | HandshakeResponse) -> bytes:
    """The request or response as a record, ready to send."""
    return _encode(message) + SEPARATOR


def choose_protocol(
    request: HandshakeRequest,
    protocols: Iterable[HubProtocol],
    transfer_formats: Collection[TransferFormat] = ("Text", "Binary"),
) -> HubProtocol:
    """The protocol that the client asks for; `transfer_formats` is what its transport carries.

    Raises `HandshakeRefused` in .NET's words.
    """
    name = request.protocol
    for protocol in protocols:
        if protocol.name == name.lower():
            break
    else:
        raise HandshakeRefused(f"The protocol '{name}' is not supported.")
    if request.version > protocol.version:
        raise HandshakeRefused(
            f"The server does not support version {request.version} of the '{name}' protocol."
        )
    if protocol.transfer_format not in transfer_formats:
        raise HandshakeRefused(
            f"Cannot use the '{protocol.name}' protocol on the current transport. The transport "
            f"does not support '{protocol.transfer_format}' transfer format."
        )
    return protocol


def _read(record: bytes) -> HandshakeRequest:
    check_depth(record)
    try:
        return _decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(_explain(record)) from error


def _explain(record: bytes) -> str:
    """Why this is no handshake request, in .NET's words."""
    properties = read_properties(record)
    kinds: tuple[tuple[str, type, str], ...]
    kinds = (("protocol", str, "String"), ("version", int, "Number"))
    for name, kind, called in kinds:
        if name in properties and not fits(properties[name], kind):
            return f"Expected '{name}' to be of type {called}."
    missing = "version" if "protocol" in properties else "protocol"
    content = record[:_MOST_SHOWN].decode(errors="replace")
    return f"Missing required property '{missing}'. Message content: {content}"
