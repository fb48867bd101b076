"""Servers that are not Echo, written by others, get findings that make sense."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio_websocket

from echo.doctor.target import Target, parse
from tests.doctor.servers import cause, examined, finding, opening, printed, served
from tests.servers import free_port


async def silent(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


OWN = {"client", "scheme", "host", "events"}


@asynccontextmanager
async def websockets(talk: Callable[[Any], Awaitable[None]]) -> AsyncIterator[Target]:
    """trio-websocket's server, which opens a WebSocket at any path."""

    async def handler(request: Any) -> None:
        connection = await request.accept()
        with suppress(trio_websocket.ConnectionClosed):
            await talk(connection)

    async with trio.open_nursery() as nursery:
        serve = partial(
            trio_websocket.serve_websocket, handler, "127.0.0.1", 0, ssl_context=None,
            message_queue_size=8,
        )  # fmt: skip
        server = await nursery.start(serve)
        yield parse(f"ws://127.0.0.1:{server.port}/chat")
        nursery.cancel_scope.cancel()


async def test_an_echo_by_others_is_well() -> None:
    async def echo(connection: Any) -> None:
        while True:
            await connection.send_message(await connection.get_message())

    async with websockets(echo) as target:
        report = await examined(target)
    assert report.healthy, printed(report)
    states = {each.name: each.state.value for each in report.findings}
    assert {name for name, state in states.items() if state == "skipped"} >= OWN | {"page", "tls"}
    for name in ("handshake", "answer", "echo", "fragments", "ping", "close", "dials"):
        assert states[name] == "ok", printed(report)
    assert "not Echo" in finding(report, "server").seen


async def test_a_service_that_does_not_echo_is_well() -> None:
    async def greet(connection: Any) -> None:
        await connection.send_message("hello, who are you?")
        while True:
            await connection.get_message()

    async with websockets(greet) as target:
        report = await examined(target)
    assert report.healthy, printed(report)
    assert finding(report, "echo").state == "skipped"
    assert "not a service that echoes" in finding(report, "echo").seen
    assert finding(report, "ping").state == "ok"
    assert finding(report, "close").state == "ok"


@pytest.fixture
def website() -> Iterator[Target]:
    """A plain web server without WebSockets."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/"
            body = b"<title>Shop</title>" + b"x" * 300_000 if found else b"nothing"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield parse(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()


async def test_a_website_without_websockets_is_told_that_its_path_is_unknown(
    website: Target,
) -> None:
    report = await examined(website)
    assert cause(report, "handshake") == "path-unknown"
    assert report.first is finding(report, "handshake")
    assert finding(report, "page").state == "ok"
    assert finding(report, "h2c").state == "ok"
    text = printed(report)
    assert "not Echo's page" in text
    assert "--path /the/path" in text


async def test_a_server_that_answers_only_websockets_is_asked_for_them() -> None:
    async with served(opening(silent, answers=False)) as target:
        report = await examined(target, "page")
    assert finding(report, "server").state == "ok"
    assert finding(report, "page").state == "skipped"
    assert finding(report, "handshake").state == "ok", printed(report)


async def test_a_port_where_nobody_listens_and_a_name_that_nobody_has() -> None:
    async with served(silent) as target:
        pass
    report = await examined(target)
    assert cause(report, "tcp") == "connection-refused"
    assert all(each.state == "skipped" for each in report.findings[2:])
    report = await examined(parse("http://nobody.invalid"))
    assert cause(report, "address") == "name-unknown"
    report = await examined(parse("unix:/nowhere/echo.sock"))
    assert cause(report, "tcp") == "socket-missing"


class Resolver(trio.abc.HostnameResolver):
    """A name server that knows one name."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def getaddrinfo(self, host: Any, port: Any, *_: Any) -> Any:
        stream = socket.SOCK_STREAM
        return [(socket.AF_INET, stream, 6, "", (each, port)) for each in self.addresses]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


async def test_an_address_at_which_nobody_answers_is_warned_of() -> None:
    # Nobody listens on this machine's other addresses; on loopback that would be no fault.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("", 0))
        other = "127.0.0.1"
        with suppress(OSError):
            probe.connect(("192.0.2.1", 9))
            other = probe.getsockname()[0]
    if other == "127.0.0.1":
        pytest.skip("this machine has no address but loopback")
    trio.socket.set_custom_hostname_resolver(Resolver(other, "127.0.0.1"))
    async with served(opening(silent)) as target:
        report = await examined(replace(target, host="echo.example"), "page")
    assert (cause(report, "tcp"), finding(report, "tcp").state) == ("address-dead", "warning")
    assert other in finding(report, "tcp").seen
    assert finding(report, "handshake").state == "ok"


async def test_of_a_bare_host_the_usual_ports_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(opening(silent)) as target:
        assert target.port is not None
        guesses = {free_port(): True, target.port: False}
        monkeypatch.setattr("echo.doctor.steps.connection._GUESSES", guesses)
        report = await examined(parse("127.0.0.1"), "page")
    assert finding(report, "tcp").state == "ok"
    assert finding(report, "handshake").state == "ok"
    assert report.url == str(target)
