"""A TCP proxy that cuts the link when a test says so, as a tunnel does to the phone in a train.

What is under way when the link is cut is lost. Only threads: it serves tests that are not async.
"""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from types import TracebackType

_RESET = struct.pack("ii", 1, 0)  # lingers for no time: close() discards and resets


class Proxy:
    """Forwards connections to `target`, a port of this machine, while in its `with` block."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
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

    @property
    def connections(self) -> int:
        """How many have come."""
        return len(self._links)

    def cut(self, *, tell_server: bool = True) -> None:
        """Cut all links. New ones are taken at once.

        Args:
            tell_server: whether the server's end breaks too; otherwise it sees only silence.
        """
        with self._lock:
            for link in self._links:
                link.cut(tell_server=tell_server)

    def hold(self) -> None:
        """Take connections, but let nothing through, in either direction."""
        self._passing.clear()

    def pass_on(self) -> None:
        """Let through what waits since `hold()`."""
        self._passing.set()

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
        self._pumps = [
            threading.Thread(target=self._pump, args=ends)
            for ends in ((client, server), (server, client))
        ]
        for pump in self._pumps:
            pump.start()

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
            if not self._cut:
                sink.shutdown(socket.SHUT_WR)


def _break(end: socket.socket) -> None:
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.shutdown(socket.SHUT_RD)  # wakes recv(), which close() would not
    end.close()
