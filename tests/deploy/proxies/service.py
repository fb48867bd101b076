"""Runs the service as systemd does: on a unix socket that outlives it.

    with Socket() as socket, socket.service() as process:
        ...  # the service answers at socket.path

The socket is ours and stays open, so connections queue while no process or a frozen one serves.
Several processes share it, and each has one of its own beside it.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Self

from tests.servers import ROOT, environment

BACKLOG: Final = 4096

# As systemd does it: descriptors from 3 on, and LISTEN_PID is the process that takes them.
_START: Final = """exec 3<&0 4<&1 </dev/null >&2; LISTEN_FDS=$1 LISTEN_PID=$$ exec "$0" -m echo"""


class Socket:
    """A listening unix socket at `path`, in a directory of its own."""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="echo-"))
            self.path = Path(folder) / "echo.sock"
            self.listener = stack.enter_context(_listener(self.path))
            self._own: dict[int, socket.socket] = {}
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def path_of(self, number: int) -> Path:
        """The socket of one of several processes."""
        return self.path.with_name(f"echo-{number}.sock")

    def open(self, number: int) -> None:
        """The socket of that process, as echo@NUMBER.socket has it."""
        self._own[number] = self._stack.enter_context(_listener(self.path_of(number)))

    def close(self, number: int) -> None:
        """That process is to be no more."""
        self._own.pop(number).close()
        self.path_of(number).unlink()

    def service(
        self, env: Mapping[str, str] = {}
    ) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        """The process of a service that answers; it is gone after the block."""
        return _serving(self.path, [self.listener], env)

    def process(self, number: int) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        """One of several, as echo@NUMBER.service has it; its socket must be open."""
        listeners = [self.listener, self._own[number]]
        return _serving(self.path_of(number), listeners, {"ECHO_NODE": str(number)})


def _listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(BACKLOG)
    # As NonBlocking= in the unit.
    listener.setblocking(False)
    return listener


@contextlib.contextmanager
def _serving(
    path: Path, listeners: list[socket.socket], env: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process with one listening socket or two, of which `path` is only its own."""
    with (
        tempfile.TemporaryFile() as output,
        subprocess.Popen(
            ["sh", "-c", _START, sys.executable, str(len(listeners))],
            cwd=ROOT,
            env=environment(env),
            stdin=listeners[0].fileno(),
            stdout=listeners[-1].fileno(),
            stderr=output,
            start_new_session=True,
        ) as process,
    ):
        try:
            deadline = time.monotonic() + 20
            while not _answers(path):
                if process.poll() is not None or time.monotonic() > deadline:
                    output.seek(0)
                    raise AssertionError(f"no answer:\n{output.read().decode()}")
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(1)
        try:
            stream.connect(str(path))
            stream.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return stream.recv(12) == b"HTTP/1.1 200"
        except OSError:
            return False
