"""Negotiate: the client asks what is to be had, and gets an id and a token to connect with.

The token addresses the connection and is its client's secret. The public id is made of the token,
not the other way round, so that any process can tell it. Only version 0, which knows no token,
takes the id for both.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from secrets import token_urlsafe
from typing import Any, TypeAlias

import msgspec

from echo.hubs.transports.answer import Answer
from echo.hubs.transports.link import User
from echo.hubs.transports.options import ConnectionOptions, Transport
from echo.hubs.transports.request import Request

_VERSION = 1
_TOKEN = re.compile(r"([A-Za-z0-9-]{1,32}\.)?[A-Za-z0-9_-]{22}")
_INTEGER = re.compile(r"\s*[+-]?[0-9]{1,9}\s*")

_FORMATS: dict[Transport, tuple[str, ...]] = {
    "WebSockets": ("Text", "Binary"),
    "ServerSentEvents": ("Text",),
    "LongPolling": ("Text", "Binary"),
}


@dataclass(frozen=True, slots=True)
class Redirect:
    """An answer of the app's hook: negotiate again, there."""

    url: str
    access_token: str | None = field(default=None, repr=False)
    """To be sent there in the place of the client's own."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer of the app's hook: no; the client reports the error."""

    error: str


NegotiateHook: TypeAlias = Callable[[Request, User | None], Awaitable[Redirect | Refusal | None]]
"""Asked before each negotiation; None lets it go on here."""


class NegotiateError(Exception):
    """The client asks for a version that is not to be had; `str()` is the `error` to answer."""


@dataclass(frozen=True, slots=True)
class Negotiated:
    """A client that may connect."""

    id: str
    token: str = field(repr=False)
    version: int = _VERSION
    stateful: bool = False


def new_client(options: ConnectionOptions) -> Negotiated:
    """A client that nobody knows yet."""
    token = token_urlsafe(16)
    if options.node:
        token = f"{options.node}.{token}"
    return Negotiated(_public_id(token), token)


def client_of(token: str) -> Negotiated | None:
    """The client that another process gave this token; None if none can have."""
    return Negotiated(_public_id(token), token) if _TOKEN.fullmatch(token) else None


def _public_id(token: str) -> str:
    """16 bytes in base64url, from which the token cannot be told."""
    digest = hashlib.sha256(token.encode()).digest()
    return base64.urlsafe_b64encode(digest[:16]).rstrip(b"=").decode()


def negotiate(request: Request, options: ConnectionOptions) -> Negotiated:
    """What this request is to get. Raises `NegotiateError`."""
    wanted = request.parameter("negotiateversion") or "0"
    if not _INTEGER.fullmatch(wanted):
        raise NegotiateError("The client requested a non-integer protocol version.")
    version = int(wanted)
    least = options.minimum_protocol_version if options.sticky else 1
    if version < least:
        raise NegotiateError(
            f"The client requested version '{version}', but the server does not support this "
            "version."
        )
    wants_stateful = request.parameter("usestatefulreconnect").strip().lower() == "true"
    stateful = wants_stateful and options.allow_stateful_reconnect and options.sticky
    client = new_client(options)
    if version == 0:
        return Negotiated(client.token, client.token, 0, stateful)
    return Negotiated(client.id, client.token, stateful=stateful)


def answer_negotiation(
    outcome: Negotiated | Redirect | Refusal, transports: tuple[Transport, ...] = ()
) -> Answer:
    """The answer that tells the client."""
    content: dict[str, Any]
    if isinstance(outcome, Refusal):
        content = {"error": outcome.error}
    elif isinstance(outcome, Redirect):
        content = {"url": outcome.url}
        if outcome.access_token is not None:
            content["accessToken"] = outcome.access_token
    else:
        content = {"negotiateVersion": outcome.version, "connectionId": outcome.id}
        if outcome.version > 0:
            content["connectionToken"] = outcome.token
        if outcome.stateful:
            content["useStatefulReconnect"] = True
        content["availableTransports"] = [
            {"transport": each, "transferFormats": _FORMATS[each]} for each in transports
        ]
    return Answer(200, msgspec.json.encode(content), content_type="application/json")
