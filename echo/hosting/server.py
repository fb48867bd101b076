"""Starts Hypercorn's Trio server in this process, or one per worker process, and ends it.

SIGTERM and SIGINT ask for the end; the connections get the grace period, and a moment after it
the process is gone, whatever a client does. All workers accept from the same listening sockets.
A worker ends too when its supervisor is gone, however that died: a closed socket tells it.
"""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import trio
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve

from echo.hosting.listeners import BACKLOG
from echo.settings import Settings

logger = logging.getLogger("echo")

# What the process may take after the grace period before it is ended by force.
_MARGIN: Final = 1.0

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

T = TypeVar("T")


def set_up_logging(settings: Settings) -> None:
    """One format for the service, Quart and Hypercorn, on standard error."""
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s [%(process)d] [%(levelname)s] %(message)s",
        datefmt="[%Y-%m-%d %H:%M:%S %z]",
    )
    # We say ourselves where we run, once and not per address and worker.
    logging.getLogger("hypercorn.error").addFilter(
        lambda record: not record.getMessage().startswith("Running on ")
    )


def _config(settings: Settings, listeners: Sequence[int]) -> Config:
    config = Config()
    config.bind = [f"fd://{listener}" for listener in listeners]
    config.backlog = BACKLOG
    config.graceful_timeout = settings.shutdown_timeout
    config.websocket_max_message_size = settings.max_message_size
    config.errorlog = logging.getLogger("hypercorn.error")  # as it is: no handler of its own
    return config


async def serve(
    app: Callable[..., Awaitable[None]],
    settings: Settings,
    listeners: Sequence[int],
    *,
    announce: Callable[[], object],
    supervisor: socket.socket | None = None,
) -> None:
    """Serve `app` on the descriptors `listeners`, which become Hypercorn's, until asked to end.

    Calls `announce` when connections are being answered. `supervisor` is the socket whose end
    of file also asks for the end.
    """
    asked = trio.Event()
    failed = False

    def ask() -> None:
        if not asked.is_set():
            asked.set()
            _limit_the_end(settings.shutdown_timeout + _MARGIN)

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        async def watch(message: Any) -> None:
            nonlocal failed
            failed = failed or message["type"] == "lifespan.startup.failed"
            await send(message)

        await app(scope, receive, watch if scope["type"] == "lifespan" else send)

    class Status:
        def started(self, _: object = None) -> None:
            # Hypercorn reports a start although the startup failed, and raises a moment later.
            if not failed:
                announce()

    with trio.open_signal_receiver(*_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_on_each, signals, ask)
            if supervisor is not None:
                nursery.start_soon(_on_end_of, supervisor, ask)
            await hypercorn_serve(
                watched,
                _config(settings, listeners),
                shutdown_trigger=asked.wait,
                task_status=Status(),
                mode="asgi",
            )
            nursery.cancel_scope.cancel()


async def _on_each(signals: AsyncIterator[int], act: Callable[[], object]) -> None:
    # To the end: a second Ctrl+C that nobody takes is raised anew when the receiver closes.
    async for _ in signals:
        act()


async def _on_end_of(supervisor: socket.socket, act: Callable[[], object]) -> None:
    # It never sends anything: what can be read is the end, or a reset if it died unawares.
    await trio.lowlevel.wait_readable(supervisor)
    act()


def _limit_the_end(seconds: float) -> None:
    """End the process by force after `seconds`, unless it has ended by then.

    Hypercorn writes under a shield without a deadline: one client that does not read its answer
    would keep the process for ever. A thread, for no cancellation reaches such a write.
    """

    def end() -> None:
        logger.error("Still busy after the grace period: ending by force")
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


async def supervise(
    settings: Settings,
    listeners: Sequence[int],
    environ: Mapping[str, str],
    *,
    announce: Callable[[], object],
) -> bool:
    """Run the worker processes until asked to end; False if one ended by itself.

    One that ends by itself ends all: whoever supervises us starts a whole service anew.
    """
    asked = False
    good = True
    workers: list[tuple[trio.Process, trio.socket.SocketType]] = []

    def end() -> None:
        nonlocal asked
        if not asked:
            asked = True
            nursery.cancel_scope.deadline = (
                trio.current_time() + settings.shutdown_timeout + 2 * _MARGIN
            )
            for process, _ in workers:
                if process.returncode is None:
                    process.terminate()

    async def watch(process: trio.Process) -> None:
        nonlocal good
        code = await process.wait()
        if not asked:
            good = False
            logger.error("Worker %d ended by itself with code %d", process.pid, code)
            end()
        if all(process.returncode is not None for process, _ in workers):
            nursery.cancel_scope.cancel()

    async def announce_when_ready() -> None:
        for _, control in workers:
            if not await control.recv(1):
                return  # it has ended: watch() tells
        announce()

    with trio.open_signal_receiver(*_SIGNALS) as signals:
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(settings.workers):
                    workers.append(await _start_worker(nursery, listeners, environ))
                nursery.start_soon(_on_each, signals, end)
                nursery.start_soon(announce_when_ready)
                for process, _ in workers:
                    nursery.start_soon(watch, process)
        finally:
            for _, control in workers:
                control.close()
    return good


async def _start_worker(
    nursery: trio.Nursery, listeners: Sequence[int], environ: Mapping[str, str]
) -> tuple[trio.Process, trio.socket.SocketType]:
    ours, theirs = trio.socket.socketpair()
    with theirs:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                [sys.executable, "-m", "echo", "worker", *map(str, listeners)],
                stdin=theirs.fileno(),
                pass_fds=listeners,
                env=environ,
                check=False,
                # Ctrl+C in a terminal is for the supervisor, which then asks each worker.
                start_new_session=True,
                deliver_cancel=_kill,
            )
        )
    return process, ours


async def _kill(process: trio.Process) -> None:
    process.kill()


def worker_socket() -> socket.socket:
    """The socket to the supervisor, which a worker has in the place of standard input."""
    return socket.socket(fileno=os.dup(0))


def leaves(error: BaseException) -> list[BaseException]:
    """The errors in an exception group, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in leaves(each)]
    return [error]


def leave_on_signals() -> None:
    """Until the server handles them, signals just end the process: there is nothing to tell."""
    for each in _SIGNALS:
        signal.signal(each, lambda *_: sys.exit(0))


def run(main: Callable[[], Awaitable[T]]) -> T:
    try:
        return trio.run(main)
    finally:
        # The impatient third Ctrl+C, while the interpreter cleans up.
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
