"""Who sends a request: the app says so, for each of them, by a hook of its own.

A client sends its token in the Authorization header, or where it cannot set headers (WebSockets
and server-sent events of a browser) in the query.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from echo.hubs.transports.link import User
from echo.hubs.transports.request import Request

Authenticate: TypeAlias = Callable[[Request, str | None], Awaitable[User | None]]
"""The app's hook: the user who sends a request with this bearer token (None: it has none), or
None if nobody is known by it. It may raise `Unauthorized` or `Forbidden`."""


class Unauthorized(Exception):
    """It is not known who sends the request, or the token is not good: 401."""


class Forbidden(Exception):
    """It is known who sends the request, and they may not: 403."""


def bearer_token(request: Request) -> str | None:
    """The token of a request: of its Authorization header, else of its query."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return request.parameter("access_token") or None


def same_user(one: User | None, other: User | None) -> bool:
    """Whether two requests came from the same user, as far as users have names."""
    return (one.id if one else None) == (other.id if other else None)
