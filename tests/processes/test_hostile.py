"""What a server process does with peers that are rude, broken or slow, and with odd requests."""

import contextlib
import os
import select
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

from tests.harness import KEY, frame
from tests.servers import Server, running

TRIO = ("-m", "hypercorn", "-k", "trio", "-b", "{bind}", "echo:app")
ASYNCIO = ("-m", "hypercorn", "-b", "{bind}", "echo:app")
ECHO = ("-m", "echo", "--host", "127.0.0.1", "--port", "{port}")
HYPERCORN_GRACE = 3.0  # its default, in seconds
GRACE = 2.0  # ours in these tests
MIB = 1024 * 1024

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: " + KEY + b"\r\nSec-WebSocket-Version: 13\r\n"
)

PATHS = [
    pytest.param(TRIO, "on", HYPERCORN_GRACE, id="hypercorn -k trio"),
    pytest.param(TRIO, "off", HYPERCORN_GRACE, id="hypercorn -k trio, portable path"),
    pytest.param(ECHO, "on", GRACE, id="python -m echo"),
]


class Client:
    """A blocking client that sends whatever bytes it is told to."""

    def __init__(self, server: Server, *headers: str, shake_hands: bool = True) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        self._file = self.socket.makefile("rb")
        if shake_hands:
            lines = "".join(f"{each}\r\n" for each in headers).encode()
            self.socket.sendall(HANDSHAKE + lines + b"\r\n")
            status = self._file.readline()
            assert b" 101 " in status, status
            self.response = b"".join(iter(self._file.readline, b"\r\n"))

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.socket.close()

    def send(self, first: int, payload: bytes) -> None:
        self.socket.sendall(frame(first, payload, b"\0\0\0\0"))

    def receive(self) -> tuple[int, bytes]:
        """The next frame: its first byte and its payload."""
        first, length = self._exactly(2)
        if length == 126:
            (length,) = struct.unpack("!H", self._exactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self._exactly(8))
        return first, self._exactly(length)

    def receive_close(self) -> tuple[int, str]:
        first, payload = self.receive()
        assert first == 0x88, (first, payload[:100])
        return int.from_bytes(payload[:2], "big"), payload[2:].decode()

    def read_to_end(self) -> bytes:
        with contextlib.suppress(ConnectionError):
            return self._file.read()
        return b""

    def _exactly(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise EOFError("the server has ended the connection")
        return data


@contextlib.contextmanager
def clients(server: Server, count: int) -> Iterator[list[Client]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Client(server)) for _ in range(count)]


def request(server: Server, method: str, path: str, **headers: str) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers={**fields, "Connection": "close", **fields})
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def shaking(**changes: str) -> dict[str, str]:
    """The headers of a good handshake, with changes."""
    good = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec_WebSocket_Key": KEY.decode(),
        "Sec_WebSocket_Version": "13",
    }
    return {**good, **changes}


def pour(client: Client, most: int) -> int:
    """Send large messages without reading until the server stops taking them; the bytes sent."""
    message = frame(0x82, bytes(MIB), b"\0\0\0\0")
    client.socket.setblocking(False)
    sent = 0
    view = memoryview(message)
    while sent < most:
        if not select.select([], [client.socket], [], 1.5)[1]:
            break
        count = client.socket.send(view)
        sent += count
        view = view[count:] or memoryview(message)
    return sent


