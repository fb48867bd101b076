"""The fast path on Linux: one nested epoll for all plain sockets of a worker.

One task waits for the epoll and feeds every socket that has bytes, as much as is there but no
more than a bounded read each, so none starves the others. Another writes once a tick what the
handlers have put into the outboxes. A descriptor is written when it can take bytes and watched
only while it cannot: nothing spins. See `epoll(7)`.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket as stdlib_socket
import struct
from contextlib import suppress

import trio

from echo.websocket.carriers.carrier import Carrier
from echo.websocket.parking import Parking
from echo.websocket.socket import WebSocket

logger = logging.getLogger("echo.websocket")

_READ, _WRITE = 0x001, 0x004  # EPOLLIN, EPOLLOUT
_BROKEN = 0x008 | 0x010  # EPOLLERR, EPOLLHUP
_BATCH = 256  # sockets served in one tick
_READ_SIZE = 65_536
_READ_MOST = 262_144  # of a frame that is known to be so large
_GATHER = 512  # pieces of one write; IOV_MAX is 1024
_JOIN = 16_384  # bytes below which one copy is cheaper than a gathering write
_LINGER_OFF = struct.pack("ii", 1, 0)


def reactor_available() -> bool:
    return hasattr(select, "epoll")


class Reactor:
    """Owns the epoll; `read` and `write` are its two tasks."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._carriers: dict[int, ReactorCarrier] = {}
        self._dirty: list[ReactorCarrier] = []
        self._writer = Parking()

    async def read(self) -> None:
        """Feed the sockets, for ever."""
        carriers = self._carriers
        with self._epoll as epoll:
            while True:
                await trio.lowlevel.wait_readable(epoll.fileno())
                for descriptor, events in epoll.poll(0, _BATCH):
                    carrier = carriers.get(descriptor)
                    if carrier is None:  # closed by one that was served before it
                        continue
                    try:
                        carrier.ready(events)
                    except Exception:
                        logger.exception("A WebSocket failed while it was read")
                        carrier.socket.drop("internal error", "internal_error")

    async def write(self) -> None:
        """Flush the outboxes, once a tick, for ever."""
        while True:
            if not self._dirty:
                await self._writer.wait()
            dirty, self._dirty = self._dirty, []
            for carrier in dirty:
                if carrier.pieces:
                    carrier.flush()

    def mark(self, carrier: ReactorCarrier) -> None:
        """See that the carrier is flushed in the next tick."""
        self._dirty.append(carrier)
        if self._writer.task is not None:
            self._writer.wake()

    def add(self, carrier: ReactorCarrier, descriptor: int, events: int) -> None:
        self._carriers[descriptor] = carrier
        self._epoll.register(descriptor, events)

    def change(self, descriptor: int, events: int) -> None:
        self._epoll.modify(descriptor, events)

    def remove(self, descriptor: int) -> None:
        if self._carriers.pop(descriptor, None) is not None and not self._epoll.closed:
            self._epoll.unregister(descriptor)


class ReactorCarrier(Carrier):
    """A socket on the reactor.

    Args:
        socket: the WebSocket to carry.
        reactor: the worker's.
        transport: the connection, which the carrier closes.
    """

    kind = "reactor"
    __slots__ = (
        "_blocked",
        "_events",
        "_half_closed",
        "_reactor",
        "_started",
        "_transport",
        "_watched",
        "descriptor",
    )

    def __init__(
        self,
        socket: WebSocket,
        reactor: Reactor,
        transport: trio.SocketStream,
    ) -> None:
        super().__init__(socket)
        self._reactor = reactor
        self._transport = transport.socket
        self.descriptor = transport.socket.fileno()
        self._started = False
        self._watched = False
        self._events = 0
        self._blocked = False
        self._half_closed = False

    def start(self) -> None:
        self._started = True
        self.begin()
        if self.pieces:
            self._reactor.mark(self)

    def begin(self) -> None:
        """Begin to read; for a subclass to put off while somebody else reads."""
        self.watch()

    def watch(self) -> None:
        """Nobody else reads the connection any more: the reactor does from now on."""
        if self.descriptor >= 0 and not self._watched:
            self._watched = True
            self._events = _READ | (_WRITE if self._blocked else 0)
            self._reactor.add(self, self.descriptor, self._events)

    def ready(self, events: int) -> None:
        """The epoll reports the descriptor."""
        if events & _WRITE:
            self.flush()
        if events & _READ and self._events & _READ:
            socket = self.socket
            if socket.full:
                self._select(self._events & ~_READ)
                return
            wanted = socket.wanted
            size = _READ_SIZE if wanted <= _READ_SIZE else min(wanted, _READ_MOST)
            try:
                data = os.read(self.descriptor, size)
            except BlockingIOError:
                return
            except OSError as error:
                self._broken(error)
                return
            if data:
                socket.feed(data)
            else:
                socket.lost()
        elif events & _BROKEN and self.descriptor >= 0:
            self.socket.lost()

    def _broken(self, error: OSError) -> None:
        name = errno.errorcode.get(error.errno or 0, str(error))
        self.socket.lost(f"connection lost: {name}")

    def resume(self) -> None:
        if self._watched and not self._events & _READ:
            self._select(self._events | _READ)

    def _select(self, events: int) -> None:
        if events != self._events:
            self._events = events
            self._reactor.change(self.descriptor, events)

    def wake(self) -> None:
        if self._started:
            self._reactor.mark(self)

    def flush(self) -> None:
        pieces = self.pieces
        while pieces and self._started:
            try:
                if len(pieces) == 1:
                    count = os.write(self.descriptor, pieces[0])
                elif self.size <= _JOIN:
                    count = os.write(self.descriptor, b"".join(pieces))
                else:
                    count = os.writev(self.descriptor, pieces[:_GATHER])
            except BlockingIOError:
                count = 0
            except OSError as error:
                self._broken(error)
                return
            if not count:
                self._block(True)
                self.expect_progress()
                return
            if count == self.size:
                self.socket.worker.counters.pieces += len(pieces)
                pieces.clear()
            else:
                self._drop_written(count)
            self.taken(count)
        if self._blocked:
            self._block(False)

    def _drop_written(self, count: int) -> None:
        pieces = self.pieces
        done = 0
        for piece in pieces:
            if count < len(piece):
                break
            count -= len(piece)
            done += 1
        del pieces[:done]
        self.socket.worker.counters.pieces += done
        if count:
            pieces[0] = memoryview(pieces[0])[count:]

    def _block(self, blocked: bool) -> None:
        if blocked is not self._blocked:
            self._blocked = blocked
            if self._watched:
                self._select(self._events | _WRITE if blocked else self._events & ~_WRITE)

    def half_close(self) -> None:
        if not self._half_closed and self.descriptor >= 0:
            self._half_closed = True
            try:
                self._transport.shutdown(stdlib_socket.SHUT_WR)
            except OSError as error:
                self.socket.lost(str(error))

    def close(self, *, abort: bool) -> None:
        if self.descriptor < 0:
            return
        if self._watched:
            self._reactor.remove(self.descriptor)
        self.descriptor = -1
        self._started = self._watched = self._blocked = False
        if abort:
            with suppress(OSError):
                self._transport.setsockopt(
                    stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, _LINGER_OFF
                )
        self._transport.close()
