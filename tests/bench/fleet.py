"""The servers of one round: started when first needed, and paused while others are asked.

The memory is asked of a server that has served nobody yet: for it there is a fresh one each time.
"""

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from .catalogue import Server
from .process import Process
from .toolbox import Toolbox


class Fleet:
    def __init__(self, toolbox: Toolbox, core: int) -> None:
        self._toolbox = toolbox
        self._core = core
        self._paused: dict[str, Process] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._paused.values():
            process.end()

    @contextlib.contextmanager
    def running(self, server: Server) -> Iterator[Process]:
        """The one server that runs; after an error it is ended, and the next time begins anew."""
        process = self._paused.pop(server.name, None) or self._start(server)
        try:
            process.resume()
            yield process
            process.pause()
        except BaseException:
            process.end()
            raise
        self._paused[server.name] = process

    @contextlib.contextmanager
    def fresh(self, server: Server) -> Iterator[Process]:
        process = self._start(server)
        try:
            yield process
        finally:
            process.end()

    def _start(self, server: Server) -> Process:
        return Process(server, self._toolbox, self._core)
