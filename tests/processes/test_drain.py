"""The end of a process that others go on after: nobody is refused, and everybody is told."""

import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.activation import Systemd
from tests.processes.test_systemd import HANDSHAKE, close_code, open_websocket


class Storm:
    """Clients that dial one after another, and what each was answered."""

    def __init__(self, systemd: Systemd) -> None:
        self.outcomes: Counter[str] = Counter()
        self.longest = 0.0
        self._systemd = systemd
        self._over = False
        self._threads = [threading.Thread(target=self._dial) for _ in range(4)]

    def __enter__(self) -> "Storm":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        self._over = True
        for thread in self._threads:
            thread.join()

    def _dial(self) -> None:
        while not self._over:
            begun = time.monotonic()
            try:
                with self._systemd.connect() as client:
                    client.sendall(HANDSHAKE)
                    outcome = client.recv(12).decode() or "nothing"
            except OSError as error:
                outcome = repr(error)
            self.outcomes[outcome] += 1
            self.longest = max(self.longest, time.monotonic() - begun)


def test_a_restart_tells_every_socket_and_turns_no_connection_away() -> None:
    with Systemd() as systemd:
        with systemd.start() as process:
            clients = [open_websocket(systemd) for _ in range(50)]
            with Storm(systemd) as storm:
                time.sleep(0.3)
                begun = time.monotonic()
                process.process.send_signal(signal.SIGUSR1)
                assert {close_code(client) for client in clients} == {1012}
                assert process.process.wait(10) == 0
                assert time.monotonic() - begun < 2
                with systemd.start():
                    time.sleep(0.2)
                    storm.end()
        assert set(storm.outcomes) == {"HTTP/1.1 101"}
        assert "Traceback" not in process.stderr


def test_what_waits_in_the_backlog_is_served_by_the_next() -> None:
    with Systemd(tcp=True) as systemd:
        with systemd.start(env={"ECHO_SHUTDOWN_TIMEOUT": "1"}) as process:
            stubborn = open_websocket(systemd)  # does not answer the close frame
            process.process.send_signal(signal.SIGTERM)
            assert stubborn.recv(4) == b"\x88\x13\x03\xe9"
            waiting = systemd.connect()
            waiting.sendall(HANDSHAKE)
            waiting.settimeout(0.3)
            with pytest.raises(TimeoutError):
                waiting.recv(12)
            assert process.process.wait(10) == 0
        with systemd.start():
            waiting.settimeout(10)
            assert waiting.recv(12) == b"HTTP/1.1 101"


def test_idle_http_connections_do_not_hold_up_the_end(tmp_path: Path) -> None:
    options = tmp_path / "hypercorn.toml"
    options.write_text("keep_alive_timeout = 75\n")
    with (
        Systemd(tcp=True) as systemd,
        systemd.start("serve", "--config", str(options)) as process,
    ):
        used, unused = systemd.connect(), systemd.connect()
        used.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert used.recv(12) == b"HTTP/1.1 200"
        unfinished = systemd.connect()
        unfinished.sendall(b"GET / HTTP/1.1\r\n")
        begun = time.monotonic()
        assert process.end() == 0
        assert time.monotonic() - begun < 1.5
        assert unused.recv(100) == b""
