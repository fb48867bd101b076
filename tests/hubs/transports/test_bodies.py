"""The bodies of POSTs: how large, how slow, and how much of them waits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import trio

from echo.hubs.transports.link import Link
from echo.hubs.transports.options import ConnectionOptions
from echo.hubs.transports.request import Request
from tests.hubs.transports.serving import Client, Echo, app_with, serve, serving, until


class Deaf(Echo):
    """Receives nothing."""

    async def talk(self, link: Link) -> None:
        await link.wait_ended()


async def pieces(count: int, size: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield bytes(size)


async def begin_post(client: Client, begin: bytes, length: int) -> trio.SocketStream:
    """A POST of which this is the begin."""
    stream = await client.site.tcp()
    head = f"POST {client.url} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
    await stream.send_all(head.encode() + begin)
    return stream


async def test_what_waits_of_a_body_is_bounded() -> None:
    """The server itself reads no more than the hub has room for."""
    taken = 0
    app = app_with(Deaf(), ConnectionOptions(application_buffer_size=10_000))

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        async def count() -> Any:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            return message

        await app(scope, count, send)

    async with serve(watched) as site, site.client() as client, trio.open_nursery() as nursery:
        await client.start_polling()
        async with await begin_post(client, b"", 10_000_000) as stream:
            nursery.start_soon(stream.send_all, bytes(10_000_000))
            await until(lambda: taken)
            await trio.sleep(0.1)
            assert taken < 200_000  # what waits, what is held, and what came at once
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("told", [True, False])
async def test_a_body_that_is_too_large(told: bool) -> None:
    """Is refused, and nothing of it reaches the hub."""
    async with serving(Echo(), max_post_size=1000) as (_, client):
        await client.start_polling()
        response = await client.post(bytes(1001) if told else pieces(11, 100))
        assert response.status_code == 413
        assert response.text == "The body of the POST is too large."
        assert (await client.post(b"x" * 1000)).status_code == 200
        assert await client.poll() == b"x" * 1000


async def test_a_body_that_turns_out_too_large_when_the_hub_has_seen_some() -> None:
    server = Echo()
    options = {"max_post_size": 1000, "application_buffer_size": 100}
    async with serving(server, **options) as (_, client):
        await client.start_polling()
        assert (await client.post(pieces(20, 100))).status_code == 413
        await until(lambda: server.left)
        assert server.link.why == "a POST broke off in the middle"


async def test_a_body_that_does_not_come() -> None:
    async with serving(Echo(), post_timeout=0.1) as (_, client):
        await client.start_polling()
        async with await begin_post(client, b"begin", 10) as stream:
            assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 408 ")
        assert (await client.post(b"hello")).status_code == 200
        assert await client.poll() == b"hello"


async def test_a_body_that_breaks_off() -> None:
    async with serving(Echo()) as (_, client):
        await client.start_polling()
        async with await begin_post(client, b"begin", 10):
            await trio.sleep(0.05)
        assert (await client.post(b"hello")).status_code == 200
        assert await client.poll() == b"hello"


async def test_a_body_that_breaks_off_when_the_hub_has_seen_some() -> None:
    server = Echo()
    async with serving(server, application_buffer_size=100) as (_, client):
        await client.start_polling()
        async with await begin_post(client, bytes(200), 1000):
            await trio.sleep(0.05)
        await until(lambda: server.left)
        assert server.link.why == "a POST broke off in the middle"


async def test_large_bodies_come_whole() -> None:
    server = Echo()
    async with serving(server) as (_, client), trio.open_nursery() as nursery:
        await client.start_polling()
        text = ("aä€😀" * 100_000).encode()
        nursery.start_soon(client.post, text)
        received = b""
        while len(received) < len(text):
            received += await client.poll()
        assert received == text


async def test_what_is_received_is_not_cut_within_a_character() -> None:
    received: list[bytes] = []

    class Listening(Echo):
        async def talk(self, link: Link) -> None:
            while data := await link.receive():
                received.append(data)

    text = "aä€😀" * 1000

    async def odd() -> AsyncIterator[bytes]:
        data = text.encode()
        for start in range(0, len(data), 7):
            yield data[start : start + 7]

    async with serving(Listening(), application_buffer_size=50) as (_, client):
        await client.start_polling()
        assert (await client.post(odd())).status_code == 200
        await until(lambda: sum(map(len, received)) == len(text.encode()))
    assert "".join(data.decode() for data in received) == text


@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        ("POST", "/echo?id=unknown", 404),
        ("POST", "/echo", 400),
        ("POST", "/echo/negotiate", 200),
        ("PUT", "/echo", 405),
    ],
)
async def test_a_body_that_nobody_wants(method: str, url: str, status: int) -> None:
    """The client gets its answer while it still sends, and nothing is left of its connection."""

    async def slowly(request: Request, token: str | None) -> None:
        await trio.sleep(0.1)  # as much waits as the server lets

    async with serving(Echo(), authenticate=slowly) as (site, client):
        await client.negotiate()  # with it come the tasks that stay
        before = trio.lowlevel.current_statistics().tasks_living
        async with await site.tcp() as stream:
            head = f"{method} {url} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n"
            await stream.send_all(f"{head}\r\n".encode())

            async def send() -> None:
                with suppress(trio.BrokenResourceError):
                    while True:
                        await stream.send_all(bytes(100_000))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                answer = await stream.receive_some(1000)
                nursery.cancel_scope.cancel()
            assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        await until(lambda: trio.lowlevel.current_statistics().tasks_living <= before)


@pytest.mark.parametrize("url", ["/echo/negotiate", "/echo?id=unknown"])
async def test_the_server_ends_a_request_to_its_very_end(url: str) -> None:
    """What comes after the answer comes: here, that the connection is closed."""
    async with serving(Echo()) as (site, _), await site.tcp() as stream:
        head = f"POST {url} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n"
        await stream.send_all(f"{head}Connection: close\r\n\r\n".encode())
        async for _ in stream:
            pass


async def test_the_apps_other_routes_read_bodies_as_ever() -> None:
    from quart import request

    app = app_with(Echo())

    @app.post("/other")
    async def other() -> bytes:
        data = await request.get_data()
        assert isinstance(data, bytes)
        return data

    async with serve(app) as site, site.client() as client:
        response = await client.http.post("/other", content=b"hello")
        assert response.content == b"hello"
