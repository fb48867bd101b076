"""A tunnel over HTTP/2 (RFC 8441) that looks to a WebSocket client like an HTTP/1.1 server.

The client writes its usual GET; the tunnel makes it an extended CONNECT, and the answer of the
server a 101. After that the bytes are the same on both.
"""

from __future__ import annotations

import base64
import hashlib
from contextlib import suppress
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import trio

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Http2Connection:
    """One HTTP/2 connection, with as many tunnels as one likes."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.h2 = h2.connection.H2Connection(
            config=h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self.tunnels: dict[int, Http2Tunnel] = {}
        self._lock = trio.Lock()
        self.settled = trio.Event()
        self.ended = False

    async def run(self) -> None:
        self.h2.initiate_connection()
        await self.flush()
        try:
            while True:
                data = await self.stream.receive_some(65536)
                if not data:
                    break
                for event in self.h2.receive_data(data):
                    self._dispatch(event)
                await self.flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self.ended = True
        for tunnel in self.tunnels.values():
            tunnel.end()

    def _dispatch(self, event: Any) -> None:
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self.settled.set()
        tunnel = self.tunnels.get(getattr(event, "stream_id", None) or 0)
        if isinstance(event, h2.events.WindowUpdated):
            for each in self.tunnels.values():
                each.changed()
        elif tunnel is not None:
            tunnel.take(event)

    async def flush(self) -> None:
        async with self._lock:
            data = self.h2.data_to_send()
            if data:
                try:
                    await self.stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self.ended = True


class Http2Tunnel(trio.abc.HalfCloseableStream):
    def __init__(self, connection: Http2Connection) -> None:
        self.connection = connection
        self.stream_id = 0
        self._request = b""
        self._key = b""
        self._inbox = bytearray()
        self._ended = False
        self._unacknowledged = 0  # the window opens again when the bytes are read
        self._changed = trio.Event()

    @classmethod
    async def open(cls, nursery: trio.Nursery, stream: Any) -> Http2Tunnel:
        connection = Http2Connection(stream)
        nursery.start_soon(connection.run)
        await connection.settled.wait()
        return cls(connection)

    def changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def end(self) -> None:
        self._ended = True
        self.changed()

    def take(self, event: Any) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            self._answer(dict(event.headers))
        elif isinstance(event, h2.events.DataReceived):
            self._inbox += event.data
            self._unacknowledged += event.flow_controlled_length
        elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
            self._ended = True
        self.changed()

    def _answer(self, headers: dict[Any, Any]) -> None:
        status = headers.pop(":status")
        lines = [f"HTTP/1.1 {status} answer"]
        if status == "200":
            accept = base64.b64encode(hashlib.sha1(self._key + _GUID).digest()).decode()
            lines = [
                "HTTP/1.1 101 Switching Protocols",
                "Upgrade: websocket",
                "Connection: Upgrade",
                f"Sec-WebSocket-Accept: {accept}",
            ]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._inbox += "\r\n".join([*lines, "", ""]).encode()

    async def _connect(self) -> None:
        head = self._request.partition(b"\r\n\r\n")[0].decode().split("\r\n")
        path = head[0].split()[1]
        given = [line.partition(":") for line in head[1:]]
        fields = {name.lower(): value.strip() for name, _, value in given}
        self._key = fields.pop("sec-websocket-key").encode()
        authority = fields.pop("host")
        for name in ("upgrade", "connection"):
            fields.pop(name)
        self.stream_id = self.connection.h2.get_next_available_stream_id()
        self.connection.tunnels[self.stream_id] = self
        self.connection.h2.send_headers(
            self.stream_id,
            [
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":scheme", "http"),
                (":path", path),
                (":authority", authority),
                *fields.items(),
            ],
        )
        await self.connection.flush()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if not self.stream_id:
            self._request += bytes(data)
            if b"\r\n\r\n" in self._request:
                await self._connect()
            return
        view = memoryview(data)
        while view:
            if self._ended or self.connection.ended:
                raise trio.BrokenResourceError
            room = min(
                self.connection.h2.local_flow_control_window(self.stream_id),
                self.connection.h2.max_outbound_frame_size,
            )
            if room <= 0:
                await self._changed.wait()
                continue
            self.connection.h2.send_data(self.stream_id, bytes(view[:room]))
            view = view[room:]
            await self.connection.flush()
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        self.connection.h2.end_stream(self.stream_id)
        await self.connection.flush()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while not self._inbox:
            if self._ended:
                return b""
            await self._changed.wait()
        owed, self._unacknowledged = self._unacknowledged, 0
        if owed and not self._ended:
            self.connection.h2.acknowledge_received_data(owed, self.stream_id)
            await self.connection.flush()
        count = max_bytes or len(self._inbox)
        data = bytes(self._inbox[:count])
        del self._inbox[:count]
        return data

    async def aclose(self) -> None:
        self._ended = True
        if self.stream_id and not self.connection.ended:
            with suppress(h2.exceptions.ProtocolError):
                self.connection.h2.reset_stream(self.stream_id)
        await trio.aclose_forcefully(self.connection.stream)
