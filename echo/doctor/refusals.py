"""What a refused request means: from the status, the headers and the words of an answer.

Pure judgement, nothing here asks the server. Who speaks matters as much as what is said: nginx
says 404 when it has no location, the service when it does not know the path it was given.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from echo.doctor.causes import connection, handshake
from echo.doctor.report import Cause, shown
from echo.doctor.wire import Response

_REDIRECTS: Final = {301, 302, 303, 307, 308}

_OWN_PAGES: Final = (
    ("nginx", re.compile(r"<hr><center>(nginx|openresty)\b")),
    ("HAProxy", re.compile(r"^<html><body><h1>\d{3} .*</h1>\n", re.MULTILINE)),
    ("Apache", re.compile(r"<address>Apache/")),
    ("lighttpd", re.compile(r"<title>\d{3} [^<]*</title>.*lighttpd", re.DOTALL)),
)
"""How proxies word the errors that they answer themselves."""

_SERVERS: Final = ("nginx", "openresty", "Caddy", "Apache", "hypercorn", "cloudflare", "lighttpd")


def front_of(response: Response) -> str:
    """The program that answers, as far as it says; "" if it does not."""
    named = " ".join(response.headers.get(each, "") for each in ("server", "via")).lower()
    for name in _SERVERS:
        if name.lower() in named:
            return "nginx" if name == "openresty" else name
    return author_of(response)


def author_of(response: Response) -> str:
    """The proxy that wrote this answer itself; "" if the answer may be the service's."""
    for name, page in _OWN_PAGES:
        if page.search(response.text[:2000]):
            return name
    caddy = response.headers.get("server", "").lower() == "caddy"
    return "Caddy" if caddy and not response.body and response.status >= 400 else ""


def describe(response: Response) -> str:
    """The answer in a few words, for the finding."""
    author = author_of(response)
    if author:
        return f"{response.status}, from {author} itself"
    if response.status in _REDIRECTS:
        return f"{response.status} to {shown(response.headers.get('location', 'nowhere'))}"
    kind = response.headers.get("content-type", "")
    if response.body and kind.startswith("text/plain"):
        return f"{response.status}: {shown(response.body)}"
    return str(response.status)


def explain(response: Response, *, tls: bool) -> Cause:
    """Why a request was answered like this, and not with the 101 or the page it asked for.

    `tls` tells whether it came by TLS: only from plain HTTP is a redirect the way to HTTPS.
    """
    special = _BY_STATUS.get(response.status)
    if special is not None:
        return special(response)
    if 200 <= response.status < 300:
        return handshake.SERVES_PAGE
    if response.status in _REDIRECTS:
        place = response.headers.get("location", "").lower()
        to_tls = not tls and place.startswith(("https:", "wss:"))
        return handshake.REDIRECTED_TO_TLS if to_tls else handshake.REDIRECTED
    return handshake.SERVICE_ERROR if response.status >= 500 else handshake.UNEXPECTED


def _bad_request(response: Response) -> Cause:
    """400: the one status whose words say most."""
    words = shown(response.body, 2000)
    if "plain HTTP request was sent to HTTPS port" in words:
        return connection.TLS_UNEXPECTED
    # The first three are Echo's own words; other servers say it in words much like these.
    for pattern, cause in (
        (r"'Upgrade: websocket' is missing|(missing|invalid|no) .?upgrade.? header",
         handshake.UPGRADE_LOST),
        (r"'Connection: Upgrade' is missing|(missing|invalid|no) .?connection.? header",
         handshake.CONNECTION_LOST),
        (r"HTTP/1\.0|needs HTTP/1\.1", handshake.UPSTREAM_HTTP10),
        (r"Sec-WebSocket-\w+", handshake.HEADERS_LOST),
    ):  # fmt: skip
        if re.search(pattern, words, re.IGNORECASE):
            return cause
    return handshake.BAD_REQUEST


def _not_found(response: Response) -> Cause:
    return handshake.NOT_ROUTED if author_of(response) else handshake.PATH_UNKNOWN


def _upgrade_required(response: Response) -> Cause:
    if "sec-websocket-version" in response.headers:
        return handshake.VERSION_REFUSED
    return handshake.SWITCHED_OFF


def _unavailable(response: Response) -> Cause:
    """503 is nginx' default for what its limits refuse; others mean it."""
    if author_of(response) == "nginx":
        return handshake.LIMITED
    if "shutting down" in response.text[:200] or "draining" in response.text[:200]:
        return handshake.DRAINING
    return handshake.UNAVAILABLE


_BY_STATUS: Final[dict[int, Callable[[Response], Cause]]] = {
    400: _bad_request,
    401: lambda _: handshake.PASSWORD,
    403: lambda _: handshake.FORBIDDEN,
    404: _not_found,
    426: _upgrade_required,
    429: lambda _: handshake.LIMITED,
    502: lambda _: handshake.UPSTREAM_DOWN,
    503: _unavailable,
    504: lambda _: handshake.UPSTREAM_FROZEN,
}
