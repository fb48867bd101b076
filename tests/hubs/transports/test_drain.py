"""The server goes down: no new connections, and a goodbye on the others."""

from __future__ import annotations

from contextlib import suppress

import httpx
import trio

from echo.hubs.mapping import _websockets
from echo.hubs.transports.link import Link
from tests.hubs.transports.serving import EVENTS, Echo, app_with, serve, serving, until


async def test_nobody_connects_any_more_and_who_is_connected_goes_on() -> None:
    class Calm(Echo):
        async def shut_down(self, spread: float) -> None:
            self.said_goodbye.append(spread)

    server = Calm()
    app = app_with(server)
    async with serve(app) as site, site.client() as client, site.client() as late:
        worker = _websockets(app).worker
        worker.shutdown_spread = 1.5
        await late.negotiate()
        await client.start_polling()
        worker.shutting_down.set()
        for response in (
            await late.http.post("/echo/negotiate"),
            await late.get(),
            await late.get(headers=EVENTS),
        ):
            assert response.status_code == 503
            assert response.text == "The server is shutting down."
            assert response.headers["retry-after"] == "1"
        assert (await late.refused_socket())[0] == 503
        await client.post(b"hello")
        assert await client.poll() == b"hello"
        assert (await client.delete()).status_code == 202
        await until(lambda: server.said_goodbye)
        assert server.said_goodbye == [1.5]


async def test_last_words_reach_everybody() -> None:
    server = Echo()
    heard: list[bytes] = []
    async with serving(server, allow_stateful_reconnect=True) as (site, client):
        async with trio.open_nursery() as nursery:

            async def listen_to_events() -> None:
                async with site.client() as client:
                    await client.negotiate()
                    async with client.events() as events:
                        await events.opened()
                        heard.append(await events.next())
                        assert await events.next() == b""

            async def listen_to_socket(query: str) -> None:
                async with site.client() as client:
                    await client.negotiate(query)
                    async with client.socket() as socket:
                        heard.append(str(await socket.get_message()).encode())
                    assert socket.closed is not None
                    assert socket.closed.code == 1000

            nursery.start_soon(listen_to_events)
            nursery.start_soon(listen_to_socket, "negotiateVersion=1")
            nursery.start_soon(listen_to_socket, "negotiateVersion=1&useStatefulReconnect=true")
            await client.start_polling()
            await until(lambda: len(server.links) == 4)
            await trio.sleep(0.05)
            site.shut_down()
            heard.append(await client.poll())
            with suppress(httpx.TransportError):  # the server takes no new connections
                assert (await client.get()).status_code == 204
        assert sorted(heard) == [b"data: goodbye\r\n\r\n", b"goodbye", b"goodbye", b"goodbye"]
        await until(lambda: len(server.left) == 4)


async def test_raw_connections_are_closed() -> None:
    left: list[str] = []

    async def echo(link: Link) -> None:
        while data := await link.receive():
            link.send(data)
        left.append(link.transport)

    async with serving(echo) as (site, client), site.client() as other:
        async with client.socket() as socket:
            await other.negotiate()
            async with other.events() as events:
                await events.opened()
                site.shut_down()
                assert await events.next() == b""
            await until(lambda: len(left) == 2)
        assert socket.closed is not None
        assert socket.closed.code == 1001


async def test_the_server_does_not_wait_longer_than_its_grace_for_who_stays_away() -> None:
    server = Echo()
    begun = 0.0
    app = app_with(server)
    async with serve(app, grace=0.2) as site, site.client() as client:
        await client.start_polling()
        await until(lambda: server.links)
        begun = trio.current_time()
        site.shut_down()
        await until(lambda: server.left)
    assert trio.current_time() - begun < 3
