"""Which request gets which status and text, whatever the transport."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import httpx
import pytest
import trio

from echo.hubs.transports.link import Link
from tests.hubs.transports.serving import (
    EVENTS,
    Client,
    Echo,
    Site,
    app_with,
    serve,
    serving,
    until,
)

NO_CACHE = {
    "cache-control": "no-cache, no-store",
    "pragma": "no-cache",
    "expires": "Thu, 01 Jan 1970 00:00:00 GMT",
}

REQUESTS: dict[str, dict[str, Any]] = {
    "poll": {"method": "GET"},
    "events": {"method": "GET", "headers": EVENTS},
    "post": {"method": "POST", "content": b"data"},
    "delete": {"method": "DELETE"},
}

every_request = pytest.mark.parametrize("request_", REQUESTS)


async def ask(client: Client, request: str) -> httpx.Response:
    return await client.http.request(url=client.url, **REQUESTS[request])


@every_request
async def test_without_an_id(request_: str) -> None:
    async with serving(Echo()) as (_, client):
        for client.url in ("/echo", "/echo?id="):
            response = await ask(client, request_)
            assert (response.status_code, response.text) == (400, "Connection ID required")
            assert response.headers["content-type"] == "text/plain"


@every_request
async def test_with_an_id_that_nobody_has(request_: str) -> None:
    async with serving(Echo()) as (_, client):
        client.url = "/echo?id=unknown"
        response = await ask(client, request_)
        assert (response.status_code, response.text) == (404, "No Connection with that ID")
        assert response.headers["content-type"] == "text/plain"


async def test_a_websocket_with_an_id_that_nobody_has() -> None:
    async with serving(Echo()) as (_, client):
        client.url = "/echo?id=unknown"
        assert await client.refused_socket() == (404, "No Connection with that ID")


async def test_a_transport_that_is_not_offered() -> None:
    server = Echo()
    async with serving(server, transports=()) as (_, client):
        await client.negotiate()
        for request_, transport in (("poll", "LongPolling"), ("events", "ServerSentEvents")):
            response = await ask(client, request_)
            assert response.status_code == 404
            assert response.text == f"{transport} transport not supported by this end point type"
        refusal = 404, "WebSockets transport not supported by this end point type"
        assert await client.refused_socket() == refusal
        client.url = "/echo"
        assert await client.refused_socket() == refusal
    assert not server.links


@pytest.mark.parametrize("method", ["PUT", "PATCH", "HEAD"])
async def test_a_method_that_means_nothing_here(method: str) -> None:
    async with serving(Echo()) as (_, client):
        await client.negotiate()
        for url, allowed in ((client.url, "GET, POST, DELETE"), ("/echo/negotiate", "POST")):
            response = await client.http.request(method, url)
            assert response.status_code == 405
            assert response.headers["allow"] == allowed


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
async def test_negotiate_is_a_post(method: str) -> None:
    async with serving(Echo()) as (_, client):
        assert (await client.http.request(method, "/echo/negotiate")).status_code == 405


async def test_a_websocket_link() -> None:
    """Has one WebSocket, and no other requests."""
    async with serving(Echo()) as (_, client):
        await client.negotiate()
        async with client.socket():
            assert (await client.refused_socket())[0] == 409
            refused = await client.post(b"data")
            assert refused.status_code == 405
            assert refused.text == "POST requests are not allowed for WebSocket connections."
            for request_ in ("poll", "events"):
                response = await ask(client, request_)
                assert response.status_code == 400
                assert response.text == "Cannot change transports mid-connection"
            await refuses_delete(client)


async def test_a_link_of_events() -> None:
    """Has one stream, and is no poll and no WebSocket."""
    async with serving(Echo()) as (_, client):
        await client.negotiate()
        async with client.events() as events:
            await events.opened()
            assert (await ask(client, "events")).status_code == 409
            response = await ask(client, "poll")
            assert response.status_code == 400
            assert response.text == "Cannot change transports mid-connection"
            refusal = 400, "Cannot change transports mid-connection"
            assert await client.refused_socket() == refusal
            await refuses_delete(client)


async def test_a_link_that_polls() -> None:
    """Is no stream and no WebSocket."""
    async with serving(Echo()) as (_, client):
        await client.start_polling()
        response = await ask(client, "events")
        assert response.status_code == 400
        assert response.text == "Cannot change transports mid-connection"
        refusal = 400, "Cannot change transports mid-connection"
        assert await client.refused_socket() == refusal


async def test_before_there_is_a_transport() -> None:
    async with serving(Echo()) as (_, client):
        await client.negotiate()
        await refuses_delete(client)


async def test_a_post_before_there_is_a_transport_where_nobody_may_poll() -> None:
    async with serving(Echo(), transports=("WebSockets",)) as (_, client):
        await client.negotiate()
        assert (await client.post(b"data")).status_code == 404
        async with client.socket():
            pass


async def test_answers_to_polls_are_not_cached() -> None:
    async with serving(Echo()) as (_, client):
        client.url = "/echo?id=unknown"
        unknown = await client.get()
        await client.negotiate()
        for response in (unknown, await client.get()):
            assert dict(response.headers).items() >= NO_CACHE.items()


async def test_two_websockets_with_one_token_at_the_same_time() -> None:
    """One of them gets it."""
    server = Echo()
    async with serving(server) as (_, client):
        await client.negotiate()
        statuses: list[int] = []

        async def connect() -> None:
            statuses.append((await client.refused_socket())[0])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect)
            nursery.start_soon(connect)
        assert sorted(statuses) == [101, 409]
    assert len(server.links) == 1


async def test_nothing_is_left_of_who_has_left() -> None:
    links: weakref.WeakSet[Link] = weakref.WeakSet()

    async def remember(link: Link) -> None:
        links.add(link)
        await link.receive()

    options = {"allow_stateful_reconnect": True, "disconnect_timeout": 0.1}
    async with serving(remember, **options) as (_, client):
        for query in ("", "negotiateVersion=1", "useStatefulReconnect=true"):
            await client.negotiate(query)
            async with client.socket():
                await until(lambda: links)
        await client.negotiate()
        async with client.events() as events:
            await events.opened()
        await client.start_polling()
        await client.delete()
        await until(lambda: gc.collect() and not links)


@pytest.mark.parametrize("path", ["/echo", "/echo/"])
async def test_paths_may_end_in_a_slash(path: str) -> None:
    async with serve(app_with(Echo())) as site, site.client(path) as client:
        response = await client.http.post(f"{path.rstrip('/')}/negotiate/")
        assert response.status_code == 200
        await talk(site, path)


async def test_an_app_below_another_path() -> None:
    async with serve(app_with(Echo()), root_path="/app") as site:
        await talk(site, "/app/echo")


async def test_a_request_may_name_the_whole_url() -> None:
    async with serving(Echo()) as (site, client):
        await client.start_polling()
        async with await site.tcp() as stream:
            head = f"POST http://localhost{client.url} HTTP/1.1\r\nHost: localhost\r\n"
            await stream.send_all(f"{head}Content-Length: 5\r\n\r\nhello".encode())
            assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 200 ")
        assert await client.poll() == b"hello"


async def talk(site: Site, path: str) -> None:
    async with site.client(path) as client:
        client.path = path.rstrip("/")
        await client.negotiate()
        client.url = client.url.replace(client.path, path)
        assert await client.poll() == b""
        assert (await client.post(b"hello")).status_code == 200
        assert await client.poll() == b"hello"
        await client.negotiate()
        async with client.socket() as socket:
            await socket.send_message("hello")
            assert await socket.get_message() == "hello"


async def refuses_delete(client: Client) -> None:
    response = await client.delete()
    assert response.status_code == 400
    assert response.text == "Cannot terminate this connection using the DELETE endpoint."
