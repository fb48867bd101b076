"""Cross-origin requests (the Fetch standard, "CORS protocol"): whose pages may use a hub.

An allowed origin may send credentials, so its answers name it; "*" allows everyone, but then
browsers send none. A page of the hub's own host needs no permission, and a request without an
Origin is not a page's.
"""

from __future__ import annotations

import re

from echo.hubs.transports.answer import Answer, Headers
from echo.hubs.transports.request import Request

_METHODS = "GET, POST, DELETE"
# What Microsoft's clients send.
_HEADERS = "authorization, content-type, x-requested-with, x-signalr-user-agent"
_HEADER_LIST = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,1024}")
_SECONDS = "600"


class Origins:
    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._all = "*" in allowed
        self._allowed = {origin.lower() for origin in allowed}

    def refuses(self, request: Request) -> bool:
        """Whether a page asks for a WebSocket that may not: CORS does not apply to those."""
        origin = request.headers.get("origin")
        if not self._allowed or self._all or origin is None or origin.lower() in self._allowed:
            return False
        own = request.headers.get("host", "").lower()
        return not own or origin.lower().partition("://")[2] != own

    def headers(self, request: Request) -> Headers:
        """What an answer to this request says about origins."""
        if not self._allowed:
            return ()
        origin = request.headers.get("origin")
        vary = ("Vary", "Origin")
        if origin is not None and origin.lower() in self._allowed:
            return (
                ("Access-Control-Allow-Origin", origin),
                ("Access-Control-Allow-Credentials", "true"),
                vary,
            )
        return (("Access-Control-Allow-Origin", "*"), vary) if self._all else (vary,)

    def preflight(self, request: Request) -> Answer:
        """The answer to OPTIONS; `headers()` come on top."""
        wanted = request.headers.get("access-control-request-headers", "")
        return Answer(
            204,
            headers=(
                ("Access-Control-Allow-Methods", _METHODS),
                (
                    "Access-Control-Allow-Headers",
                    wanted if _HEADER_LIST.fullmatch(wanted) else _HEADERS,
                ),
                ("Access-Control-Max-Age", _SECONDS),
            ),
        )
