"""The service under a systemd that the test plays: sockets, readiness, watchdog, the end."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.activation import LAUNCHER, Process, Systemd
from tests.missing import needs
from tests.servers import ROOT, environment

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def open_websocket(systemd: Systemd) -> socket.socket:
    client = systemd.connect()
    client.sendall(HANDSHAKE)
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = client.recv(4096)
        assert data, answer
        answer += data
    assert answer.startswith(b"HTTP/1.1 101"), answer
    return client


def close_code(client: socket.socket) -> int:
    """The code of the close frame that comes next; it is answered."""
    frame = client.recv(4096)
    assert frame[0] == 0x88, frame
    client.sendall(b"\x88\x82\0\0\0\0" + frame[2:4])
    return int.from_bytes(frame[2:4], "big")


def workers_of(process: Process) -> list[int]:
    lists = Path(f"/proc/{process.process.pid}/task").glob("*/children")
    return [int(each) for children in lists for each in children.read_text().split()]


def lives(systemd: Systemd, seconds: float) -> int:
    """How many signs of life come in so many seconds, without what was told before."""
    while systemd.hear(0):
        pass
    count = 0
    deadline = time.monotonic() + seconds
    while (rest := deadline - time.monotonic()) > 0:
        count += systemd.hear(rest).count("WATCHDOG=1")
    return count


def freezing_stops_the_watchdog(systemd: Systemd, pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    try:
        # What was under way when it froze may still come.
        lives(systemd, 0.4)
        assert lives(systemd, 0.8) == 0
    finally:
        os.kill(pid, signal.SIGCONT)  # a frozen worker would outlive its supervisor
    systemd.wait_for("WATCHDOG=1")


def test_it_serves_the_inherited_socket_and_says_how_it_is() -> None:
    env = {"WATCHDOG_USEC": "400000", "ECHO_PORT": "1"}
    with Systemd() as systemd, systemd.start(env=env) as process:
        client = open_websocket(systemd)
        client.sendall(b"\x81\x85\0\0\0\0hello")
        assert client.recv(100) == b"\x81\x05hello"
        assert systemd.wait_for("STATUS=") == "STATUS=Serving, open sockets: 1"
        systemd.wait_for("WATCHDOG=1")
        freezing_stops_the_watchdog(systemd, process.process.pid)
        process.process.send_signal(signal.SIGTERM)
        systemd.wait_for("STOPPING=1")
        assert systemd.lines[-1][1] == "STATUS=Draining, open sockets: 1"
        assert close_code(client) == 1001
        assert process.process.wait(10) == 0
        assert f"Echo runs on unix:{systemd.path}. Ctrl+C ends it." in process.stderr
        assert "Traceback" not in process.stderr


def test_the_supervisor_of_workers_speaks_for_all_of_them() -> None:
    env = {"WATCHDOG_USEC": "400000", "LISTEN_FDNAMES": "echo"}
    with (
        Systemd(tcp=True, abstract=True) as systemd,
        systemd.start("--workers", "2", env=env) as process,
    ):
        workers = workers_of(process)
        assert len(workers) == 2
        for worker in workers:
            variables = Path(f"/proc/{worker}/environ").read_text()
            assert not re.search("NOTIFY_|WATCHDOG_|LISTEN_", variables)
        clients = [open_websocket(systemd) for _ in range(6)]
        deadline = time.monotonic() + 10
        while systemd.wait_for("STATUS=") != "STATUS=Serving, open sockets: 6":
            assert time.monotonic() < deadline
        # One that is frozen is enough.
        freezing_stops_the_watchdog(systemd, workers[1])
        process.process.send_signal(signal.SIGUSR1)
        assert systemd.wait_for("STOPPING=1")
        assert {close_code(client) for client in clients} == {1012}
        assert process.process.wait(10) == 0
        assert "Traceback" not in process.stderr


def refused(make: Callable[[], socket.socket]) -> subprocess.CompletedProcess[str]:
    with make() as given:
        return subprocess.run(
            ["sh", "-c", LAUNCHER, sys.executable],
            cwd=ROOT,
            env=environment(),
            stdin=given.fileno(),
            capture_output=True,
            text=True,
            timeout=20,
        )


def test_a_socket_that_is_of_no_use_is_one_line() -> None:
    ended = refused(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    assert ended.returncode == 1
    assert ended.stderr == (
        "Descriptor 3 of LISTEN_FDS is no stream socket; use ListenStream= in the socket unit\n"
    )
    assert ended.stdout == ""


@needs("systemd-socket-activate", "systemd")
def test_it_takes_the_socket_from_systemds_own_program(tmp_path: Path) -> None:
    path = tmp_path / "echo.sock"
    command = ["systemd-socket-activate", "-l", str(path), sys.executable, "-m", "echo"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(10)
                deadline = time.monotonic() + 10
                while client.connect_ex(str(path)) != 0:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
                client.sendall(HANDSHAKE)
                assert client.recv(4096).startswith(b"HTTP/1.1 101")
        finally:
            os.killpg(process.pid, signal.SIGKILL)
