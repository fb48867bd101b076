"""Starts a server as its own process, as a person would, and ends it again.

    with running("-m", "hypercorn", "-b", "{bind}", "echo:app") as server:
        server.get("/")

Whatever happens in the block, no process outlives it.
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
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    """A port that nobody listens on. Another may take it first: ask right before use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(changes: Mapping[str, str] = {}) -> dict[str, str]:
    """Ours without the settings of the person who runs the tests, and with `changes`."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("ECHO_")}
    return {**ours, "PYTHONUNBUFFERED": "1", **changes}


@dataclass
class Server:
    """A running server process."""

    process: subprocess.Popen[bytes]
    port: int
    output: IO[bytes]
    errors: IO[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def stdout(self) -> str:
        """All of its standard output up to now."""
        return Path(self.output.name).read_text()

    @property
    def stderr(self) -> str:
        """All of its standard error up to now."""
        return Path(self.errors.name).read_text()

    def get(self, path: str) -> int:
        """The status of a GET."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()

    def wait_until_it_answers(self, limit: float = 20) -> None:
        deadline = time.monotonic() + limit
        while True:
            try:
                self.get("/")
                return
            except OSError:
                # Refused, or accepted by a socket that nobody serves yet.
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server does not answer:\n{self.stderr}")
            time.sleep(0.05)

    def end(self, signum: int = signal.SIGTERM, limit: float = 15) -> tuple[int, float]:
        """Send `signum`; the exit code and the seconds it took to leave."""
        begun = time.monotonic()
        self.process.send_signal(signum)
        code = self.process.wait(limit)
        return code, time.monotonic() - begun


@contextlib.contextmanager
def running(*arguments: str, env: Mapping[str, str] = {}, answers: bool = True) -> Iterator[Server]:
    """A server from `python *arguments`; "{port}" and "{bind}" in them are filled in."""
    port = free_port()
    bind = f"127.0.0.1:{port}"
    command = [each.replace("{port}", str(port)).replace("{bind}", bind) for each in arguments]
    with (
        tempfile.NamedTemporaryFile("wb") as output,
        tempfile.NamedTemporaryFile("wb") as errors,
        subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            # A group of its own, so that workers that lost their parent can be found and ended.
            start_new_session=True,
        ) as process,
    ):
        server = Server(process, port, output, errors)
        try:
            if answers:
                server.wait_until_it_answers()
            yield server
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run_to_end(
    *arguments: str, env: Mapping[str, str] = {}, limit: float = 20
) -> subprocess.CompletedProcess[str]:
    """`python *arguments`, which is expected to leave by itself."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=limit,
    )