def resident(server: Server) -> int:
    """Bytes of memory the server has in use."""
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def descriptors(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def assert_quiet(server: Server) -> None:
    for word in ("Traceback", "[WARNING]", "[ERROR]", "WARNING", "ERROR", "never awaited"):
        assert word not in server.stderr, server.stderr


# The end


@pytest.mark.parametrize(("command", "reactor", "grace"), PATHS)
def test_sigterm_says_1001_to_all_even_if_one_peer_has_stopped_reading(
    command: tuple[str, ...], reactor: str, grace: float
) -> None:
    env = {"ECHO_REACTOR": reactor, "ECHO_SHUTDOWN_TIMEOUT": str(GRACE)}
    with running(*command, env=env) as server, clients(server, 101) as [stuck, *idle]:
        sent = pour(stuck, 100 * MIB)
        assert sent < 100 * MIB, "the server took all of it"
        server.process.terminate()
        begun = time.monotonic()
        assert {client.receive_close()[0] for client in idle} == {1001}
        assert time.monotonic() - begun < 1
        for client in idle:
            client.send(0x88, b"\x03\xe9")
            assert client.read_to_end() == b""
        assert server.process.wait(grace + 1) == 0
        assert time.monotonic() - begun < grace + 1
        assert_quiet(server)


@pytest.mark.parametrize("command", [pytest.param(TRIO, id="trio"), pytest.param(ECHO, id="echo")])
def test_the_shutdown_code_is_a_setting(command: tuple[str, ...]) -> None:
    with running(*command, env={"ECHO_SHUTDOWN_CODE": "1012"}) as server, Client(server) as client:
        server.process.terminate()
        assert client.receive_close()[0] == 1012


# Bounds


@pytest.mark.parametrize("reactor", ["on", "off"])
def test_a_compressed_bomb_costs_no_memory_and_is_answered_with_1009(reactor: str) -> None:
    packer = zlib.compressobj(9, wbits=-15)
    bomb = packer.compress(bytes(256 * MIB)) + packer.flush(zlib.Z_SYNC_FLUSH)
    env = {
        "ECHO_COMPRESSION": "on",
        "ECHO_MAX_MESSAGE_SIZE": str(MIB),
        "ECHO_REACTOR": reactor,
    }
    offer = "Sec-WebSocket-Extensions: permessage-deflate"
    with running(*TRIO, env=env) as server:
        with Client(server, offer) as client:  # what compression itself needs is there now
            client.send(0x81, b"hello")
            assert client.receive()[1]
        before = resident(server)
        with Client(server, offer) as client:
            assert b"permessage-deflate" in client.response
            with contextlib.suppress(ConnectionError):
                client.send(0xC2, bomb[:-4])
            while (got := client.receive())[0] != 0x88:
                pass  # what was inflated up to the limit comes back first
            assert got[1][:2] == b"\x03\xf1"
        assert resident(server) - before < 8 * MIB
        assert_quiet(server)


@pytest.mark.parametrize(
    "command", [pytest.param(TRIO, id="hypercorn -k trio"), pytest.param(ECHO, id="python -m echo")]
)
@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET /ws HT", id="half a line"),
        pytest.param(HANDSHAKE, id="half a handshake"),
    ],
)
def test_who_never_completes_the_handshake_is_dropped(
    command: tuple[str, ...], begin: bytes
) -> None:
    with running(*command) as server, Client(server, shake_hands=False) as client:
        begun = time.monotonic()
        client.socket.sendall(begin)
        client.read_to_end()
        assert time.monotonic() - begun < 8
        assert_quiet(server)


def test_headers_that_never_end_are_cut_off() -> None:
    with running(*TRIO) as server, Client(server, shake_hands=False) as client:
        with contextlib.suppress(ConnectionError):
            client.socket.sendall(HANDSHAKE)
            for _ in range(1000):
                client.socket.sendall(b"X-More: " + b"x" * 1000 + b"\r\n")
        answer = client.read_to_end()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
        assert server.get("/") == 200
        assert_quiet(server)


@pytest.mark.parametrize("reactor", ["on", "off"])
def test_sockets_that_are_reset_leave_nothing_behind(reactor: str) -> None:
    with running(*TRIO, env={"ECHO_REACTOR": reactor}) as server:
        with Client(server):
            pass
        time.sleep(0.3)
        before = descriptors(server)
        with clients(server, 200) as those:
            for client in those:
                now = struct.pack("ii", 1, 0)
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
        deadline = time.monotonic() + 5
        while descriptors(server) > before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert descriptors(server) <= before
        assert_quiet(server)


BROKEN = [
    pytest.param(b"\x00\xff\x16\x03\x01 nonsense\r\n\r\n", id="garbage"),
    pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no host"),
    pytest.param(
        b"POST /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        id="two lengths",
    ),
    pytest.param(
        b"POST /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"zz\r\nGET / HTTP/1.1\r\n\r\n",
        id="length and chunks",
    ),
    pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n", id="blank before the colon"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", id="two hosts"),
    pytest.param(
        HANDSHAKE.replace(KEY, b"short") + b"\r\n",
        id="wrong key",
    ),
]


@pytest.fixture(scope="module")
def service() -> Iterator[Server]:
    with running(*TRIO) as server:
        yield server
        assert_quiet(server)


@pytest.mark.parametrize("sent", BROKEN)
def test_what_is_no_sound_request_gets_an_answer_in_the_400s(service: Server, sent: bytes) -> None:
    with Client(service, shake_hands=False) as client:
        client.socket.sendall(sent)
        answer = client.read_to_end()
        assert answer.startswith(b"HTTP/1.1 4"), answer
        assert answer.count(b"HTTP/1.1 ") == 1
    assert_quiet(service)


