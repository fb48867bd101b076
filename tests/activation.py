"""Plays systemd: a listening socket that outlives the service, and an ear for what it tells.

    with Systemd() as systemd, systemd.start() as process:
        systemd.wait_for("READY=1")
        ...  # the service answers at systemd.path

Connections wait in the socket's backlog while no process serves it.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Self

from tests.servers import ROOT, environment

# Standard input becomes descriptor 3. The shell replaces itself, so its number stays right.
LAUNCHER = 'exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$0" -m echo "$@"'


class Process:
    def __init__(self, process: subprocess.Popen[bytes], errors: Path) -> None:
        self.process = process
        self.errors = errors

    def end(self, signum: int = signal.SIGTERM, limit: float = 15) -> int:
        self.process.send_signal(signum)
        return self.process.wait(limit)

    @property
    def stderr(self) -> str:
        return self.errors.read_text()


class Systemd:
    """Listens on a unix socket, or on a TCP port of 127.0.0.1, and for notifications."""

    def __init__(self, *, tcp: bool = False, abstract: bool = False) -> None:
        self._tcp = tcp
        self._abstract = abstract
        self.lines: list[tuple[float, str]] = []
        """What has been told, with the time when it was heard."""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="echo-"))
            self.folder = Path(folder)
            self.path = str(self.folder / "echo.sock")
            family = socket.AF_INET if self._tcp else socket.AF_UNIX
            self.listener = stack.enter_context(socket.socket(family))
            self.listener.bind(("127.0.0.1", 0) if self._tcp else self.path)
            self.listener.listen(4096)
            self._ear = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            self._address = str(self.folder / "notify")
            self._ear.bind("\0" + self._address if self._abstract else self._address)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def start(
        self, *arguments: str, env: Mapping[str, str] = {}, ready: bool = True
    ) -> Iterator[Process]:
        """The service, when it says that it is ready; it is gone after the block."""
        notify = {"NOTIFY_SOCKET": ("@" if self._abstract else "") + self._address}
        errors = self.folder / f"stderr-{len(list(self.folder.iterdir()))}"
        with (
            errors.open("wb") as output,
            subprocess.Popen(
                ["sh", "-c", LAUNCHER, sys.executable, *arguments],
                cwd=ROOT,
                env=environment({**notify, **env}),
                stdin=self.listener.fileno(),
                stdout=output,
                stderr=output,
                start_new_session=True,
            ) as process,
        ):
            started = Process(process, errors)
            try:
                if ready:
                    self.wait_for("READY=1", started)
                yield started
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def wait_for(self, start: str, process: Process | None = None, limit: float = 20) -> str:
        """The next line that begins so."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            for line in self.hear(0.1):
                if line.startswith(start):
                    return line
            if process is not None and process.process.poll() is not None:
                break
        errors = process.stderr if process is not None else ""
        raise AssertionError(f"{start!r} was not told, but {self.lines}\n{errors}")

    def hear(self, limit: float) -> list[str]:
        """The lines of the next notification; none if there is none in so many seconds."""
        if not select.select([self._ear], [], [], limit)[0]:
            return []
        lines = self._ear.recv(65536).decode().split("\n")
        now = time.monotonic()
        self.lines += [(now, line) for line in lines]
        return lines

    def connect(self, limit: float = 10) -> socket.socket:
        """A client, which is closed at the end if not before."""
        client = self._stack.enter_context(socket.socket(self.listener.family))
        client.settimeout(limit)
        client.connect(self.listener.getsockname())
        return client

    def get(self, path: str, headers: Mapping[str, str] = {}) -> tuple[int, bytes]:
        """Status and body of a GET."""
        connection = HTTPConnection("localhost", timeout=10)
        connection.sock = self.connect()
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Connection": "close", **headers})
            response = connection.getresponse()
            return response.status, response.read()
