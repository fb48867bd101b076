"""Runs the service as systemd does: on a unix socket that outlives it.

    with Socket() as socket, socket.service() as process:
        ...  # the service answers at socket.path

The socket is ours and stays open, so connections queue while no process or a frozen one serves.
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

# As systemd does it: descriptor 3, and LISTEN_PID is the process that takes it.
_START: Final = """exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" -m echo"""


class Socket:
    """A listening unix socket at `path`, in a directory of its own."""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="echo-"))
            self.path = Path(folder) / "echo.sock"
            self.listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            self.listener.bind(str(self.path))
            self.listener.listen(BACKLOG)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def service(self, env: Mapping[str, str] = {}) -> Iterator[subprocess.Popen[bytes]]:
        """The process of a service that answers; it is gone after the block."""
        with (
            tempfile.TemporaryFile() as output,
            subprocess.Popen(
                ["sh", "-c", _START, sys.executable],
                cwd=ROOT,
                env=environment(env),
                stdin=self.listener.fileno(),
                stdout=output,
                stderr=output,
                start_new_session=True,
            ) as process,
        ):
            try:
                deadline = time.monotonic() + 20
                while not self._answers():
                    if process.poll() is not None or time.monotonic() > deadline:
                        output.seek(0)
                        raise AssertionError(f"no answer:\n{output.read().decode()}")
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(1)
            try:
                stream.connect(str(self.path))
                stream.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return stream.recv(12) == b"HTTP/1.1 200"
            except OSError:
                return False
