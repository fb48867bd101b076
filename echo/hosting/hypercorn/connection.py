"""A connection that Hypercorn accepted: the short way for a WebSocket, Hypercorn's for the rest.

What one connection does wrong is kept away from the worker and all others. The wait for the first
request has Hypercorn's bound, `keep_alive_timeout`, and ends when the server does.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.events import Closed, RawData
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer

from echo.hosting.hypercorn.upgrade import Upgrade
from echo.websocket.carriers import Server
from echo.websocket.worker import MOMENT, Worker, current_worker

_GOODBYE = 5.0  # seconds that closing a connection may take


class Connection(TCPServer):
    def __init__(self, app: Any, config: Any, context: Any, state: Any, stream: Any) -> None:
        self.app = app
        self.config = config
        self.context = context
        self.state = state
        self.stream = stream

    def prepare(self, unread: bytes) -> None:
        """Make what only Hypercorn's own way needs, which begins by reading what is `unread`."""
        super().__init__(self.app, self.config, self.context, self.state, self.stream)
        self._unread = unread

    async def run(self) -> None:
        try:
            worker = current_worker.get()
            if worker is None or worker.shutting_down.is_set() or self._is_tls():
                await self._run_hypercorns(b"")
                return
            first = await self._receive(worker)
            upgrade = Upgrade.found_in(first, self, worker)
            if upgrade is None:
                if first:
                    await self._run_hypercorns(first)
                return
            del first  # an idle socket should weigh little
            try:
                try:
                    await self._app_of(upgrade)
                except Exception:
                    await self.config.log.exception("Error in ASGI Framework")
                if not upgrade.accepted:
                    await upgrade.finish()
            finally:
                if not upgrade.accepted:
                    await trio.aclose_forcefully(self.stream)
        except (Exception, BaseExceptionGroup) as error:
            cancelled, failure = BaseExceptionGroup("", [error]).split(trio.Cancelled)
            if failure is not None:
                await self.config.log.exception("A connection failed")
            if cancelled is not None:
                raise cancelled from None

    def _app_of(self, upgrade: Upgrade) -> Awaitable[None]:
        arguments: Any = upgrade.scope, upgrade.receive, upgrade.send
        if isinstance(self.app, ASGIWrapper):  # which would only stand between
            return self.app.app(*arguments)
        threads: Any = trio.to_thread.run_sync, trio.from_thread.run
        return self.app(*arguments, *threads)

    def _is_tls(self) -> bool:
        return hasattr(self.stream, "do_handshake")

    async def _receive(self, worker: Worker) -> bytes:
        """The first bytes; none if there are none in time, and then the connection is closed."""
        worker.watch(Server(self.context.terminated.wait, self.config.graceful_timeout))
        first = b""
        with trio.move_on_after(self.config.keep_alive_timeout) as scope:
            worker.silent.add(scope)
            try:
                first = bytes(await self.stream.receive_some(MAX_RECV))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                worker.silent.discard(scope)
                if not first:
                    await trio.aclose_forcefully(self.stream)
        return first

    async def _run_hypercorns(self, first: bytes) -> None:
        self.prepare(first)
        await super().run()

    async def _read_data(self) -> None:
        unread, self._unread = self._unread, b""
        if unread:
            await self.protocol.handle(RawData(unread))
        await super()._read_data()

    async def _idle_timeout(self) -> None:
        with trio.move_on_after(self.config.keep_alive_timeout):
            await self.context.terminated.wait()
            # A request that was on its way when the server began to end is still answered.
            await trio.sleep(MOMENT)
        # Shielded, for closing the connection cancels this very task.
        with trio.move_on_after(_GOODBYE, shield=True):
            await self._initiate_server_close()

    async def protocol_send(self, event: Any) -> None:
        try:
            await super().protocol_send(event)
        except trio.BusyResourceError:
            # Another task is closing the connection: nobody waits for this any more.
            await self.protocol.handle(Closed())
