"""WebSockets as links: frames, close codes, and connecting with and without negotiation."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.lowlevel

from echo.hubs.mapping import map_connection
from echo.hubs.transports.link import Link
from echo.websocket import WebSocketOptions, use_websockets
from tests.hubs.transports.serving import Echo, Site, app_with, close_code, serve, serving, until


async def test_with_negotiation() -> None:
    server = Echo()
    async with serving(server) as (_, client):
        answer = await client.negotiate()
        headers = [("X-Mine", "1"), ("Cookie", "a=1; Path=/; b=2")]
        client.url += "&extra=%C3%A4"
        async with client.socket(extra_headers=headers) as socket:
            await socket.send_message("hello")
            assert await socket.get_message() == "hello"
            link = server.link
            assert (link.id, link.token) == (answer["connectionId"], answer["connectionToken"])
            assert link.transport == "WebSockets"
            assert link.transfer_formats == ("Text", "Binary")
            assert not link.keeps_alive
            assert not link.stateful
            assert link.user is None
            assert link.request.path == "/echo"
            assert link.request.scheme == "ws"
            assert link.request.client == "127.0.0.1"
            assert link.request.http_version == "1.1"
            assert link.request.headers["x-mine"] == "1"
            assert link.request.cookies == {"a": "1", "Path": "/", "b": "2"}
            assert link.request.query["extra"] == "ä"
        await until(lambda: server.left)
        assert link.ended
        assert await client.refused_socket() == (404, "No Connection with that ID")


async def test_without_negotiation_each_is_a_connection_of_its_own() -> None:
    server = Echo()
    async with serving(server) as (_, client), client.socket() as one, client.socket() as two:
        await one.send_message("one")
        await two.send_message("two")
        assert await two.get_message() == "two"
        assert await one.get_message() == "one"
        ids = {each.id for each in server.links} | {each.token for each in server.links}
        assert len(ids) == 4
        for client.url in [f"/echo?id={id}" for id in ids]:
            assert (await client.get()).status_code == 404


async def test_text_frames_until_the_format_is_known() -> None:
    server = Echo()
    async with serving(server) as (_, client), client.socket() as socket:
        await socket.send_message(b"in a binary frame")
        assert await socket.get_message() == "in a binary frame"
        server.link.set_format("Binary")
        await socket.send_message("in a text frame")
        assert await socket.get_message() == b"in a text frame"


async def test_a_large_text_is_never_cut_within_a_character() -> None:
    async with serving(Echo()) as (_, client), client.socket() as socket:
        text = "aä€😀" * 30_000
        await socket.send_message(text)
        received = ""
        while len(received) < len(text):
            part = await socket.get_message()  # a cut one would end the connection
            assert isinstance(part, str)
            received += part
        assert received == text


async def test_empty_messages_are_not_the_end() -> None:
    async with serving(Echo()) as (_, client), client.socket() as socket:
        await socket.send_message("")
        await socket.send_message("hello")
        assert await socket.get_message() == "hello"


async def test_the_end_of_the_handler_closes_with_1000_after_its_last_words() -> None:
    async def say_goodbye(link: Link) -> None:
        link.send(b"goodbye")

    async with serving(say_goodbye) as (_, client), client.socket() as socket:
        assert await socket.get_message() == "goodbye"
        assert await close_code(socket) == 1000


async def test_a_handler_that_fails_closes_with_1011() -> None:
    async def fail(link: Link) -> None:
        raise RuntimeError("mine")

    async with serving(fail) as (_, client), client.socket() as socket:
        assert await close_code(socket) == 1011


@pytest.mark.parametrize(("error", "code"), [(None, 1000), ("mine", 1011)])
async def test_close_waits_for_the_end(error: str | None, code: int) -> None:
    class Closing(Echo):
        async def talk(self, link: Link) -> None:
            link.send(b"goodbye")
            await link.close(error)
            assert link.ended
            assert await link.receive() == b""
            await link.close()

    server = Closing()
    async with serving(server) as (_, client), client.socket() as socket:
        assert await socket.get_message() == "goodbye"
        assert await close_code(socket) == code
        await until(lambda: server.left)


async def test_abort_drops_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "echo.hubs")
    server = Echo()
    async with serving(server) as (_, client), client.socket() as socket:
        await until(lambda: server.links)
        server.link.abort("the test says so")
        server.link.abort("again")
        assert await close_code(socket) == 1006
        await until(lambda: server.left)
        server.link.send(b"nobody hears this")
        assert server.link.unsent == 0
        await server.link.drain()
    assert [each.message for each in caplog.records] == [
        f"Connection {server.link.id} aborted: the test says so"
    ]


async def test_the_link_tells_that_the_client_is_gone_while_nobody_receives() -> None:
    class Busy(Echo):
        async def talk(self, link: Link) -> None:
            await link.wait_ended()
            assert link.ended

    server = Busy()
    async with serving(server) as (_, client):
        async with client.socket():
            await until(lambda: server.links)
            assert not server.link.ended
        await until(lambda: server.left)
    assert server.link.why


async def deaf(site: Site) -> trio.SocketStream:
    """A client that has a WebSocket and reads nothing by itself."""
    stream = await site.tcp()
    await stream.send_all(
        b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    return stream


async def test_what_waits_is_told_and_bounded() -> None:
    server = Echo()
    async with serving(server, transport_buffer_size=1000) as (site, _), await deaf(site) as peer:
        await until(lambda: server.links)
        link = server.link
        while link.unsent < 1_000_000:  # the system's own buffers are full by then
            link.send(bytes(50_000))
            await trio.lowlevel.checkpoint()
        with trio.move_on_after(0.02) as waited:
            await link.drain()
        assert waited.cancelled_caught

        async def read() -> None:
            while await peer.receive_some(1 << 20):
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await link.drain()
            assert link.unsent <= 500
            nursery.cancel_scope.cancel()


async def test_a_client_that_takes_nothing_is_dropped() -> None:
    server = Echo()
    async with serving(server, transport_send_timeout=0.1) as (site, _), await deaf(site):
        await until(lambda: server.links)
        while not server.link.ended:
            if server.link.unsent < 1_000_000:
                server.link.send(bytes(50_000))
            await trio.sleep(0.001)
        await until(lambda: server.left)


async def test_a_page_of_another_origin_may_not_connect() -> None:
    server = Echo()
    async with serving(server, allowed_origins=("https://mine.example",)) as (site, client):
        for origin in ("https://evil.example", "null", "http://[", "127.0.0.1", ""):
            refused = await client.refused_socket({"Origin": origin})
            assert refused == (403, "Pages of this origin may not connect here.")
        for origin in ("https://MINE.example", f"http://127.0.0.1:{site.port}"):
            async with client.socket(extra_headers=[("Origin", origin)]) as socket:
                await socket.send_message("hello")
                assert await socket.get_message() == "hello"
        assert len(server.links) == 2


async def test_the_apps_own_sockets_and_hooks_stay_as_they_are() -> None:
    from quart_trio import QuartTrio

    app = QuartTrio("test")
    use_websockets(app, WebSocketOptions(allowed_origins=("https://mine.example",)))
    seen: list[str] = []

    @app.before_websocket
    async def before() -> None:
        seen.append("before")

    async def echo(link: Link) -> None:
        link.send(await link.receive())

    map_connection(app, "/echo", echo)
    async with serve(app) as site, site.client() as client:
        assert (await client.refused_socket({"Origin": "https://evil.example"}))[0] == 403
        async with client.socket() as socket:
            await socket.send_message("hello")
            assert await socket.get_message() == "hello"
    assert seen == ["before"]


async def test_a_path_that_cannot_be_one() -> None:
    for path in ("echo", "", "/rooms/<name>"):
        with pytest.raises(ValueError, match="begins with '/' and has no variables"):
            map_connection(app_with(Echo()), path, Echo().talk)
