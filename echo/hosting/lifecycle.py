"""What the process that hosts an app and the app itself need to know of each other.

The process makes a `Lifecycle` before there is an app; the app puts its worker there when it has
started. `Manager` is whom the process in turn reports to: systemd, or the supervisor of several
workers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from echo.websocket.worker import Worker


class Lifecycle:
    def __init__(self) -> None:
        self.worker: Worker | None = None
        """The worker of the app, once it is being served."""

    def sockets(self) -> int:
        """How many WebSockets are open."""
        return len(self.worker.sockets) if self.worker is not None else 0

    @property
    def draining(self) -> bool:
        """Whether open sockets are being closed, and new ones turned away."""
        return self.worker is not None and self.worker.shutting_down.is_set()

    def close_with(self, code: int) -> None:
        """Let the sockets be closed with this code at shutdown, whatever their options say."""
        if self.worker is not None:
            self.worker.shutdown_code = code


class Manager(Protocol):
    """Somebody who started this process and wants to know how it is."""

    def ready(self) -> None:
        """Connections are being answered."""

    def stopping(self, sockets: int) -> None:
        """The process has begun to end, with so many open WebSockets."""

    async def attend(self, sockets: Callable[[], int], end: Callable[[], object]) -> None:
        """Report until cancelled; call `end` when the manager wants the process to end."""
