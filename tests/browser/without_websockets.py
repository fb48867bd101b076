"""The service as it is to be had where WebSockets are refused, by a proxy for example."""

from __future__ import annotations

from typing import Any

from echo import app as service


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})  # answered with 403
    else:
        await service(scope, receive, send)
