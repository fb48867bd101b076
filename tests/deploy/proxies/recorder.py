"""In the service's place: a server that answers with the head of the request it got."""

import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

Reply = Callable[[str], Iterable[bytes]]


def answer(status: str, body: str = "") -> list[bytes]:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return [head.encode(), body.encode()]


class Recorder:
    """Listens on the unix socket `path`.

    Args:
        reply: what to send for a head, piece by piece; nothing to hang up without a word.
    """

    def __init__(self, path: Path, reply: Reply = lambda head: answer("200 OK", head)) -> None:
        self.path = path
        self.reply = reply
        self.heads: list[str] = []

    def __enter__(self) -> Self:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Wakes the thread's accept(), which close() alone would not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                stream, _ = self._listener.accept()
            except OSError:
                return
            with stream, suppress(OSError):
                stream.settimeout(10)
                data = b""
                while b"\r\n\r\n" not in data:
                    data += stream.recv(65536) or b"\r\n\r\n"
                self.heads.append(data.partition(b"\r\n\r\n")[0].decode())
                for piece in self.reply(self.heads[-1]):
                    stream.sendall(piece)
