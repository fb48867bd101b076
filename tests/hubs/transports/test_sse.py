"""Server-sent events: the bytes of the stream, and what ends it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from echo.hubs.transports.link import Link
from echo.hubs.transports.options import ConnectionOptions
from echo.hubs.transports.sse import event
from tests.hubs.transports.serving import EVENTS, Echo, app_with, serve, serving, until


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b'{"type":6}\x1e', [b'{"type":6}\x1e']),
        (b"", [b""]),
        (b"one\ntwo", [b"one", b"two"]),
        (b"one\r\ntwo\rthree\n", [b"one", b"two", b"three", b""]),
        ("ä\n€".encode(), ["ä".encode(), "€".encode()]),
    ],
)
def test_each_line_becomes_a_line_of_the_event(data: bytes, lines: list[bytes]) -> None:
    assert event(data) == b"".join(b"data: " + line + b"\r\n" for line in lines) + b"\r\n"


async def test_a_stream_begins_at_once_and_tells_who_is_between_not_to_hold_it_back() -> None:
    server = Echo()
    async with serving(server) as (_, client):
        await client.negotiate()
        async with client.events() as events:
            await events.opened()
            assert (
                events.headers.items()
                >= {
                    "content-type": "text/event-stream",
                    "cache-control": "no-cache,no-store",
                    "pragma": "no-cache",
                    "content-encoding": "identity",
                    "x-accel-buffering": "no",
                }.items()
            )
            link = server.link
            assert link.transport == "ServerSentEvents"
            assert link.transfer_formats == ("Text",)
            assert not link.keeps_alive
            link.set_format("Text")
            with pytest.raises(ValueError, match="text only"):
                link.set_format("Binary")


@pytest.mark.parametrize(
    "accept", ["text/event-stream", "TEXT/Event-Stream", "text/html, text/event-stream;q=0.9"]
)
async def test_who_accepts_events_gets_them(accept: str) -> None:
    async with serving(Echo()) as (_, client):
        await client.negotiate()
        async with client.events({"Accept": accept}) as events:
            await events.opened()


async def test_what_is_posted_comes_back_as_events_one_by_one() -> None:
    async with serving(Echo()) as (_, client):
        await client.negotiate()
        async with client.events() as events:
            await events.opened()
            for number in range(3):
                response = await client.post(f"message {number}\nand more\x1e")
                assert (response.status_code, response.content) == (200, b"")
                assert response.headers["content-type"] == "text/plain"
                expected = f"data: message {number}\r\ndata: and more\x1e\r\n\r\n"
                assert await events.next() == expected.encode()


async def test_a_large_message_is_one_event() -> None:
    async with serving(Echo()) as (_, client):
        await client.negotiate()
        async with client.events() as events:
            await events.opened()
            text = ("€" * 300).encode()
            await client.post(text * 300)
            received = b""
            while len(received) < len(text) * 300:
                part = await events.next()
                part.decode()  # none ends within a character
                received += part.removeprefix(b"data: ").removesuffix(b"\r\n\r\n")
            assert received == text * 300


async def test_the_link_ends_with_its_stream() -> None:
    server = Echo()
    async with serving(server) as (_, client):
        await client.negotiate()
        async with client.events() as events:
            await events.opened()
        await until(lambda: server.left)
        assert server.link.ended
        assert server.link.why == "the client is gone"
        server.link.send(b"nobody hears this")
        assert server.link.unsent == 0
        assert (await client.post(b"data")).status_code == 404
        assert (await client.get(headers=EVENTS)).status_code == 404


async def test_the_stream_ends_with_the_handler_after_its_last_words() -> None:
    async def say_goodbye(link: Link) -> None:
        for number in range(3):
            link.send(f"goodbye {number}".encode())

    async with serving(say_goodbye) as (_, client):
        await client.negotiate()
        async with client.events() as events:
            await events.opened()
            for number in range(3):
                assert await events.next() == f"data: goodbye {number}\r\n\r\n".encode()
            assert await events.next() == b""


async def test_a_client_that_takes_nothing_is_dropped() -> None:
    server = Echo()
    async with serving(server, transport_send_timeout=0.2) as (site, client):
        await client.negotiate()
        stream = await site.tcp()
        request = f"GET {client.url} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
        await stream.send_all(request.encode())
        await until(lambda: server.links)
        link = server.link
        while not link.ended:
            link.send(bytes(60_000))
            with trio.move_on_after(0.01):
                await link.drain()
        assert link.why == "the client does not read"
        await until(lambda: server.left)
        await stream.aclose()


async def test_drain_waits_until_the_client_has_taken_half() -> None:
    server = Echo()
    async with serving(server, transport_buffer_size=1000) as (_, client):
        await client.negotiate()
        async with client.events() as events:
            await events.opened()
            link = server.link
            for _ in range(20):
                link.send(b"x" * 100)
            assert link.unsent > 1000
            await link.drain()
            assert link.unsent <= 500


async def test_a_stream_may_be_silent() -> None:
    """The deadline is for a client that does not read, not for a hub that has nothing to say."""
    server = Echo()
    async with serving(server, transport_send_timeout=0.1, disconnect_timeout=0.1) as (_, client):
        await client.negotiate()
        async with client.events() as events:
            await events.opened()
            for _ in range(2):
                await trio.sleep(0.2)
                await client.post(b"hello")
                assert await events.next() == b"data: hello\r\n\r\n"


async def test_a_slow_client_that_reads_is_kept() -> None:
    """What it takes within the timeout is progress, however much still waits."""
    server = Echo()
    options = {"transport_send_timeout": 0.5, "transport_buffer_size": 50_000}
    async with serving(server, **options) as (site, client):
        await client.negotiate()
        stream = await site.tcp()
        request = f"GET {client.url} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
        await stream.send_all(request.encode())
        await until(lambda: server.links)
        link = server.link
        for _ in range(160):
            link.send(bytes(50_000))  # 8 MB, more than any socket holds
        begun = trio.current_time()
        while link.unsent and trio.current_time() < begun + 1.2:
            await stream.receive_some(400_000)
            await trio.sleep(0.05)
        assert not link.ended
        await stream.aclose()
        await until(lambda: server.left)


async def test_quarts_timeouts_do_not_cut_streams_or_bodies() -> None:
    app = app_with(Echo())
    app.config["RESPONSE_TIMEOUT"] = app.config["BODY_TIMEOUT"] = 0.05
    app.config["MAX_CONTENT_LENGTH"] = 10

    async def slowly() -> AsyncIterator[bytes]:
        for number in range(5):
            yield b"%d" % number
            await trio.sleep(0.03)

    async with serve(app) as site, site.client() as client:
        await client.negotiate()
        async with client.events() as events:
            await events.opened()
            await trio.sleep(0.1)
            assert (await client.post(slowly())).status_code == 200
            assert await events.next() == b"data: 01234\r\n\r\n"
            await client.post(b"x" * 20)
            assert await events.next() == b"data: " + b"x" * 20 + b"\r\n\r\n"


async def test_over_http_2() -> None:
    server = Echo()
    async with serving(server) as (site, _), site.client(http1=False, http2=True) as client:
        await client.negotiate()
        async with client.http.stream("GET", client.url, headers=EVENTS) as response:
            assert response.http_version == "HTTP/2"
            await client.post(b"hello")
            await until(lambda: server.link.unsent == 0)
            await server.link.close()
            assert await response.aread() == b":\r\ndata: hello\r\n\r\n"


async def test_over_http_2_a_client_that_takes_nothing_is_dropped() -> None:
    """Its request ends; its connection serves on."""
    server = Echo()
    app = app_with(server, ConnectionOptions(transport_send_timeout=0.2))
    under_way = 0

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        nonlocal under_way
        under_way += 1
        try:
            await app(scope, receive, send)
        finally:
            under_way -= 1

    async with serve(watched) as site, site.client(http1=False, http2=True) as client:
        await client.negotiate()
        async with client.http.stream("GET", client.url, headers=EVENTS):
            link = server.link
            while not link.ended:
                link.send(bytes(60_000))
                with trio.move_on_after(0.01):
                    await link.drain()
            assert link.why == "the client does not read"
            await until(lambda: under_way == 1)  # the lifespan
            assert (await client.post(b"data")).status_code == 404


def test_options_state_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="close_timeout must be a positive number of seconds"):
        ConnectionOptions(close_timeout=0)
