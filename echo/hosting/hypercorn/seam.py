"""From an ASGI `send` of Hypercorn to the bytes beneath it, whichever way they travel."""

from __future__ import annotations

import base64
import hashlib
from time import time
from typing import Any

from hypercorn.protocol.events import Response
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.trio.tcp_server import TCPServer

from echo.hosting.guest import Bridged
from echo.hosting.hypercorn import http1, http2
from echo.hosting.hypercorn.upgrade import Upgrade
from echo.websocket.carriers import Server
from echo.websocket.socket import WebSocket

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


class HypercornSeam:
    """See `echo.websocket.carriers.Seam`."""

    def server(self, send: Any) -> Server | None:
        bridged = isinstance(send, Bridged)
        stream = getattr(send.__wrapped__ if bridged else send, "__self__", None)
        if not isinstance(stream, Upgrade | WSStream | HTTPStream):
            return None
        terminated = stream.context.terminated.wait
        if bridged:  # the asyncio worker's event is not Trio's to wait for
            terminated = send.bridge(terminated)
        return Server(terminated, stream.config.graceful_timeout)

    def reaches(self, send: Any) -> bool:
        stream = getattr(send, "__self__", None)
        if isinstance(stream, Upgrade):
            return stream.is_ours
        if not isinstance(stream, WSStream):
            return False
        protocol = getattr(stream.send, "__self__", None)
        if not isinstance(protocol, H11Protocol | H2Protocol):
            return False
        return isinstance(getattr(protocol.send, "__self__", None), TCPServer)

    async def accept(self, send: Any, message: dict[str, Any], socket: WebSocket) -> None:
        stream: Any = send.__self__
        if isinstance(stream, Upgrade):
            await stream.accept(_answer(stream.scope, message), socket)
            return
        protocol: Any = stream.send.__self__
        # The bytes are ours before the answer goes out: the peer may be quicker than we are.
        if isinstance(protocol, H11Protocol):
            http1.adopt(protocol.send.__self__, socket)  # type: ignore[attr-defined]
        else:
            http2.adopt(protocol, stream.stream_id, socket)
        status, headers = _answer(stream.scope, message)
        await stream.send(Response(stream_id=stream.stream_id, status_code=status, headers=headers))
        log = stream.config.log
        await log.access(
            stream.scope, {"status": status, "headers": []}, time() - stream.start_time
        )
        if isinstance(protocol, H11Protocol):
            _let_go(protocol)
        _let_go(stream)
        stream.closed = True  # all that Hypercorn asks of it from now on


def _answer(
    scope: dict[str, Any], message: dict[str, Any]
) -> tuple[int, list[tuple[bytes, bytes]]]:
    """The response that accepts a handshake: 101, or 200 over HTTP/2 (RFC 8441 section 5)."""
    headers = list(message["headers"])
    if message["subprotocol"] is not None:
        headers.append((b"sec-websocket-protocol", message["subprotocol"].encode()))
    if scope["http_version"] == "2":
        return 200, headers
    key = next(value for name, value in scope["headers"] if name.lower() == b"sec-websocket-key")
    token = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    return 101, [
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-accept", token),
        *headers,
    ]


def _let_go(stage: Any) -> None:
    """Forget what a stage of HTTP held: an idle socket should weigh little."""
    vars(stage).clear()
