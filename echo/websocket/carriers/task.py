"""A carrier whose outbox a task of the worker writes, and whose reader waits for room.

What it writes to, and how, is the subclass's business; so is who reads.
"""

from __future__ import annotations

from abc import abstractmethod

import trio

from echo.websocket.carriers.carrier import Carrier
from echo.websocket.socket import WebSocket


class TaskCarrier(Carrier):
    __slots__ = ("_room", "_work", "closed")

    def __init__(self, socket: WebSocket) -> None:
        super().__init__(socket)
        self._work = trio.Event()
        self._room = trio.Event()
        self.closed = False

    async def until_room(self) -> None:
        """Wait while the inbox is full: this is the back-pressure."""
        while self.socket.full and not self.closed:
            self._room = trio.Event()
            await self._room.wait()

    def resume(self) -> None:
        self._room.set()

    def start(self) -> None:
        self.socket.worker.spawn(self.socket, self._write)

    def wake(self) -> None:
        self._work.set()

    def close(self, *, abort: bool) -> None:
        self.closed = True
        self._work.set()
        self._room.set()

    async def _write(self) -> None:
        """Write the outbox until the connection is closed."""
        while not self.closed:
            if self.pieces:
                await self._write_some()
            else:
                await self._rest()

    async def _rest(self) -> None:
        """The outbox is empty: wait for work."""
        self._work = trio.Event()
        await self._work.wait()

    @abstractmethod
    async def _write_some(self) -> None:
        """Write some of the outbox, which is not empty."""
