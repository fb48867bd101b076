"""What all sockets of one event loop share: the clock, the reactor, the register, the end.

A worker lives as long as the lifespan of its app. Every background task of the layer runs in
its nursery, so nothing outlives it.
"""

from __future__ import annotations

import logging

import trio

from echo.websocket.carriers import Server
from echo.websocket.carriers.reactor import Reactor, reactor_available
from echo.websocket.clock import Clock
from echo.websocket.socket import WebSocket

logger = logging.getLogger("echo.websocket")

# The part of the server's grace period that is kept for what comes after the sockets.
_RESERVE = 0.1


class Worker:
    def __init__(self, nursery: trio.Nursery, *, reactor: bool = True) -> None:
        self.nursery = nursery
        self.clock = Clock()
        self.reactor: Reactor | None = None
        self.sockets: set[WebSocket] = set()
        """Every socket that is not closed. Changes synchronously."""
        self.shutting_down = trio.Event()
        self.shields: set[trio.CancelScope] = set()
        """Shielded writes that must not outlast a drain."""
        self._watched = False
        nursery.start_soon(self.clock.run)
        if reactor and reactor_available():
            self.reactor = Reactor()
            nursery.start_soon(self.reactor.read)
            nursery.start_soon(self.reactor.write)

    def watch(self, server: Server) -> None:
        """Drain when the server shuts down. Only the first call counts."""
        if not self._watched:
            self._watched = True
            self.nursery.start_soon(self._drain_with, server)

    async def _drain_with(self, server: Server) -> None:
        await server.terminated()
        await self.drain(server.grace * (1 - _RESERVE))

    async def drain(self, grace: float) -> None:
        """Say goodbye to every socket; after `grace` seconds the rest is dropped.

        Who awaits `WebSocket.shutting_down()` has half of the grace period for last words. All
        others are closed at once, each with its `shutdown_code`.
        """
        if self.shutting_down.is_set():
            return
        self.shutting_down.set()
        logger.debug("shutting down with %d open sockets", len(self.sockets))
        with trio.move_on_after(grace):
            for socket in list(self.sockets):
                if not socket.awaits_shutdown:
                    socket.dismiss()
            with trio.move_on_after(grace / 2):
                await self._empty()
            for socket in list(self.sockets):
                socket.dismiss()
            await self._empty()
        for socket in list(self.sockets):
            socket.drop("peer did not answer before the server ended")
        for scope in list(self.shields):
            scope.cancel()

    async def _empty(self) -> None:
        while self.sockets:
            await next(iter(self.sockets)).wait_closed()
