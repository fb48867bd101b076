"""Who the client behind a proxy is, and whether it came by TLS: only trusted proxies are believed.

A trusted peer's X-Forwarded-For and X-Forwarded-Proto change the scope of a request before the
app sees it. The host is the Host header, which a proxy has to pass on; X-Forwarded-Host and
Forwarded are not read, for a proxy that does not know them lets a client's own through. This
layer changes the scope and steps aside: it holds nothing for the life of a WebSocket.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, Final

from echo.websocket.handshake import header

App = Callable[[Any, Any, Any], Awaitable[None]]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

FORWARDED: Final = "echo.forwarded"
"""The key of the scope that is True if a trusted proxy's headers were used."""

_SECURE: Final = {"https": True, "wss": True, "http": False, "ws": False}


class TrustedProxies:
    """Wraps an ASGI app.

    Args:
        app: the app.
        trusted: addresses and networks, and "unix" for every peer on a unix socket.
    """

    def __init__(self, app: App, trusted: Collection[str]) -> None:
        self._app = app
        self._unix = "unix" in trusted
        self._networks = [ipaddress.ip_network(each) for each in trusted if each != "unix"]

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        if scope["type"] != "lifespan" and self._is_trusted(scope.get("client")):
            self._apply(scope)
        return self._app(scope, receive, send)

    def _is_trusted(self, client: Any) -> bool:
        if client is None:  # a unix socket has no address
            return self._unix
        address = _address(client[0]) if self._networks else None
        return address is not None and self._contains(address)

    def _contains(self, address: Address) -> bool:
        return any(address in network for network in self._networks)

    def _apply(self, scope: MutableMapping[str, Any]) -> None:
        client = self._client(header(scope["headers"], b"x-forwarded-for") or "")
        if client is not None:
            scope["client"] = (str(client), 0)  # nobody tells the port
        # The last of several is what the proxy next to us says.
        protos = (header(scope["headers"], b"x-forwarded-proto") or "").split(",")
        secure = _SECURE.get(protos[-1].strip().lower())
        if secure is not None:
            name = "ws" if scope["type"] == "websocket" else "http"
            scope["scheme"] = name + "s" if secure else name
        scope[FORWARDED] = client is not None or secure is not None

    def _client(self, forwarded_for: str) -> Address | None:
        """The last address that is not a trusted proxy's; if all are, the first.

        What stands before an address that makes no sense nobody vouches for.
        """
        client = None
        for text in reversed(forwarded_for.split(",")):
            address = _address(text)
            if address is None or "%" in text:  # the zone is one of another machine
                break
            client = address
            if not self._contains(address):
                break
        return client


def _address(text: str) -> Address | None:
    """An address, also with a port as some proxies write it; IPv4 within IPv6 is IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address
    return address