def test_no_broken_request_takes_the_server_down() -> None:
    # The error response races with the answer of the app: Hypercorn lets both write at once.
    racing = (
        b"POST /ws HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"zz\r\nGET / HTTP/1.1\r\n\r\n"
    )
    with running(*TRIO) as server:
        for _ in range(50):
            with Client(server, shake_hands=False) as client:
                client.socket.sendall(racing)
                client.socket.shutdown(socket.SHUT_WR)
                client.read_to_end()
        assert server.get("/") == 200
        assert_quiet(server)


# Requests


def test_a_request_for_the_socket_that_is_no_handshake_gets_400_and_a_reason(
    service: Server,
) -> None:
    response, body = request(service, "GET", "/ws")
    assert response.status == 400
    assert body == b"This is a WebSocket: the header 'Upgrade: websocket' is missing.\n"
    response, body = request(service, "POST", "/ws")
    assert response.status == 400
    assert body == b"A WebSocket handshake is a GET request, not POST.\n"


def test_another_version_gets_426_and_the_version_that_is_spoken(service: Server) -> None:
    response, body = request(service, "GET", "/ws", **shaking(Sec_WebSocket_Version="12"))
    assert (response.status, response.headers["Sec-WebSocket-Version"]) == (426, "13")
    assert body == b"WebSocket version 13 is the only one here.\n"


def test_an_unknown_path_gets_404(service: Server) -> None:
    assert request(service, "GET", "/nothing")[0].status == 404
    assert request(service, "GET", "/page/nothing")[0].status == 404
    assert request(service, "GET", "/page/..%2f__init__.py")[0].status == 404
    assert request(service, "GET", "/nothing", **shaking())[0].status == 404


def test_the_page_comes_with_its_security_headers(service: Server) -> None:
    response, body = request(service, "GET", "/")
    assert response.status == 200
    assert b"<title>" in body
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    head, nothing = request(service, "HEAD", "/")
    assert (head.status, nothing) == (200, b"")
    assert head.headers["Content-Length"] == str(len(body))


@pytest.mark.parametrize(
    "command", [pytest.param(TRIO, id="hypercorn -k trio"), pytest.param(ASYNCIO, id="hypercorn")]
)
def test_pages_of_other_origins_get_403_and_no_body(command: tuple[str, ...]) -> None:
    env = {"ECHO_ALLOWED_ORIGINS": "https://example.org"}
    with running(*command, env=env) as server:
        response, body = request(server, "GET", "/ws", **shaking(Origin="https://evil.example"))
        assert (response.status, body) == (403, b"")
        for headers in (["Origin: https://EXAMPLE.org"], []):
            with Client(server, *headers) as client:
                client.send(0x81, b"hello")
                assert client.receive() == (0x81, b"hello")
        assert_quiet(server)


@pytest.mark.parametrize(
    "command", [pytest.param(TRIO, id="hypercorn -k trio"), pytest.param(ASYNCIO, id="hypercorn")]
)
def test_the_two_commands_of_the_echo_close_and_abort(command: tuple[str, ...]) -> None:
    with running(*command) as server:
        with Client(server) as client:
            client.send(0x81, b"ServerClose")
            assert client.receive_close() == (1000, "Closing from Server")
        with Client(server) as client:
            client.send(0x81, b"ServerAbort")
            if command is ASYNCIO:  # ASGI knows no abort: a close frame is all there is
                assert client.receive_close()[0] == 1011
            else:
                with pytest.raises((EOFError, ConnectionError)):
                    client.receive()
        assert_quiet(server)


# What a connection sees of the asyncio worker, which hosts Trio as a guest


def test_hypercorn_without_trio_serves_the_same_echo_with_the_same_bounds() -> None:
    with running(*ASYNCIO, env={"ECHO_MAX_MESSAGE_SIZE": "1000"}) as server:
        assert server.get("/") == 200
        with Client(server) as client, Client(server) as idle:
            for first, payload in ((0x82, b""), (0x81, b""), (0x82, b"\x00\xff"), (0x81, b"hi")):
                client.send(first, payload)
                assert client.receive() == (first, payload)
            client.send(0x82, bytes(1001))
            assert client.receive_close()[0] == 1009
            server.process.terminate()
            assert idle.receive_close()[0] in {1001, 1012}
            idle.send(0x88, b"\x03\xe9")
            assert server.process.wait(HYPERCORN_GRACE + 1) == 0
        assert "Traceback" not in server.stderr
