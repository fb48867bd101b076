"""The outbox that every carrier has, and what a carrier must be able to do.

The outbox is bounded: who puts more into it than `send_buffer_size` waits in `drain()`, and a
peer that does not take what waits for it within `send_timeout` is dropped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from echo.websocket.codec import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    PING,
    PONG,
    RSV1,
    TEXT,
    frame_header,
)

if TYPE_CHECKING:
    from echo.websocket.clock import Timer
    from echo.websocket.socket import WebSocket

# The headers of small frames by first byte and length, made once: most of what is written.
_SMALL_HEADERS = {
    bits | opcode: [bytes((bits | opcode, length)) for length in range(126)]
    for opcode in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG)
    for bits in (0, FIN, RSV1, FIN | RSV1)
}

_COPIED = 16_384  # bytes up to which a frame is one piece, for which its payload is copied
# The last such frame with its payload and first byte: a broadcast puts one payload into many
# outboxes, and they can share the frame.
_last: tuple[bytes, int, bytes] = (b"", 0, b"")


class Carrier(ABC):
    """The write side of one connection, and the switches of its read side."""

    kind: ClassVar[str]
    """What it rides on, in one word."""

    __slots__ = (
        "_drainers",
        "_send_timer",
        "most",
        "pieces",
        "reports_empty",
        "size",
        "socket",
        "written",
    )

    def __init__(self, socket: WebSocket) -> None:
        self.socket = socket
        socket.carrier = self
        self.pieces: list[bytes | memoryview] = []
        """What waits to be written."""
        self.size = 0
        """How many bytes wait to be written."""
        self.most = socket.options.send_buffer_size
        """How many may wait before who sends waits, too."""
        self.reports_empty = False
        """Whether the socket waits for the outbox to become empty."""
        self._drainers: list[Task] = []
        self._send_timer: Timer | None = None
        self.written = 0
        """How many bytes the peer has taken."""

    def begin_with(self, data: bytes) -> None:
        """Let `data`, the answer to the handshake, go out before all frames."""
        self.socket.worker.counters.surplus += 1
        self.pieces.append(data)
        self.size += len(data)

    # What the socket calls

    def put(self, first: int, payload: bytes) -> None:
        """Add a message, or the last frame of one, to the outbox.

        Never waits; the caller looks at `size` afterwards.
        """
        pieces = self.pieces
        if not pieces:
            self.wake()
        length = len(payload)
        if length < 126:
            pieces.append(_SMALL_HEADERS[first][length] + payload)
            self.size += length + 2
        elif length <= _COPIED:
            global _last
            last_payload, last_first, frame = _last
            if payload is not last_payload or first != last_first:
                frame = frame_header(first, length) + payload
                _last = payload, first, frame
            pieces.append(frame)
            self.size += len(frame)
        else:
            header = frame_header(first, length)
            pieces += (header, payload)
            self.socket.worker.counters.surplus += 1
            self.size += length + len(header)

    def put_part(self, first: int, payload: bytes) -> None:
        """Add a frame that ends no message to the outbox."""
        self.socket.worker.counters.surplus += 1
        self.put(first, payload)

    async def drain(self) -> None:
        """Wait until the peer has taken half of the outbox, or is gone."""
        task = current_task()
        self._drainers.append(task)

        def abort(_: object) -> Abort:
            self._drainers.remove(task)
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)

    def release(self) -> None:
        """Let go who waits in `drain()`."""
        drainers, self._drainers = self._drainers, []
        for task in drainers:
            reschedule(task)

    # What the ways of writing share

    def taken(self, count: int) -> None:
        """The peer took `count` bytes."""
        self.size -= count
        self.written += count
        if self._drainers and self.size <= self.socket.options.send_buffer_size // 2:
            self.release()
        if not self.size:
            if self._send_timer is not None:
                self._send_timer.cancel()
                self._send_timer = None
            if self.reports_empty:
                self.socket.flushed()

    def expect_progress(self) -> None:
        """The peer takes nothing just now: set the send deadline, if none is set."""
        if self._send_timer is None:
            socket = self.socket
            self._send_timer = socket.worker.clock.call_in(
                socket.options.send_timeout, partial(self._check_progress, self.written)
            )

    def _check_progress(self, before: int) -> None:
        self._send_timer = None
        if self.written - before >= self.socket.options.send_buffer_size:
            self.expect_progress()
        else:
            self.socket.drop("peer does not read: send_timeout passed", "slow_client")

    def stop(self) -> None:
        """Nothing more will be written: forget what waits and let go who waits for it."""
        counters = self.socket.worker.counters
        counters.pieces += len(self.pieces)
        counters.bytes_sent += self.written
        self.pieces.clear()
        self.size = self.written = 0
        self.release()
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    # What each carrier does its own way

    @abstractmethod
    def start(self) -> None:
        """The opening handshake has been answered: frames may flow."""

    @abstractmethod
    def wake(self) -> None:
        """The outbox is no longer empty: see that it gets written soon."""

    def flush(self) -> None:  # noqa: B027  (most carriers have nothing to do)
        """Write now what can be written without waiting, where that saves something."""

    def resume(self) -> None:  # noqa: B027
        """The inbox has room again: read on."""

    def half_close(self) -> None:  # noqa: B027
        """Tell the peer that no more bytes come, where the transport can say so."""

    @abstractmethod
    def close(self, *, abort: bool) -> None:
        """Let the transport go, now; `abort` also throws away what the kernel still holds."""
