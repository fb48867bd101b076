"""Small answers for those who look after the service: monitors, proxies, and `doctor`.

    /healthz    200 as long as the process turns
    /readyz     200 with the number of open sockets, and how the backplane is if there is one;
                503 while the process drains
    /whoami     how the service sees the client; as a WebSocket, one message
    /ticks      four server-sent events, a quarter of a second apart

While the process drains, every other request gets 503: it may be asked again at once, of the
process that comes next.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import AsyncIterator
from typing import Any

import trio
from quart import Response, request, websocket
from quart_trio import QuartTrio

from echo.hosting.lifecycle import Lifecycle
from echo.hosting.proxies import FORWARDED
from echo.hubs.backplane import Backplane
from echo.websocket import accept
from echo.websocket.handshake import header

_FRESH = {"Cache-Control": "no-store"}
_RETRY = {**_FRESH, "Retry-After": "1"}

# What is answered while the process drains.
_ALWAYS = ("/healthz", "/readyz", "/metrics")

_TICKS = 4
_TICK = 0.25  # seconds

# What proxies say of a client.
_PROXIES = (b"x-forwarded-for", b"forwarded", b"x-real-ip", b"via")

Answer = tuple[dict[str, Any], int, dict[str, str]]


def use_probes(app: QuartTrio, lifecycle: Lifecycle, backplane: Backplane | None = None) -> None:
    """Add the routes to an app that went through `use_websockets()`."""

    @app.before_request
    async def refuse_while_draining() -> Response | None:
        if not lifecycle.draining or request.path in _ALWAYS:
            return None
        text = "The server is shutting down.\n"
        return Response(text, 503, _RETRY, content_type="text/plain; charset=utf-8")

    @app.get("/healthz")
    async def healthz() -> Answer:
        return {"status": "ok"}, 200, _FRESH

    @app.get("/readyz")
    async def readyz() -> Answer:
        if lifecycle.draining:
            return {"status": "draining"}, 503, _RETRY
        answer: dict[str, Any] = {"status": "ready", "sockets": lifecycle.sockets()}
        if backplane is not None:
            # Ready all the same: without it clients are served, but for what comes from others.
            answer["backplane"] = backplane.away or "connected"
        return answer, 200, _FRESH

    @app.get("/whoami")
    async def whoami() -> Answer:
        return _seen(request.scope), 200, _FRESH

    @app.websocket("/whoami")
    async def whoami_by_websocket() -> None:
        async with accept() as socket:
            await socket.send(json.dumps(_seen(websocket.scope)))

    @app.get("/ticks")
    async def ticks() -> Response:
        async def events() -> AsyncIterator[bytes]:
            for number in range(_TICKS):
                if number:
                    await trio.sleep(_TICK)
                yield b"data: %d\n\n" % number

        # nginx would hold them back until the end.
        headers = {**_FRESH, "X-Accel-Buffering": "no"}
        return Response(events(), headers=headers, content_type="text/event-stream")


def asked_from_here(scope: Any) -> bool:
    """Whether a request comes from this machine, as far as anybody we trust can tell.

    Who is asked by a proxy that is not trusted does not know where from.
    """
    if not scope.get(FORWARDED, False) and any(
        header(scope["headers"], name) is not None for name in _PROXIES
    ):
        return False
    client = scope.get("client")
    if client is None:  # a unix socket
        return True
    try:
        address = ipaddress.ip_address(client[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _seen(scope: Any) -> dict[str, Any]:
    """How the service sees the client: what proxies have said of it included."""
    client = scope.get("client")
    return {
        "client": client[0] if client is not None else None,
        "scheme": scope["scheme"],
        "host": header(scope["headers"], b"host"),
        "http_version": scope["http_version"],
        "forwarded": scope.get(FORWARDED, False),
    }
