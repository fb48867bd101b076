"""A server under measurement: a process group of its own, pinned to one core.

At most one of them runs at any moment. The others are stopped by signal, not ended: a stopped
server uses no processor, and the next shape finds it started and warm.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from .catalogue import ROOT, Server
from .toolbox import LOGS, Toolbox, last_line

START_TIMEOUT = 20.0  # seconds
STOP_TIMEOUT = 5.0  # seconds

_HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class ServerFailed(Exception):
    """The server did not start, or died."""


class Process:
    def __init__(self, server: Server, toolbox: Toolbox, core: int) -> None:
        self.server = server
        self.port = _free_port()
        self._log = LOGS / f"{server.name}.log"
        names = {"python": toolbox.python, "node": toolbox.node, "port": self.port}
        command = [part.format_map(names) for part in server.command]
        with self._log.open("wb") as log:
            try:
                self._leader = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=_environment(server, toolbox),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    # Before the exec, so that no thread or child is ever elsewhere.
                    preexec_fn=lambda: os.sched_setaffinity(0, {core}),
                )
            except OSError as error:
                raise ServerFailed(str(error)) from error
        try:
            self._await_handshake()
        except BaseException:
            self.end()
            raise

    def _await_handshake(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not _accepts(self.port, self.server.path):
            self.check()
            if time.monotonic() > deadline:
                raise ServerFailed(f"no handshake within {START_TIMEOUT:.0f} s of starting")
            time.sleep(0.02)

    def check(self) -> None:
        if (code := self._leader.poll()) is not None:
            log = self._log.read_text(errors="replace")
            raise ServerFailed(f"the server ended with {code}: {last_line(log)}")

    def processor_seconds(self) -> float:
        """What the group has used of the processor."""
        return sum(map(processor_seconds, _members(self._leader.pid)))

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def memory_kib(self) -> float:
        """What the group occupies; pages that processes share are counted once."""
        return sum(_memory_kib(pid) for pid in _members(self._leader.pid))

    def end(self) -> None:
        # The leader first and alone: it knows how to end its workers.
        self.resume()
        self._leader.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._leader.wait(STOP_TIMEOUT)
        deadline = time.monotonic() + 1
        while list(_members(self._leader.pid)) and time.monotonic() < deadline:
            time.sleep(0.02)
        self._signal(signal.SIGKILL)
        self._leader.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._leader.pid, number)


def _environment(server: Server, toolbox: Toolbox) -> dict[str, str]:
    # ECHO_* settings of the person's own shell must not reach the measurement.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ECHO_")}
    node_path = {"NODE_PATH": str(toolbox.node_modules)}
    return inherited | node_path | dict(server.environment)


def _free_port() -> int:
    """A port below the range from which the kernel serves the driver's own connections."""
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _accepts(port: int, path: str) -> bool:
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout=1) as client,
    ):
        client.sendall(_HANDSHAKE.format(path=path).encode())
        return client.recv(4096).startswith(b"HTTP/1.1 101")
    return False


def processor_seconds(pid: int) -> float:
    """What a process has used of the processor."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _members(group: int) -> Iterator[int]:
    """The living processes of a group."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                # pid (name, which may hold anything) state parent group …
                state, _, its_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(its_group) == group and state != "Z":
                    yield int(entry.name)


def _memory_kib(pid: int) -> float:
    """The proportional set size; where the kernel does not tell it, the resident one."""
    for file, label in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
                if line.startswith(label):
                    return float(line.split()[1])
    return 0.0
