"""Stateful reconnect: a WebSocket that is lost, and another that takes its place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio_websocket import WebSocketConnection

from echo.hubs.mapping import _websockets
from echo.hubs.transports.link import Link, LinkResumed, User
from echo.hubs.transports.options import ConnectionOptions
from echo.hubs.transports.request import Request
from tests.harness import frame
from tests.hubs.transports.serving import (
    Client,
    Echo,
    Person,
    Site,
    app_with,
    close_code,
    serve,
    serving,
    until,
)

STATEFUL = "negotiateVersion=1&useStatefulReconnect=true"


@asynccontextmanager
async def stateful(
    server: Echo, disconnect_timeout: float = 5.0, **options: Any
) -> AsyncIterator[tuple[Site, Client]]:
    async with serving(
        server, allow_stateful_reconnect=True, disconnect_timeout=disconnect_timeout, **options
    ) as (site, client):
        yield site, client


async def say(socket: WebSocketConnection, text: str) -> None:
    await socket.send_message(text)
    assert await socket.get_message() == text


async def lose(socket: WebSocketConnection) -> None:
    """End the connection as a network does."""
    await trio.aclose_forcefully(socket._stream)


async def test_another_websocket_takes_the_place_of_a_lost_one() -> None:
    server = Echo()
    async with stateful(server) as (_, client):
        await client.negotiate(STATEFUL)
        async with client.socket(extra_headers=[("X-Mine", "1")]) as socket:
            await say(socket, "before")
            link = server.link
            assert link.stateful
            link.set_format("Binary")
            await lose(socket)
        await trio.sleep(0.05)
        assert not link.ended
        link.send(b"nobody hears this")
        assert link.unsent == 0
        await link.drain()
        async with client.socket(extra_headers=[("X-Mine", "2")]) as socket:
            await socket.send_message("after")
            assert await socket.get_message() == b"after"  # the format stays
            assert server.resumed == 1
            assert link.request.headers["x-mine"] == "2"
            assert (await client.post(b"data")).status_code == 405
        await until(lambda: server.left)
        assert server.links == [link]


async def test_another_websocket_takes_over_from_one_that_seems_well() -> None:
    server = Echo()
    async with stateful(server) as (_, client):
        await client.negotiate(STATEFUL)
        async with client.socket() as old:
            await say(old, "before")
            for number in range(3):
                async with client.socket() as new:
                    assert await close_code(old) == 1006
                    await say(new, "after")
                    assert server.resumed == number + 1
                    old = new
                    await lose(new)
        assert server.links == [server.link]


async def test_who_came_back_may_stay() -> None:
    """However the last socket ended, and whenever."""
    server = Echo()
    async with stateful(server, disconnect_timeout=0.15) as (_, client):
        await client.negotiate(STATEFUL)
        async with client.socket() as lost:
            await say(lost, "before")
            await lose(lost)
        async with client.socket() as well:
            await trio.sleep(0.3)
            await say(well, "after")
            async with client.socket() as last:
                await trio.sleep(0.3)
                await say(last, "still there")
    assert server.resumed == 2


async def test_the_begin_of_a_character_is_lost_with_its_socket() -> None:
    server = Echo()
    app = app_with(server, ConnectionOptions(allow_stateful_reconnect=True))
    middleware = _websockets(app)
    middleware.options = replace(middleware.options, receive_buffer_size=5)
    async with serve(app) as site, site.client() as client:
        await client.negotiate(STATEFUL)
        async with client.socket() as socket:
            await say(socket, "hello")
            # Of a message of 100 bytes the first 5, which end within a character.
            await socket._stream.send_all(frame(0x81, b"aaaa" + "€".encode() * 32)[:11])
            assert await socket.get_message() == "aaaa"
            await lose(socket)
        async with client.socket() as socket:
            await say(socket, "again")


async def test_who_says_goodbye_does_not_come_back() -> None:
    server = Echo()
    async with stateful(server) as (_, client):
        await client.negotiate(STATEFUL)
        async with client.socket() as socket:
            await say(socket, "before")
        await until(lambda: server.left)
        assert server.link.ended
        assert (await client.refused_socket())[0] == 404


async def test_who_does_not_come_back_in_time_is_gone() -> None:
    server = Echo()
    async with stateful(server, disconnect_timeout=0.1) as (_, client):
        await client.negotiate(STATEFUL)
        async with client.socket() as socket:
            await say(socket, "before")
            await trio.sleep(0.2)
            await say(socket, "still there")
            await lose(socket)
        await until(lambda: server.left)
        assert server.link.why == "the client did not come back"
        assert (await client.refused_socket())[0] == 404


async def test_without_stateful_reconnect_the_link_ends_with_its_socket() -> None:
    server = Echo()
    async with stateful(server) as (_, client):
        await client.negotiate()
        async with client.socket() as socket:
            await say(socket, "before")
            assert not server.link.stateful
            assert (await client.refused_socket())[0] == 409
            await lose(socket)
        await until(lambda: server.left)
        assert server.link.ended


async def test_what_is_sent_before_the_hub_knows_of_the_new_socket_is_not_sent() -> None:
    """The hub has to speak first, and says where it goes on."""

    class Careful(Echo):
        async def talk(self, link: Link) -> None:
            assert await link.receive() == b"hello"
            await go_on.wait()
            link.send(b"too early")
            with pytest.raises(LinkResumed):
                await link.receive()
            link.send(b"sequence")
            assert await link.receive() == b"again"
            link.send(b"and on")
            assert await link.receive() == b""

    go_on = trio.Event()
    server = Careful()
    async with stateful(server) as (_, client):
        await client.negotiate(STATEFUL)
        async with client.socket() as socket:
            await socket.send_message("hello")
            await socket.send_message("what the client will repeat")
            await trio.sleep(0.05)
            await lose(socket)
        async with client.socket() as socket:
            await trio.sleep(0.05)
            go_on.set()
            assert await socket.get_message() == "sequence"
            await socket.send_message("again")
            assert await socket.get_message() == "and on"
        await until(lambda: server.left)


async def test_the_rest_of_what_a_client_said_before_its_goodbye_is_received() -> None:
    class Slow(Echo):
        received = b""

        async def talk(self, link: Link) -> None:
            await link.wait_ended()
            while data := await link.receive():
                self.received += data

    server = Slow()
    async with stateful(server, close_timeout=0.1) as (_, client):
        await client.negotiate(STATEFUL)
        async with client.socket() as socket:
            await socket.send_message("last ")
            await socket.send_message("words")
        await until(lambda: server.left)
    assert server.received == b"last words"
    assert server.link.why == "its WebSocket ended with 1000"


@pytest.mark.parametrize("error", [None, "mine"])
async def test_close_ends_the_connection(error: str | None) -> None:
    server = Echo()
    async with stateful(server) as (_, client):
        await client.negotiate(STATEFUL)
        async with client.socket() as socket:
            await say(socket, "before")
            await server.link.close(error)
            assert await close_code(socket) == (1011 if error else 1000)
        await until(lambda: server.left)
        assert (await client.refused_socket())[0] == 404


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_the_end_while_the_client_is_away(how: str) -> None:
    server = Echo()
    async with stateful(server) as (_, client):
        await client.negotiate(STATEFUL)
        async with client.socket() as socket:
            await say(socket, "before")
            await lose(socket)
        await trio.sleep(0.05)
        if how == "close":
            await server.link.close()
        else:
            server.link.abort("the test says so")
        await until(lambda: server.left)
        assert (await client.refused_socket())[0] == 404


async def test_a_connection_does_not_go_to_another_user() -> None:
    async def authenticate(request: Request, token: str | None) -> User | None:
        return Person(token)

    server = Echo()
    async with stateful(server, authenticate=authenticate) as (_, client):
        await client.negotiate(STATEFUL)
        mine, theirs = (f"{client.url}&access_token={name}" for name in ("me", "them"))
        client.url = mine
        async with client.socket() as socket:
            await say(socket, "before")
            client.url = theirs
            assert await client.refused_socket() == (403, "Forbidden")
            await say(socket, "still mine")
            await lose(socket)
        assert await client.refused_socket() == (403, "Forbidden")
        client.url = mine
        async with client.socket() as socket:
            await say(socket, "mine again")
