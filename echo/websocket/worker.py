"""What all sockets of one event loop share: the clock, the reactor, the register, the end.

A worker lives as long as the lifespan of its app. Every background task of the layer runs in
its nursery, so nothing outlives it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from echo.websocket.carriers import Server
from echo.websocket.carriers.reactor import Reactor, reactor_available
from echo.websocket.clock import Clock
from echo.websocket.counters import Counters
from echo.websocket.socket import WebSocket

logger = logging.getLogger("echo.websocket")

current_worker: trio.lowlevel.RunVar[Worker | None] = trio.lowlevel.RunVar(
    "echo.websocket.worker", default=None
)
"""The worker of the app that this event loop serves; of the last, if there are several."""

MOMENT = 0.1
"""Seconds in which who came just before the server's end is still served as always."""
# Seconds between two looks for sockets whose handshake was under way when the drain began.
_TICK = 0.05
# The parts of the server's grace period that are kept for what comes after the sockets, and of the
# sockets' for the answers to the last close frames.
_RESERVE = 0.1
_ANSWERS = 0.2


class Worker:
    def __init__(self, nursery: trio.Nursery, *, reactor: bool = True) -> None:
        self.nursery = nursery
        self.clock = Clock()
        self.counters = Counters()
        self.reactor: Reactor | None = None
        self.sockets: set[WebSocket] = set()
        """Every socket that is not closed. Changes synchronously."""
        self.shutting_down = trio.Event()
        self.shutdown_code: int | None = None
        """Close code of the drain, in the place of the sockets' own `shutdown_code`."""
        self.shutdown_spread = 0.0
        """Seconds over which the drain spreads its close frames, so that not all clients come
        back at once; bounded by the grace period."""
        self.shields: set[trio.CancelScope] = set()
        """Shielded writes that must not outlast a drain."""
        self.silent: set[trio.CancelScope] = set()
        """Waits for the first request of a connection, which end when the server does."""
        self._watched = False
        nursery.start_soon(self.clock.run)
        if reactor and reactor_available():
            self.reactor = Reactor()
            nursery.start_soon(self.reactor.read)
            nursery.start_soon(self.reactor.write)

    def spawn(self, socket: WebSocket, work: Callable[[], Awaitable[object]]) -> None:
        """Do some work of one socket in the background. If it fails, only that socket ends."""
        self.nursery.start_soon(self._contained, socket, work)

    async def _contained(self, socket: WebSocket, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except Exception:
            logger.exception("A task of a WebSocket failed")
            socket.drop("internal error", "internal_error")

    def watch(self, server: Server) -> None:
        """Drain when the server shuts down. Only the first call counts."""
        if not self._watched:
            self._watched = True
            self.nursery.start_soon(self._drain_with, server)

    async def _drain_with(self, server: Server) -> None:
        await server.terminated()
        moment = min(MOMENT, server.grace * _RESERVE)
        await trio.sleep(moment)
        await self.drain(server.grace * (1 - _RESERVE) - moment)

    async def drain(self, grace: float) -> None:
        """Say goodbye to every socket; after `grace` seconds the rest is dropped.

        Who awaits `WebSocket.shutting_down()` has half of the grace period for last words. All
        others are closed evenly over `shutdown_spread` seconds, in random order.
        """
        if self.shutting_down.is_set():
            return
        self.shutting_down.set()
        for scope in list(self.silent):
            scope.cancel()
        logger.debug("shutting down with %d open sockets", len(self.sockets))
        with trio.move_on_after(grace):
            await self._dismiss(grace)
        for socket in list(self.sockets):
            socket.drop("peer did not answer before the server ended", "shutdown")
        for scope in list(self.shields):
            scope.cancel()

    async def _dismiss(self, grace: float) -> None:
        """Close all sockets, and for ever those that come late."""
        last_words = trio.current_time() + grace / 2
        spread = min(self.shutdown_spread, grace * (1 - _ANSWERS))
        dismissed: set[WebSocket] = set()
        while True:
            over = trio.current_time() >= last_words
            due = [
                socket for socket in self.sockets - dismissed if over or not socket.awaits_shutdown
            ]
            random.shuffle(due)
            for number, socket in enumerate(due):
                code = self.shutdown_code or socket.options.shutdown_code
                goodbye = partial(socket.begin_close, code, "server shuts down")
                self.clock.call_in(spread * number / len(due), goodbye)
            dismissed.update(due)
            spread = 0.0  # was for those who were there
            await trio.sleep(_TICK)
