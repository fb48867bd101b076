"""What lies between a node and its engine: a relay that can be cut, at any byte, or speak TLS."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio


class Relay:
    """Passes bytes between its port and an engine's unix socket."""

    def __init__(self, engine: Path) -> None:
        self.port = 0
        self.open = True
        """Whether it accepts connections."""
        self.to_engine: int | None = None
        """Bytes that still pass, then all connections are cut; None: no limit."""
        self.to_nodes: int | None = None
        self.refused = 0
        """Connections that came while it was not open."""
        self._engine = engine
        self._scopes: set[trio.CancelScope] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Break all connections."""
        for scope in self._scopes:
            scope.cancel()

    async def serve(self, stream: trio.abc.Stream) -> None:
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                if not self.open:
                    self.refused += 1
                    return
                async with (
                    await trio.open_unix_socket(str(self._engine)) as engine,
                    trio.open_nursery() as nursery,
                ):
                    nursery.start_soon(self._pass, stream, engine, True, scope)
                    nursery.start_soon(self._pass, engine, stream, False, scope)
            except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                self._scopes.discard(scope)
                await trio.aclose_forcefully(stream)

    async def _pass(
        self, source: trio.abc.Stream, sink: trio.abc.Stream, up: bool, scope: trio.CancelScope
    ) -> None:
        while data := bytes(await source.receive_some(65536)):
            left = self.to_engine if up else self.to_nodes
            if left is not None:
                data = data[:left]
                left -= len(data)
                if up:
                    self.to_engine = left
                else:
                    self.to_nodes = left
            await sink.send_all(data)
            if left == 0:
                self.cut()
                return
        scope.cancel()


@asynccontextmanager
async def relay(engine: Path, tls: ssl.SSLContext | None = None) -> AsyncIterator[Relay]:
    """A relay to the engine with this socket, with TLS on its port if told so."""
    found = Relay(engine)

    async def serve(stream: trio.SocketStream) -> None:
        await found.serve(stream if tls is None else trio.SSLStream(stream, tls, server_side=True))

    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(
            partial(trio.serve_tcp, serve, 0, host="127.0.0.1")
        )
        found.port = listeners[0].socket.getsockname()[1]
        yield found
        nursery.cancel_scope.cancel()
