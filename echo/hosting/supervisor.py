"""Runs the worker processes of `--workers N`, and what a worker has to do with its supervisor.

All workers accept from the same listening sockets. One that ends by itself ends all: whoever
supervises us starts a whole service anew. Each has a socket to its supervisor: it says when it is
ready, answers each question with how many WebSockets are open, and ends when the other side is
gone, however that died.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import trio

from echo.hosting.server import MARGIN, SIGNALS, on_each
from echo.hosting.systemd import Systemd
from echo.settings import Settings

logger = logging.getLogger("echo")

_QUESTION: Final = b"?"
_ANSWER: Final = struct.Struct("!I")


class Supervisor:
    """The supervisor as its worker sees it: a `Manager`, in the place of standard input."""

    def __init__(self) -> None:
        self._control = socket.socket(fileno=os.dup(0))
        self._control.setblocking(False)

    def ready(self) -> None:
        self._answer(0)

    def stopping(self, sockets: int) -> None:
        pass  # it is the supervisor that asked for it

    async def attend(self, sockets: Callable[[], int], end: Callable[[], object]) -> None:
        while await _receive(self._control, len(_QUESTION)):
            self._answer(sockets())
        end()

    def _answer(self, count: int) -> None:
        # One that is gone by now is noticed in attend().
        with suppress(OSError):
            self._control.send(_ANSWER.pack(count))


class _Worker:
    """A worker as its supervisor sees it."""

    def __init__(self, process: trio.Process, control: socket.socket) -> None:
        self.process = process
        self.sockets = 0
        """How many WebSockets it had open when it was last asked."""
        self.ready = trio.Event()
        self._control = control
        self._owes_answer = True  # the first is that it is ready

    async def listen(self) -> None:
        """Take its answers until it has ended."""
        with self._control:
            while answer := await _receive(self._control, _ANSWER.size):
                (self.sockets,) = _ANSWER.unpack(answer)
                self._owes_answer = False
                self.ready.set()
        self.sockets = 0

    def is_alive(self) -> bool:
        """Whether it has answered the last question; if so, ask the next."""
        if self.process.returncode is not None:
            return True  # supervise() knows, and none needs to wait for it
        if self._owes_answer:
            return False
        self._owes_answer = True
        with suppress(OSError):
            self._control.send(_QUESTION)
        return True


async def _receive(control: socket.socket, size: int) -> bytes:
    """So many bytes; none if the other side is gone. Its messages are too small to be split."""
    while True:
        await trio.lowlevel.wait_readable(control)
        try:
            return control.recv(size)
        except BlockingIOError:
            pass
        except OSError:  # it died unawares
            return b""


async def supervise(
    settings: Settings,
    listeners: Sequence[int],
    environ: Mapping[str, str],
    *,
    announce: Callable[[], object],
    systemd: Systemd,
    arguments: Sequence[str] = (),
) -> bool:
    """Run the worker processes until asked to end; False if one ended by itself.

    Args:
        settings: how many workers, and the grace period.
        listeners: the descriptors of the listening sockets.
        environ: the environment of the workers.
        announce: called when all workers answer connections.
        systemd: is told how the service is, which is alive if all its workers are.
        arguments: further ones for `python -m echo worker`.
    """
    asked = False
    good = True
    workers: list[_Worker] = []

    def sockets() -> int:
        return sum(worker.sockets for worker in workers)

    def end(signum: int = signal.SIGTERM) -> None:
        nonlocal asked
        if not asked:
            asked = True
            systemd.stopping(sockets())
            nursery.cancel_scope.deadline = (
                trio.current_time() + settings.shutdown_timeout + 2 * MARGIN
            )
            for worker in workers:
                if worker.process.returncode is None:
                    worker.process.send_signal(signum)

    async def watch(worker: _Worker) -> None:
        nonlocal good
        process = worker.process
        code = await process.wait()
        if not asked:
            good = False
            logger.error("Worker %d ended by itself with code %d", process.pid, code)
            end()
        if all(each.process.returncode is not None for each in workers):
            nursery.cancel_scope.cancel()

    async def announce_when_ready() -> None:
        for worker in workers:
            await worker.ready.wait()
        announce()
        systemd.ready()
        await systemd.attend(
            sockets, end, alive=lambda: all([worker.is_alive() for worker in workers])
        )

    with trio.open_signal_receiver(*SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            for _ in range(settings.workers):
                workers.append(await _start(nursery, listeners, environ, arguments))
            nursery.start_soon(on_each, signals, end)
            nursery.start_soon(announce_when_ready)
            for worker in workers:
                nursery.start_soon(worker.listen)
                nursery.start_soon(watch, worker)
    return good


async def _start(
    nursery: trio.Nursery,
    listeners: Sequence[int],
    environ: Mapping[str, str],
    arguments: Sequence[str],
) -> _Worker:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                [sys.executable, "-m", "echo", "worker", *arguments, *map(str, listeners)],
                stdin=theirs.fileno(),
                pass_fds=listeners,
                env=environ,
                check=False,
                # Ctrl+C in a terminal is for the supervisor, which then asks each worker.
                start_new_session=True,
                deliver_cancel=_kill,
            )
        )
    return _Worker(process, ours)


async def _kill(process: trio.Process) -> None:
    process.kill()
