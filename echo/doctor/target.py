"""What is examined: a URL as people type it, taken apart once.

http, https, ws and wss are understood, a bare host, host:port, and unix:/path for the service
behind its proxy. The path of a ws URL is the WebSocket's, that of an http URL is the page's.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

_DEFAULT_PORTS: Final = {False: 80, True: 443}


class TargetError(ValueError):
    """This cannot be examined; `str()` is one line that says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the service is said to be."""

    host: str
    """A name or an address, without brackets; "localhost" for a unix socket."""
    port: int | None
    """None: a bare host; 443 is tried, then 80."""
    tls: bool | None
    """None: the URL does not say; the server is asked."""
    path: str = "/ws"
    """Of the WebSocket, with its query."""
    page: str = "/"
    unix: str | None = None
    """The path of a unix socket, instead of host and port."""

    @property
    def authority(self) -> str:
        """As in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = self.port is None or self.port == _DEFAULT_PORTS[bool(self.tls)]
        return host if default or self.unix else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """Of the pages that come from here."""
        return f"{'https' if self.tls else 'http'}://{self.authority}"

    @property
    def location(self) -> str:
        """The path without the query, as a location block names it."""
        return self.path.partition("?")[0]

    def __str__(self) -> str:
        if self.unix:
            return f"unix:{self.unix}"
        return self.origin if self.tls is not None else self.authority

    @property
    def on_loopback(self) -> bool:
        """Whether the host is this machine by its name or address."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost" or self.host.endswith(".localhost")


def parse(text: str, path: str | None = None) -> Target:
    """The target that `text` names; `path` is the WebSocket's if the URL does not say.

    Raises:
        TargetError: it names none.
    """
    if not re.fullmatch(r"[^\s\x00-\x20\x7f]+", text):
        raise TargetError("a URL has no blanks")
    if path is not None and not path.startswith("/"):
        raise TargetError(f"the path {path!r} does not begin with /")
    chosen = _quoted(path or "/ws")
    if text.startswith("unix:"):
        if not text.startswith("unix:/"):
            raise TargetError("a unix socket is named by its whole path: unix:/run/echo.sock")
        return Target("localhost", None, False, chosen, unix=text.removeprefix("unix:"))
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text
    if scheme.lower() not in {"", "http", "https", "ws", "wss"}:
        raise TargetError(f"{scheme}:// is not http, https, ws or wss")
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise TargetError(f"{text!r} is not a URL: {error}") from None
    if not host or port == 0:
        raise TargetError(f"{text!r} names no {'host' if not host else 'port'}")
    if parts.username is not None:
        raise TargetError("a URL with a user name is not sent to anybody")
    tls = {"": None}.get(scheme, scheme.lower() in {"https", "wss"})
    own = _quoted(parts.path + (f"?{parts.query}" if parts.query else ""))
    page = "/"
    if own not in {"", "/"}:
        if scheme.lower() in {"ws", "wss"}:
            chosen = chosen if path else own
        else:
            page = own
    return Target(_encoded(host), port or _default_port(tls), tls, chosen, page)


def _default_port(tls: bool | None) -> int | None:
    return None if tls is None else _DEFAULT_PORTS[tls]


def _quoted(path: str) -> str:
    return "".join(
        each if "!" <= each <= "~" and each != "#" else "".join(f"%{b:02X}" for b in each.encode())
        for each in path
    )


def _encoded(host: str) -> str:
    """The name as DNS and HTTP know it."""
    if ":" in host:
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError:
            raise TargetError(f"{host!r} is not an IPv6 address") from None
    try:
        encoded = host.encode("idna").decode()
    except UnicodeError:
        encoded = ""
    if not re.fullmatch(r"[a-z0-9_]([a-z0-9_.-]*)", encoded) or len(encoded) > 253:
        raise TargetError(f"{host!r} is not a host name")
    return encoded
