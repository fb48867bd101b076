"""Something between the doctor and the real service that does what no proxy should do."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import trio

from echo.doctor.target import Target, parse
from tests.doctor.servers import cause, examined, finding, printed, served
from tests.servers import Server, running

Change = Callable[[bytes, int], bytes | None]
"""Of bytes from the service and how many came before: what is passed on, or None for the end."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    env = {"ECHO_COMPRESSION": "on", "ECHO_KEEP_ALIVE_INTERVAL": "0.2"}
    with running("-m", "echo", "--host", "127.0.0.1", "--port", "{port}", env=env) as server:
        yield server
        assert "Traceback" not in server.stderr


@asynccontextmanager
async def between(server: Server, change: Change) -> AsyncIterator[Target]:
    """The service, seen through something that changes what it says."""

    async def handler(client: trio.SocketStream) -> None:
        service = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with service, trio.open_nursery() as nursery:

            async def up() -> None:
                try:
                    async for data in client:
                        await service.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
                nursery.cancel_scope.cancel()

            nursery.start_soon(up)
            count = 0
            try:
                async for data in service:
                    passed = change(bytes(data), count)
                    count += len(data)
                    if passed is None:
                        break
                    await client.send_all(passed)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            nursery.cancel_scope.cancel()

    async with served(handler) as target:
        yield target


async def test_nothing_in_between_is_all_well(server: Server) -> None:
    report = await examined(parse(server.url), idle=1)
    assert report.healthy, printed(report)
    assert {each.name for each in report.findings if each.state == "skipped"} == {"tls", "http2"}
    assert re.search("pings? came from the service", finding(report, "idle").seen)
    assert "taken, and a message comes back" in finding(report, "compression").seen
    assert "without a proxy" in finding(report, "server").seen


async def test_a_message_that_is_cut_is_named(server: Server) -> None:
    def cut(data: bytes, before: int) -> bytes | None:
        return data if before < 300_000 else None

    async with between(server, cut) as target:
        report = await examined(target, "echo")
    assert cause(report, "echo") == "message-cut", printed(report)
    assert "1 MiB: the connection ends with 1006" in finding(report, "echo").seen
    assert report.first is finding(report, "echo")


async def test_a_message_that_is_changed_is_named(server: Server) -> None:
    def flip(data: bytes, before: int) -> bytes:
        if before <= 400_000 < before + len(data):
            # Within the echoed mebibyte, and not where a frame may begin.
            place = 400_000 - before
            return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        return data

    async with between(server, flip) as target:
        report = await examined(target, "echo")
    assert cause(report, "echo") == "message-altered", printed(report)


async def test_a_pong_that_is_dropped_is_named(server: Server) -> None:
    def without_pongs(data: bytes, before: int) -> bytes:
        return b"" if data[:2] == b"\x8a\x08" else data

    async with between(server, without_pongs) as target:
        report = await examined(target, "ping", limit=1)
    assert cause(report, "ping") == "ping-unanswered", printed(report)


async def test_a_close_frame_that_is_changed_or_dropped_is_named(server: Server) -> None:
    def other_code(data: bytes, before: int) -> bytes:
        return data.replace(b"\x0f\xa0doctor", b"\x03\xe9doctor")

    def dropped(data: bytes, before: int) -> bytes | None:
        return None if data[:1] == b"\x88" else data

    async with between(server, other_code) as target:
        report = await examined(target, "echo", "close")
    assert cause(report, "close") == "close-altered", printed(report)
    assert "4000 'doctor' is answered with 1001 doctor" in finding(report, "close").seen
    async with between(server, dropped) as target:
        report = await examined(target, "echo", "close")
    assert cause(report, "close") == "close-lost", printed(report)


async def test_events_that_stop_are_named(server: Server) -> None:
    def stop(data: bytes, before: int) -> bytes | None:
        return None if b"data: 2" in data else data

    async with between(server, stop) as target:
        report = await examined(target, "events")
    assert cause(report, "events") == "sse-cut", printed(report)
    assert "2 of 4 events" in finding(report, "events").seen


async def test_settings_that_limit_the_service_are_seen() -> None:
    ours = "https://example.org"
    env = {"ECHO_MAX_MESSAGE_SIZE": "65536", "ECHO_ALLOWED_ORIGINS": ours}
    command = ("-m", "echo", "--host", "127.0.0.1", "--port", "{port}")
    with running(*command, env=env) as server:
        target = parse(server.url)
        report = await examined(target, "echo", "origin", origin=ours)
        assert report.healthy
        assert cause(report, "echo") == "message-too-big"
        assert "those of other sites get 403" in finding(report, "origin").seen
        report = await examined(target, "origin")
    assert cause(report, "origin") == "origin-refused"
    assert "403 from the service" in finding(report, "origin").seen
    assert f"\n      ECHO_ALLOWED_ORIGINS={server.url}\n" in printed(report)
