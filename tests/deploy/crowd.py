"""Clients that tell what a restart is like for them: open sockets, and a stream of new dials.

    with crowd(box, sockets=200) as clients:
        box.run("systemctl", "restart", "echo")
    clients.report.closes    # {"1012": 200}

They are a process of their own, in the network of the box; its clock is ours.
"""

import contextlib
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
)

from tests.deploy.box import ROOT, Box


@dataclass
class Report:
    """What the clients saw."""

    closes: Counter[str] = field(default_factory=Counter)
    """How the open sockets ended: a close code, or "open"."""

    last_close: float = 0.0
    """When the last of them was told, by time.monotonic()."""

    dials: Counter[str] = field(default_factory=Counter)
    """How the dials of the stream ended: "echoed", a close code, an HTTP status or an error."""

    longest: float = 0.0
    """Seconds the slowest dial took until its echo was back."""

    def refused(self) -> dict[str, int]:
        """The dials that found nobody. (Who is in when a restart begins is told, as all are.)"""
        return {how: n for how, n in self.dials.items() if how not in ("echoed", "1012")}


async def _dial(nursery: trio.Nursery, local: str) -> WebSocketConnection:
    stream = await trio.open_tcp_stream("127.0.0.1", 80, local_address=local)
    connection = await wrap_client_stream(nursery, stream, "localhost", "/ws")
    await connection.send_message("hello")
    assert await connection.get_message() == "hello"
    return connection


def _name(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ConnectionClosed):
        return str(error.reason.code) if error.reason is not None else "1006"
    if isinstance(error, ConnectionRejected):
        return str(error.status_code)
    return type(error).__name__


async def _stay(report: Report, local: str, task_status: trio.TaskStatus[None]) -> None:
    async with trio.open_nursery() as nursery:
        connection = await _dial(nursery, local)
        task_status.started()
        report.closes["open"] += 1
        with contextlib.suppress(ConnectionClosed):
            await connection.get_message()
        told = connection.closed
        report.closes["open"] -= 1
        report.closes[str(told.code) if told is not None else "1006"] += 1
        report.last_close = time.monotonic()
        nursery.cancel_scope.cancel()


async def _visit(report: Report, local: str) -> None:
    begun = time.monotonic()
    try:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                connection = await _dial(nursery, local)
                took = time.monotonic() - begun
                await connection.aclose()
                nursery.cancel_scope.cancel()
    except* (OSError, HandshakeError, ConnectionClosed, trio.TooSlowError) as errors:
        report.dials[_name(errors)] += 1
    else:
        report.dials["echoed"] += 1
        report.longest = max(report.longest, took)


async def _main(sockets: int, pause: float) -> None:
    report = Report()
    # An address of its own: what the proxy allows each client is not used up by the tests before.
    local = f"127.0.{random.randrange(1, 255)}.{random.randrange(1, 255)}"
    done = trio.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(sockets):
            await nursery.start(_stay, report, local)

        async def keep_dialling(task_status: trio.TaskStatus[None]) -> None:
            task_status.started()
            while not done.is_set():
                visits.start_soon(_visit, report, local)
                await trio.sleep(pause)

        async with trio.open_nursery() as visits:
            await visits.start(keep_dialling)
            print("open", flush=True)
            await trio.to_thread.run_sync(sys.stdin.read)
            done.set()
        nursery.cancel_scope.cancel()
    report.closes += Counter()  # drops the zeros
    print(json.dumps(vars(report)))


@dataclass
class Clients:
    """Those of a `crowd()`; the report is there after its block."""

    report: Report = field(default_factory=Report)


@contextlib.contextmanager
def crowd(box: Box, *, sockets: int, pause: float = 0.02) -> Iterator[Clients]:
    """Clients for the time of the block; at its end the dials that are under way end, too.

    Args:
        sockets: how many are open from its beginning.
        pause: seconds between two dials of the stream.
    """
    command = [sys.executable, "-m", "tests.deploy.crowd", str(sockets), str(pause)]
    with subprocess.Popen(
        box.outside_command(*command), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            assert process.stdout.readline() == b"open\n"
            clients = Clients()
            yield clients
            output, _ = process.communicate(timeout=30)
            told = json.loads(output)
            told["closes"], told["dials"] = Counter(told["closes"]), Counter(told["dials"])
            clients.report = Report(**told)
        finally:
            process.kill()


if __name__ == "__main__":
    trio.run(partial(_main, int(sys.argv[1]), float(sys.argv[2])))
