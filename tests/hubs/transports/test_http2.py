"""HTTP/2 beneath a hub: what one stream does is no other's affair."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h2.connection
import pytest
import trio
from hypercorn.events import Event, RawData

from echo.hosting.hypercorn.http2 import Protocol
from tests.harness import frame
from tests.http2 import Http2Tunnel
from tests.hubs.transports.serving import Echo, Site, serving

HANDSHAKE = (
    b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@asynccontextmanager
async def tunnel(site: Site) -> AsyncIterator[Http2Tunnel]:
    """An open WebSocket."""
    async with trio.open_nursery() as nursery:
        opened = await Http2Tunnel.open(nursery, await site.tcp())
        await opened.send_all(HANDSHAKE)
        assert (await opened.receive_some()).startswith(b"HTTP/1.1 101")
        yield opened
        await opened.aclose()
        nursery.cancel_scope.cancel()


async def test_a_stream_that_is_ended_and_reset_at_once_harms_nobody_else() -> None:
    async with serving(Echo()) as (site, client):
        for _ in range(5):
            async with tunnel(site) as stream:
                connection = stream.connection.h2
                connection.end_stream(stream.stream_id)
                connection.ping(bytes(8))
                other = connection.get_next_available_stream_id()
                head = [(":method", "GET"), (":scheme", "http"), (":path", "/")]
                connection.send_headers(
                    other, [*head, (":authority", "localhost")], end_stream=True
                )
                connection.reset_stream(stream.stream_id)
                await stream.connection.flush()
                await trio.sleep(0.02)
        await client.negotiate()


@pytest.mark.parametrize(
    ("close", "answer"),
    [(b"", b"\x88\x02\x03\xe8"), (b"\x0b\xb8enough", b"\x88\x08\x0b\xb8enough")],
)
async def test_a_close_frame_that_ends_its_stream_is_answered(close: bytes, answer: bytes) -> None:
    """With 1000 if it had no code."""
    async with serving(Echo()) as (site, _), tunnel(site) as stream:
        connection = stream.connection.h2
        connection.send_data(stream.stream_id, frame(0x88, close), end_stream=True)
        await stream.connection.flush()
        seen = b""
        while data := await stream.receive_some():
            seen += data
        assert seen == answer


async def test_what_is_to_be_written_outlives_the_request_that_wanted_to_write_it() -> None:
    """All later headers are compressed by those before."""
    lock = trio.Lock()
    written = b""

    async def write(event: Event) -> None:  # as Hypercorn's server does
        nonlocal written
        assert isinstance(event, RawData)
        async with lock:
            written += event.data

    protocol = Protocol.__new__(Protocol)
    protocol.connection = h2.connection.H2Connection()
    protocol.send = write
    protocol.connection.initiate_connection()
    with trio.CancelScope() as given_up:
        given_up.cancel()
        await protocol._flush()
    await protocol._flush()
    assert written.startswith(b"PRI * HTTP/2.0")
