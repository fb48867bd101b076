"""A TCP proxy that cuts the link when a test says so, as a tunnel does to the phone in a train.

What is under way when the link is cut is lost. Only threads: it serves tests that are not async.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

_RESET = struct.pack("ii", 1, 0)  # lingers for no time: close() discards and resets

_SOME = 2000  # bytes after which a link is worth to be cut
_OUTAGE = 0.5  # seconds


class Proxy:
    """Forwards connections to `target`, a port of this machine, while in its `with` block."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cuts = 0
        """How often `cut()` was called."""
        self._links: list[_Link] = []
        self._lock = threading.Lock()
        self._passing = threading.Event()
        self._passing.set()
        self._acceptor = threading.Thread(target=self._accept)

    def __enter__(self) -> Proxy:
        self._acceptor.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() would not
        self._acceptor.join()
        self._listener.close()
        self._passing.set()
        for link in self._links:
            link.cut()
            link.end()

    def cut(self, *, tell_server: bool = True) -> None:
        """Cut all links. New ones are taken at once.

        Args:
            tell_server: whether the server's end breaks too; otherwise it sees only silence.
        """
        self.cuts += 1
        with self._lock:
            for link in self._links:
                link.cut(tell_server=tell_server)

    @contextmanager
    def cutting(self, *, tell_server: bool = True) -> Iterator[None]:
        """Cut the link whenever some bytes have come through it; once, nothing comes through the
        next link for a while."""
        over = threading.Event()

        def cut() -> None:
            while not over.wait(0.005):
                with self._lock:
                    ready = bool(self._links) and self._links[-1].passed > _SOME
                if ready:
                    self.cut(tell_server=tell_server)
                if self.cuts == 3 and ready:
                    self._passing.clear()
                    over.wait(_OUTAGE)
                    self._passing.set()

        cutter = threading.Thread(target=cut)
        cutter.start()
        try:
            yield
        finally:
            over.set()
            cutter.join()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener's end
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target))
                except OSError:  # nobody serves there now
                    _break(client)
                    continue
                with self._lock:
                    self._links.append(_Link(client, server, self._passing))


class _Link:
    """One connection through the proxy, and the two threads that pump its bytes."""

    def __init__(
        self, client: socket.socket, server: socket.socket, passing: threading.Event
    ) -> None:
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client, self._server = client, server
        self._passing = passing
        self._cut = False
        self._received = 0
        self._pumps = [
            threading.Thread(target=self._pump, args=ends)
            for ends in ((client, server), (server, client))
        ]
        for pump in self._pumps:
            pump.start()

    @property
    def passed(self) -> int:
        """How many bytes have come from the server; none once the link is cut."""
        return 0 if self._cut else self._received

    def cut(self, *, tell_server: bool = True) -> None:
        self._cut = True
        _break(self._client)
        if tell_server:
            _break(self._server)

    def end(self) -> None:
        for pump in self._pumps:
            pump.join()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):  # a cut
            while data := source.recv(65536):
                self._passing.wait()
                sink.sendall(data)
                if source is self._server:
                    self._received += len(data)
            if not self._cut:
                sink.shutdown(socket.SHUT_WR)


def _break(end: socket.socket) -> None:
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.shutdown(socket.SHUT_RD)  # wakes recv(), which close() would not
    end.close()
