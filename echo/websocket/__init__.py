"""WebSockets for Quart-Trio apps: a nursery per socket, everything bounded.

app = QuartTrio(__name__)
use_websockets(app)

@app.websocket("/ws")
async def ws():
    async with accept() as socket:
        async for message in socket:
            await socket.send(message)
"""

from __future__ import annotations

from echo.websocket.codec import Chunk, MessageType
from echo.websocket.errors import (
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    OriginNotAllowed,
    UsageError,
    WebSocketError,
)
from echo.websocket.middleware import WebSocketMiddleware
from echo.websocket.opening import accept
from echo.websocket.options import WebSocketOptions
from echo.websocket.quart import use_websockets
from echo.websocket.socket import State, WebSocket

__all__ = [
    "Chunk",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "MessageType",
    "OriginNotAllowed",
    "State",
    "UsageError",
    "WebSocket",
    "WebSocketError",
    "WebSocketMiddleware",
    "WebSocketOptions",
    "accept",
    "use_websockets",
]
