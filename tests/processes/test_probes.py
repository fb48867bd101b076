"""What monitors and proxies ask and tell, at a running service, whichever way it was started."""

import json
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed, wrap_client_stream

from tests.activation import Systemd
from tests.processes.test_start_and_end import ASYNCIO, ECHO, TRIO
from tests.servers import Server, running

STARTS = [
    pytest.param((*TRIO, "echo:app"), id="hypercorn -k trio"),
    pytest.param((*ASYNCIO, "echo:app"), id="hypercorn"),
    pytest.param(ECHO, id="python -m echo"),
]
FORWARDED = {
    "X-Forwarded-For": "192.0.2.66, 203.0.113.7",
    "X-Forwarded-Proto": "https",
    "Host": "example.org",
}


def get(server: Server, path: str, headers: Mapping[str, str] = {}) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("GET", path, headers={"Connection": "close", **headers})
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


async def whoami(server: Server, headers: dict[str, str]) -> Any:
    """What a WebSocket is told, and that it is closed afterwards."""
    with trio.fail_after(10):
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream, trio.open_nursery() as nursery:
            client = await wrap_client_stream(
                nursery,
                stream,
                "localhost",
                "/whoami",
                extra_headers=[(name.encode(), value.encode()) for name, value in headers.items()],
            )
            message = await client.get_message()
            with pytest.raises(ConnectionClosed) as caught:
                await client.get_message()
            assert caught.value.reason is not None
            assert caught.value.reason.code == 1000
            return json.loads(message)


@pytest.mark.parametrize("command", STARTS)
def test_it_answers_those_who_look_after_it(command: tuple[str, ...]) -> None:
    with running(*command, env={"ECHO_TRUSTED_PROXIES": "127.0.0.0/8"}) as server:
        for path, status in (
            ("/healthz", {"status": "ok"}),
            ("/readyz", {"status": "ready", "sockets": 0}),
        ):
            response, body = get(server, path)
            assert (response.status, json.loads(body)) == (200, status)
            assert response.headers["Cache-Control"] == "no-store"

        # A trusted proxy is believed, for https and wss alike.
        expected = {
            "client": "203.0.113.7",
            "scheme": "https",
            "host": "example.org",
            "http_version": "1.1",
            "forwarded": True,
        }
        response, body = get(server, "/whoami", FORWARDED)
        assert json.loads(body) == expected
        assert response.headers["Cache-Control"] == "no-store"
        headers = {name: value for name, value in FORWARDED.items() if name != "Host"}
        seen = trio.run(whoami, server, headers)
        expected = {**expected, "scheme": "wss", "host": "localhost"}
        assert seen == expected

        # Without a proxy the peer is the client.
        _, body = get(server, "/whoami")
        seen = json.loads(body)
        assert (seen["client"], seen["scheme"], seen["forwarded"]) == ("127.0.0.1", "http", False)
        assert trio.run(whoami, server, {})["scheme"] == "ws"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(*ECHO) as server:
        yield server


def test_a_stranger_is_not_believed_about_itself(server: Server) -> None:
    _, body = get(server, "/whoami", FORWARDED)
    seen = json.loads(body)
    assert (seen["client"], seen["scheme"], seen["forwarded"]) == ("127.0.0.1", "http", False)


def test_over_a_unix_socket_the_proxy_alone_knows_the_client() -> None:
    with Systemd() as systemd, systemd.start():
        seen = json.loads(systemd.get("/whoami")[1])
        assert (seen["client"], seen["scheme"], seen["forwarded"]) == (None, "http", False)
        seen = json.loads(systemd.get("/whoami", FORWARDED)[1])
        assert (seen["client"], seen["scheme"]) == ("203.0.113.7", "https")


def test_ticks_come_one_by_one(server: Server) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/ticks")
    response = connection.getresponse()
    assert response.headers["Content-Type"].startswith("text/event-stream")
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Accel-Buffering"] == "no"
    times = []
    for number in range(4):
        assert response.readline() == b"data: %d\n" % number
        assert response.readline() == b"\n"
        times.append(time.monotonic())
    assert response.read() == b""
    connection.close()
    assert times[-1] - times[0] > 0.5
