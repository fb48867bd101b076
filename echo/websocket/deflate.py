"""permessage-deflate (RFC 7692): what is agreed in the handshake, and the two zlib streams.

Inflating is pulled, never pushed: the decoder asks for so many bytes and no more come, so a
bomb costs what the caller allows. Nothing here waits.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

# Level 1 makes 98 MB/s of JSON, 0.29 of its size; zlib's default 38 MB/s and 0.26 (measured
# 2026-11). While zlib works no other socket is served.
LEVEL = 1

# Each makes a new zlib stream, for two bytes of input: more than a few are an attack.
_MOST_FINAL_BLOCKS = 16

END_OF_MESSAGE = b"\x00\x00\xff\xff"  # section 7.2.1: removed on the wire, put back to inflate


@dataclass(frozen=True, slots=True)
class Agreement:
    """What both sides agreed on (section 7.1)."""

    server_context_takeover: bool
    client_context_takeover: bool
    server_max_window_bits: int
    client_max_window_bits: int
    response: str
    """The Sec-WebSocket-Extensions header that says so."""


def negotiate(
    header: str, *, server_context_takeover: bool = True, server_max_window_bits: int = 15
) -> Agreement | None:
    """Take the first acceptable offer of a client's Sec-WebSocket-Extensions header.

    None when there is none: the connection then goes on uncompressed (section 5).
    """
    for name, parameters in _offers(header):
        if name == "permessage-deflate" and parameters is not None:
            agreement = _accept(parameters, server_context_takeover, server_max_window_bits)
            if agreement is not None:
                return agreement
    return None


def _accept(
    parameters: dict[str, str | None], takeover: bool, window_bits: int
) -> Agreement | None:
    answer = ["permessage-deflate"]
    client_takeover = True
    client_bits = 15
    asked_bits: int | None = None
    for name, value in parameters.items():
        if name == "server_no_context_takeover" and value is None:
            takeover = False
        elif name == "client_no_context_takeover" and value is None:
            client_takeover = False
        elif name == "server_max_window_bits" and value is not None:
            # zlib cannot make a raw stream with a window of 2**8 bytes.
            if value not in _WINDOW_BITS or value == "8":
                return None
            asked_bits = int(value)
            window_bits = min(window_bits, asked_bits)
        elif name == "client_max_window_bits":
            if value is not None and (value not in _WINDOW_BITS or value == "8"):
                return None
            client_bits = int(value or 15)
        else:
            return None
    if not takeover:
        answer.append("server_no_context_takeover")
    if not client_takeover:
        answer.append("client_no_context_takeover")
    if asked_bits is not None or window_bits < 15:
        answer.append(f"server_max_window_bits={window_bits}")
    if "client_max_window_bits" in parameters:
        answer.append(f"client_max_window_bits={client_bits}")
    return Agreement(takeover, client_takeover, window_bits, client_bits, "; ".join(answer))


_WINDOW_BITS = {str(bits) for bits in range(8, 16)}
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_OFFER = re.compile(r'(?:[^,"]+|"[^"]*"?)+')
_PARAMETER = re.compile(rf'[ \t]*({_TOKEN})[ \t]*(?:=[ \t]*(?:({_TOKEN})|"({_TOKEN})")[ \t]*)?')


def _offers(header: str) -> Iterator[tuple[str, dict[str, str | None] | None]]:
    """The offers of a header; an offer's parameters are None where one is wrong or stands twice.

    The patterns leave no two ways to match, so a hostile header costs linear time.
    """
    for part in _OFFER.findall(header):
        name, *rest = part.split(";")
        yield name.strip().lower(), _parameters(rest)


def _parameters(texts: list[str]) -> dict[str, str | None] | None:
    found: dict[str, str | None] = {}
    for text in texts:
        match = _PARAMETER.fullmatch(text)
        if match is None or match[1] in found:
            return None
        found[match[1]] = match[2] or match[3]
    return found


class Inflater:
    """Inflates the messages of one peer. zlib's window is made when it is first needed."""

    __slots__ = ("_anew", "_bits", "_input", "_keep", "_zlib")

    def __init__(self, agreement: Agreement) -> None:
        self._anew = 0  # how often this message made zlib begin anew
        self._bits = agreement.client_max_window_bits
        self._keep = agreement.client_context_takeover
        self._zlib: zlib._Decompress | None = None
        self._input = b""

    def push(self, data: bytes, *, ends: bool) -> None:
        """Add compressed bytes; `ends` when they are the last of their message."""
        self._input += data
        if ends:
            self._input += END_OF_MESSAGE

    def pull(self, limit: int) -> bytes:
        """Inflate at most `limit` bytes; none means that more input is needed.

        Raises:
            ValueError: the input is no deflate stream.
        """
        while True:
            if self._zlib is None:
                self._zlib = zlib.decompressobj(-self._bits)
            try:
                out = self._zlib.decompress(self._input, limit)
            except zlib.error as error:
                raise ValueError(str(error)) from error
            self._input = self._zlib.unconsumed_tail
            if self._zlib.eof:  # a block marked final (section 7.2.3.4): the next begins anew
                self._input = self._zlib.unused_data
                self._zlib = None
                self._anew += 1
                if self._anew > _MOST_FINAL_BLOCKS:
                    raise ValueError("too many final blocks")
            if out or not self._input:
                return out

    def end(self) -> None:
        """A message has ended."""
        self._anew = 0
        if not self._keep:
            self._zlib = None


class Deflater:
    """Deflates our messages. zlib's window is made when it is first needed."""

    __slots__ = ("_bits", "_keep", "_zlib")

    def __init__(self, agreement: Agreement) -> None:
        self._bits = agreement.server_max_window_bits
        self._keep = agreement.server_context_takeover
        self._zlib: zlib._Compress | None = None

    def deflate(self, data: bytes, *, ends: bool) -> bytes:
        """Deflate a part of a message; `ends` when it is the last."""
        if self._zlib is None:
            self._zlib = zlib.compressobj(LEVEL, wbits=-self._bits)
        out = self._zlib.compress(data) + self._zlib.flush(zlib.Z_SYNC_FLUSH)
        if ends:
            out = out[:-4]
            if not self._keep:
                self._zlib = None
        return out
