"""Who may open a WebSocket, what the others are answered, and what `accept()` holds."""

from __future__ import annotations

import base64
import logging
from typing import Any

import pytest
import trio
import trio.testing
from quart import websocket
from trio_websocket import ConnectionClosed as ClientClosed

from echo.websocket import UsageError, WebSocket, WebSocketOptions, accept
from tests.harness import KEY, Peer, Service, serve


async def echo_all(socket: WebSocket) -> None:
    async for message in socket:
        await socket.send(message)


async def ask(service: Service, *changed: str, path: str = "/ws") -> tuple[str, str]:
    """A handshake with headers added, replaced or (ending in a colon) left out."""
    headers = {
        "host": "Host: localhost",
        "upgrade": "Upgrade: websocket",
        "connection": "Connection: Upgrade",
        "sec-websocket-key": f"Sec-WebSocket-Key: {KEY.decode()}",
        "sec-websocket-version": "Sec-WebSocket-Version: 13",
    }
    for line in changed:
        name = line.partition(":")[0].lower()
        headers[name] = line
        if line.endswith(":"):
            del headers[name]
    stream = await service.open_stream()
    await stream.send_all("\r\n".join([f"GET {path} HTTP/1.1", *headers.values(), "", ""]).encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = await stream.receive_some(65536)
        if not data:
            break
        answer += data
    # After a 101 there may be frames, which are no text.
    head, _, body = answer.decode("latin-1").partition("\r\n\r\n")
    length = next(
        (
            int(line.partition(":")[2])
            for line in head.split("\r\n")
            if line.lower().startswith("content-length:")
        ),
        0,
    )
    while len(body) < length:
        body += (await stream.receive_some(65536)).decode()
    await trio.aclose_forcefully(stream)
    return head, body


def status(head: str) -> int:
    return int(head.split()[1])


# Origins


@pytest.mark.parametrize(
    ("allowed", "origin", "expected"),
    [
        (("https://example.org",), "https://example.org", 101),
        (("https://Example.org",), "HTTPS://eXample.ORG", 101),
        (("https://example.org",), "https://evil.example", 403),
        (("https://example.org",), "http://example.org", 403),
        (("https://example.org",), "https://example.org:8443", 403),
        (("https://example.org",), "https://example.org.evil.example", 403),
        (("https://example.org",), "null", 403),
        (("null",), "null", 101),
        (("https://example.org",), None, 101),
        (("*",), "https://evil.example", 101),
        ((), "https://evil.example", 101),
        (("https://a.example", "https://b.example"), "https://b.example", 101),
    ],
)
async def test_only_pages_of_allowed_origins_may_connect(
    allowed: tuple[str, ...], origin: str | None, expected: int
) -> None:
    options = WebSocketOptions(allowed_origins=allowed)
    async with serve(echo_all, options=options) as service:
        headers = [] if origin is None else [f"Origin: {origin}"]
        head, body = await ask(service, *headers)
        assert status(head) == expected
        assert body == ""


async def test_a_route_may_want_other_origins_than_its_app(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ran = False

    async def handler(socket: WebSocket) -> None:
        nonlocal ran
        ran = True

    accept_options = {"allowed_origins": ("https://here.example",)}
    async with serve(handler, accept_options=accept_options) as service:
        head, body = await ask(service, "Origin: https://elsewhere.example")
        assert (status(head), body, ran) == (403, "", False)
        head, _ = await ask(service, "Origin: https://here.example")
        assert (status(head), ran) == (101, True)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# Broken handshakes


@pytest.mark.parametrize(
    ("header", "expected", "says"),
    [
        ("Sec-WebSocket-Key: short", 400, "16 bytes in base64"),
        ("Sec-WebSocket-Key: " + base64.b64encode(bytes(15)).decode(), 400, "16 bytes in base64"),
        ("Sec-WebSocket-Key:", 400, "Sec-WebSocket-Key is missing"),
        ("Sec-WebSocket-Version:", 400, "Sec-WebSocket-Version is missing"),
        ("Sec-WebSocket-Version: 12", 426, "version 13"),
    ],
)
async def test_a_broken_handshake_is_told_what_is_wrong_with_it(
    header: str, expected: int, says: str
) -> None:
    async with serve(echo_all) as service:
        head, body = await ask(service, header)
        assert status(head) == expected
        assert says in body
        if expected == 426:
            assert "sec-websocket-version: 13" in head.lower()


# accept()


async def test_accept_outside_a_request_is_a_mistake_of_the_app() -> None:
    with pytest.raises(UsageError, match="use_websockets"):
        async with accept():
            pass


async def test_a_websocket_is_accepted_once() -> None:
    async def handler(socket: WebSocket) -> None:
        with pytest.raises(UsageError, match="accepted before"):
            async with accept():
                pass
        await socket.send("checked")

    async with serve(handler) as service, service.connect() as client:
        assert await client.get_message() == "checked"


@pytest.mark.parametrize(
    ("accept_options", "says"),
    [
        ({"subprotocol": "unoffered"}, "did not offer the subprotocol 'unoffered', but 'a', 'b'"),
        ({"close_timeout": -1}, "close_timeout must be a positive number"),
        ({"max_message_size": 0}, "max_message_size must be a whole number of at least 1"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
async def test_what_accept_cannot_do_is_a_500_that_names_it_in_the_log(
    accept_options: dict[str, Any], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(echo_all, accept_options=accept_options) as service:
        head, _ = await ask(service, "Sec-WebSocket-Protocol: a, b")
        assert status(head) == 500
    assert says in caplog.text


async def test_headers_of_accept_are_part_of_the_answer() -> None:
    given = {"headers": [("Set-Cookie", "a=1"), ("X-Name", "value")]}
    async with serve(echo_all, accept_options=given) as service, service.peer() as peer:
        lines = peer.response.lower().split("\r\n")
        assert "set-cookie: a=1" in lines
        assert "x-name: value" in lines


async def test_options_given_to_accept_hold_for_that_socket() -> None:
    given = {"max_message_size": 10, "close_timeout": 0.3}
    async with serve(echo_all, accept_options=given) as service, service.connect() as client:
        await client.send_message(b"x" * 11)
        with pytest.raises(ClientClosed):
            await client.get_message()
        assert client.closed is not None
        assert client.closed.code == 1009


async def test_a_handler_that_is_cancelled_closes_with_1001() -> None:
    after: list[bool] = []

    async def unused(socket: WebSocket) -> None:
        raise AssertionError

    async with serve(unused) as service:

        @service.app.websocket("/cancelled")
        async def cancelled() -> None:
            with trio.move_on_after(0.05) as scope:
                async with accept(close_timeout=0.3):
                    await trio.sleep_forever()
            after.append(scope.cancelled_caught)

        async with _peer_of(service, "/cancelled") as peer:
            assert await peer.receive_close() == (1001, "")
            await peer.send(0x88, b"\x03\xe9")
            await peer.receive_eof()
    assert after == [True]


def _peer_of(service: Service, path: str) -> Any:
    """A peer at another path."""
    original = service.open_stream

    class Elsewhere:
        async def __aenter__(self) -> Peer:
            stream = await original()
            send_all = stream.send_all

            async def send(data: bytes) -> None:
                await send_all(bytes(data).replace(b"GET /ws ", f"GET {path} ".encode()))

            stream.send_all = send
            self.peer = Peer(stream)
            await self.peer.shake_hands()
            return self.peer

        async def __aexit__(self, *_: object) -> None:
            await trio.aclose_forcefully(self.peer.stream)

    return Elsewhere()


# Beside Quart's own


async def test_routes_with_quarts_own_websocket_go_on_to_work() -> None:
    async with serve(echo_all) as service:

        @service.app.websocket("/plain")
        async def plain() -> None:
            while True:
                await websocket.send(f"quart: {await websocket.receive()!s}")

        async with _peer_of(service, "/plain") as plain_peer, service.peer() as ours:
            await plain_peer.send(0x81, b"hello")
            assert await plain_peer.receive() == (0x81, b"quart: hello")
            await ours.send(0x81, b"hello")
            assert await ours.receive() == (0x81, b"hello")


async def test_a_websocket_that_no_route_knows_is_not_found() -> None:
    async with serve(echo_all) as service:
        head, _ = await ask(service, path="/nowhere")
        assert status(head) == 404


# The end


async def test_a_handshake_during_the_shutdown_is_answered_with_503() -> None:
    async def handler(socket: WebSocket) -> None:
        await socket.send("ready")
        await socket.shutting_down()
        await trio.sleep(1)

    async with serve(handler) as service, service.peer() as peer:
        assert await peer.receive() == (0x81, b"ready")
        # The worker drains while Hypercorn, in this test, still takes connections.
        service.middleware.worker.nursery.start_soon(service.middleware.worker.drain, 3.0)
        await trio.testing.wait_all_tasks_blocked()
        head, body = await ask(service)
        assert status(head) == 503
        assert "retry-after: 1" in head.lower()
        assert "shutting down" in body


async def test_a_task_of_the_app_learns_of_the_shutdown() -> None:
    learned = trio.Event()

    async with serve(echo_all) as service, service.peer():

        async def wait() -> None:
            await service.middleware.shutting_down()
            learned.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert not learned.is_set()
            service.shut_down()
            await learned.wait()


async def test_without_a_lifespan_the_app_is_told_what_is_missing() -> None:
    async with serve(echo_all) as service:
        middleware = service.middleware
    with pytest.raises(UsageError, match="lifespan"):
        await middleware.shutting_down()
