"""A WebSocket's stream in Hypercorn, which tells whoever sent a broken handshake what is wrong."""

from __future__ import annotations

from hypercorn.protocol.events import Body, EndBody, Response
from hypercorn.protocol.ws_stream import WSStream

from echo.websocket.handshake import refusal
from echo.websocket.worker import current_worker


class Stream(WSStream):
    async def _send_error_response(self, status_code: int) -> None:
        wrong = None
        if status_code == 400:
            wrong = refusal("GET", self.scope["http_version"], self.scope["headers"])
        if wrong is None:
            await super()._send_error_response(status_code)
            return
        worker = current_worker.get()
        if worker is not None:
            worker.counters.refused["invalid"] += 1
        body = f"{wrong.sentence}\n".encode()
        headers = [
            (b"content-length", str(len(body)).encode()),
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"connection", b"close"),
            *wrong.headers,
        ]
        if self.scope["http_version"] == "2":
            headers.remove((b"connection", b"close"))
        await self.send(
            Response(stream_id=self.stream_id, status_code=wrong.status, headers=headers)
        )
        await self.send(Body(stream_id=self.stream_id, data=body))
        await self.send(EndBody(stream_id=self.stream_id))
