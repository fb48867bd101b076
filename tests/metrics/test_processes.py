"""Several processes: each answers on a port of its own, also while it drains, whatever is asked."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException

import pytest
from websockets.sync.client import connect

from tests.metrics.scraped import Scraped
from tests.servers import Server, free_port, running


def scrape(port: int) -> Scraped | None:
    """What is answered there; None if nobody does."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        assert response.status == 200
        return Scraped(response.read())
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def wait_for(port: int) -> Scraped:
    deadline = time.monotonic() + 60
    while (scraped := scrape(port)) is None:
        assert time.monotonic() < deadline, "no metrics"
        time.sleep(0.05)
    return scraped


def two_ports() -> int:
    """The first of two ports that are free."""
    while True:
        port = free_port()
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def test_each_worker_answers_for_itself() -> None:
    first = two_ports()
    command = ("-m", "echo", "--port", "{port}", "--workers", "2")
    with running(*command, env={"ECHO_METRICS": f"127.0.0.1:{first}-{first + 1}"}) as server:
        pids = {wait_for(port).label("echo_process_info", "pid") for port in (first, first + 1)}
        assert len(pids) == 2
        assert str(server.process.pid) not in pids
        assert server.get("/metrics") == 404
        with ExitStack() as stack:
            for _ in range(10):
                stack.enter_context(connect(server.ws_url))
            opened = [
                wait_for(port).value("echo_websockets", carrier="reactor", state="open")
                for port in (first, first + 1)
            ]
            assert sum(opened) == 10


@pytest.fixture(scope="module")
def place() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(place: int) -> Iterator[Server]:
    env = {"ECHO_METRICS": f"127.0.0.1:{place}", "ECHO_SHUTDOWN_TIMEOUT": "5"}
    with running("-m", "echo", "--port", "{port}", env=env) as server:
        wait_for(place)
        yield server


def told(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=15) as stream:
        stream.sendall(request)
        answer = b""
        try:
            while data := stream.recv(65536):
                answer += data
        except ConnectionResetError:
            pass
        return answer


def test_nothing_else_is_answered_there(server: Server, place: int) -> None:
    head = b"%s %s HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert told(place, head % (b"GET", b"/ws")).startswith(b"HTTP/1.1 404 ")
    assert told(place, head % (b"POST", b"/metrics")).startswith(b"HTTP/1.1 405 ")
    answer = told(place, head % (b"HEAD", b"/metrics"))
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\n")
    assert told(place, b"\x16\x03\x01 nonsense\r\n\r\n") == b""
    assert told(place, b"GET /" + b"x" * 100_000) == b""
    with ExitStack() as stack:
        # Who says nothing takes a place, but none of the service's.
        for _ in range(32):
            stack.enter_context(socket.create_connection(("127.0.0.1", place)))
        assert server.get("/healthz") == 200
    assert wait_for(place).value("echo_draining") == 0
    assert "Traceback" not in server.stderr


def test_the_start_of_the_process_is_right(server: Server, place: int) -> None:
    scraped = wait_for(place)
    assert abs(time.time() - scraped.value("process_start_time_seconds")) < 120
    assert 0 < scraped.value("process_cpu_seconds_total") < 60
    descriptors = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    assert abs(scraped.value("process_open_fds") - descriptors) < 8


def test_a_drain_is_seen(server: Server, place: int) -> None:
    with connect(server.ws_url, close_timeout=1) as client, connect(server.ws_url):
        client.socket.setblocking(True)
        silent = socket.create_connection(("127.0.0.1", server.port))
        silent.sendall(
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert silent.recv(12) == b"HTTP/1.1 101"
        server.process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + 4
        while not (scraped := wait_for(place)).value("echo_draining"):
            assert time.monotonic() < deadline
        while not scraped.value("echo_websocket_closes_total", by="server", code="1012"):
            assert time.monotonic() < deadline
            scraped = wait_for(place)
        silent.close()
    assert server.process.wait(15) == 0
