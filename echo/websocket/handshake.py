"""The opening handshake (RFC 6455 section 4, RFC 8441), as far as it needs no server.

Whether a request asks for a WebSocket, and if not, why, in one sentence for whoever sent it;
and whether a page may connect (section 10.2). Nothing here waits.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass

Headers = Iterable[tuple[bytes, bytes]]

VERSION = "13"

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"([!-~\x80-\xff]([ \t!-~\x80-\xff]*[!-~\x80-\xff])?)?")


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer to a request that is no WebSocket handshake."""

    status: int
    sentence: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


def refusal(method: str, http_version: str, headers: Headers) -> Refusal | None:
    """Why this request is no WebSocket handshake, or None if it is one (section 4.2.1)."""
    found: dict[str, str] = {}
    for name, value in headers:
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1").strip()
        found[key] = f"{found[key]}, {text}" if key in found else text
    if http_version.startswith("1"):
        if method != "GET":
            return Refusal(400, f"A WebSocket handshake is a GET request, not {method}.")
        if "websocket" not in _tokens(found.get("upgrade", "")):
            return Refusal(400, "This is a WebSocket: the header 'Upgrade: websocket' is missing.")
        if "upgrade" not in _tokens(found.get("connection", "")):
            return Refusal(400, "This is a WebSocket: the header 'Connection: Upgrade' is missing.")
        if http_version == "1.0":
            return Refusal(400, "A WebSocket handshake needs HTTP/1.1; this request is HTTP/1.0.")
    version = found.get("sec-websocket-version")
    if version is None:
        return Refusal(400, "This is a WebSocket: the header Sec-WebSocket-Version is missing.")
    if VERSION not in _tokens(version):
        return Refusal(
            426 if http_version.startswith("1") else 400,
            f"WebSocket version {VERSION} is the only one here.",
            ((b"sec-websocket-version", VERSION.encode()),),
        )
    if http_version.startswith("1"):
        if "sec-websocket-key" not in found:
            return Refusal(400, "This is a WebSocket: the header Sec-WebSocket-Key is missing.")
        if not _is_key(found["sec-websocket-key"]):
            return Refusal(400, "The header Sec-WebSocket-Key is not 16 bytes in base64.")
    return None


def _tokens(value: str) -> list[str]:
    return [token.strip().lower() for token in value.split(",")]


def _is_key(value: str) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def header(headers: Headers, name: bytes) -> str | None:
    """A header's value; several of one name are one list (RFC 9110 section 5.3)."""
    values = [value.decode("latin-1").strip() for key, value in headers if key.lower() == name]
    return ", ".join(values) if values else None


def encode_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Headers for an answer, in the shape of ASGI (RFC 9110 section 5.5).

    Raises:
        ValueError: a name is no token, or a value holds what could begin another line.
    """
    encoded = []
    for name, value in headers:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError(f"{name!r}: {value!r} cannot be a header: see RFC 9110 section 5.5")
        encoded.append((name.lower().encode(), value.encode("latin-1")))
    return encoded


def origin_allowed(origin: str | None, allowed: tuple[str, ...]) -> bool:
    """Whether a page of this origin may connect. No origin: it is no browser's page."""
    if not allowed or "*" in allowed or origin is None:
        return True
    return origin.lower() in {one.lower() for one in allowed}
