"""Starts Hypercorn's Trio server in this process and ends it.

SIGTERM and SIGINT ask for the end, SIGUSR1 for the end before a new start: then clients are told
that they may come back at once (1012). The connections get the grace period, and a moment after
it the process is gone, whatever a client does.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import trio
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve

from echo.hosting.config import make_config
from echo.hosting.lifecycle import Lifecycle, Manager
from echo.settings import Settings

logger = logging.getLogger("echo")

# What the process may take after the grace period before it is ended by force.
MARGIN: Final = 1.0

SERVICE_RESTART: Final = 1012  # the close code

# What ends the process, and the close code that stands in for the settings'.
SIGNALS: Final[dict[int, int | None]] = {signal.SIGTERM: None, signal.SIGINT: None}
if sys.platform != "win32":
    SIGNALS[signal.SIGUSR1] = SERVICE_RESTART

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


async def serve(
    app: Callable[..., Awaitable[None]],
    settings: Settings,
    listeners: Sequence[int],
    *,
    announce: Callable[[], object] = lambda: None,
    config: Config | None = None,
    lifecycle: Lifecycle | None = None,
    manager: Manager | None = None,
) -> None:
    """Serve `app` on the descriptors `listeners`, which become Hypercorn's, until asked to end.

    Args:
        app: an ASGI application.
        settings: the grace period is theirs.
        listeners: descriptors of listening sockets.
        announce: called when connections are being answered.
        config: Hypercorn's, but for the listeners; None for what the settings make of it.
        lifecycle: where the app, too, finds its worker's end; None if it has no use for it.
        manager: whom to report to, and who may ask for the end; None for nobody.
    """
    config = config or make_config(settings)
    config.bind = [f"fd://{listener}" for listener in listeners]
    lifecycle = lifecycle or Lifecycle()
    asked = trio.Event()
    failed = False

    def end(code: int | None = None) -> None:
        if asked.is_set():
            return
        if code is not None:
            lifecycle.close_with(code)
        asked.set()
        if manager is not None:
            manager.stopping(lifecycle.sockets())
        _limit_the_end(settings.shutdown_timeout + MARGIN)

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
                if manager is not None:
                    manager.ready()

    with trio.open_signal_receiver(*SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(on_each, signals, lambda signum: end(SIGNALS[signum]))
            if manager is not None:
                nursery.start_soon(manager.attend, lifecycle.sockets, end)
            await hypercorn_serve(
                watched,
                config,
                shutdown_trigger=asked.wait,
                task_status=Status(),
                mode="asgi",
            )
            nursery.cancel_scope.cancel()


async def on_each(signals: AsyncIterator[int], act: Callable[[int], object]) -> None:
    # To the end: a second Ctrl+C that nobody takes is raised anew when the receiver closes.
    async for signum in signals:
        act(signum)


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


def leaves(error: BaseException) -> list[BaseException]:
    """The errors in an exception group, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in leaves(each)]
    return [error]


def leave_on_signals() -> None:
    """Until the server handles them, signals just end the process: there is nothing to tell.

    At once: an exception may come up in the middle of an import, which makes another one of it.
    """
    for each in SIGNALS:
        signal.signal(each, lambda *_: os._exit(0))


def run(main: Callable[[], Awaitable[T]]) -> T:
    try:
        return trio.run(main)
    finally:
        # The impatient third Ctrl+C, while the interpreter cleans up.
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
