"""WebSocket: one connection as its handler sees it, from the accepted handshake to the end.

The read side never waits for the handler: whoever carries the socket calls `feed` with bytes
and `lost` at their end, and what came waits in a bounded inbox. The write side belongs to the
carrier; the socket only puts frames into its outbox. Everything that has a deadline asks the
worker's clock. All state changes are synchronous and end in `_end`, which happens once.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import trio

from echo.websocket.codec import (
    ABNORMAL,
    BINARY,
    CLOSE,
    FIN,
    NO_STATUS,
    PING,
    PONG,
    RSV1,
    TEXT,
    Chunk,
    Close,
    Decoder,
    Event,
    MessageType,
    Ping,
    Pong,
    Violation,
    close_payload,
)
from echo.websocket.counters import LOST
from echo.websocket.deflate import Agreement, Deflater, Inflater
from echo.websocket.errors import (
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    UsageError,
)
from echo.websocket.keepalive import KeepAlive
from echo.websocket.parking import Parking
from echo.websocket.roundtrips import RoundTrips

if TYPE_CHECKING:
    from echo.websocket.carriers import Carrier
    from echo.websocket.clock import Timer
    from echo.websocket.options import WebSocketOptions
    from echo.websocket.worker import Worker

logger = logging.getLogger("echo.websocket")


class State(enum.Enum):
    """Where a connection is in its life (RFC 6455 section 7; the names are .NET's).

    There is no state for connecting: whoever holds a socket has accepted it.
    """

    OPEN = "open"
    CLOSE_SENT = "close sent"
    CLOSE_RECEIVED = "close received"
    CLOSED = "closed"
    ABORTED = "aborted"


class WebSocket:
    """An accepted WebSocket. `accept()` makes it.

    Receiving and sending may happen in different tasks; each side takes one task at a time.
    They wait only when they have to: a `receive()` that finds a message and a `send()` that
    finds room do not pass through the scheduler. Both sides are bounded, so a handler cannot
    run long without waiting, and every wait notices cancellation.
    """

    __slots__ = (
        *("__weakref__", "_batch", "_close_sent", "_closing", "_decoder", "_deflater", "_ended"),
        *("_inbox", "_keep_alive", "_owed_pong", "_partial", "_plain", "_reader", "_round_trips"),
        *("_read", "_sending", "_timer", "_why", "awaits_shutdown", "carrier", "close_code"),
        *("answer_code", "close_reason", "heard", "nursery", "options", "received", "state"),
        *("subprotocol", "worker"),
    )

    carrier: Carrier
    nursery: trio.Nursery
    """Runs tasks that live as long as the socket: they are cancelled when the handler leaves
    `accept()`, and one that fails ends the handler as well."""

    def __init__(
        self,
        worker: Worker,
        options: WebSocketOptions,
        *,
        subprotocol: str | None = None,
        agreement: Agreement | None = None,
    ) -> None:
        self.worker = worker
        self.options = options
        self.subprotocol = subprotocol
        """The subprotocol that was agreed on (section 1.9), or None."""
        self.state = State.OPEN
        self.close_code: int | None = None
        """The peer's close code; 1005 if its frame had none, 1006 if there was no frame, None
        while the connection is open."""
        self.close_reason: str | None = None
        """The peer's close reason, "" if it gave none, None while the connection is open."""
        # Receiving
        self._inbox: list[Chunk] = []  # what came; two lists weigh a fifth of a deque
        self._batch: list[Chunk] = []  # what the handler took of it at once, last first
        self._decoder = Decoder(
            self._inbox,
            max_message_size=options.max_message_size,
            chunk_size=options.receive_buffer_size,
            inflater=Inflater(agreement) if agreement else None,
            counters=worker.counters,
        )
        self.received = 0
        """How many bytes the peer has sent."""
        self._read = 0  # how many that were when the inbox was last empty
        self._reader = Parking()  # where the handler waits for the inbox
        self._partial: list[bytes] | None = None  # of a message that receive() was cancelled in
        self.heard = False  # whether the peer gave a sign of life; keep-alive resets it
        # Sending
        self._deflater = Deflater(agreement) if agreement else None
        self._sending: MessageType | None = None  # the message that is being sent in parts
        self._plain = agreement is None  # whether a whole message can go out as it is
        self._owed_pong: bytes | None = None
        self._round_trips: RoundTrips | None = None  # once it pings
        self._keep_alive: KeepAlive | None = None
        # Closing
        self.answer_code = NO_STATUS
        """What answers a close frame without a code: 1005, which is the same, or 1000."""
        self._closing: Close | Violation | None = None  # what the peer did and we must answer
        self._close_sent = False
        self._timer: Timer | None = None  # the deadline of the closing handshake
        self._why = ""
        self._ended: trio.Event | None = None  # for who waits for the end
        self.awaits_shutdown = False

    def __repr__(self) -> str:
        return f"<WebSocket {self.state.value}>"

    # Receiving

    async def receive_chunk(self) -> Chunk:
        """Receive a part of a message: `(data, type, end)`.

        `data` has at most `receive_buffer_size` bytes (text as UTF-8, which may end in the
        middle of a character), `type` is the message's, `end` tells whether it ends the
        message.

        Raises:
            ConnectionClosedOK: the peer has closed, and everything before that was received.
            ConnectionClosedError: the connection is lost or was failed.
            trio.BusyResourceError: another task is receiving.
        """
        batch = self._batch
        while not batch:
            if not self._fill_batch():
                await self._reader.wait()
        return batch.pop()

    async def receive(self) -> str | bytes:
        """Receive a whole message: `str` for text, `bytes` for binary.

        What `receive_chunk()` has already taken of a message is not part of it. If it is
        cancelled, the next call goes on where this one was.

        Raises: as `receive_chunk()`.
        """
        batch = self._batch
        while not batch:
            if not self._fill_batch():
                await self._reader.wait()
        data, kind, end = batch.pop()
        if not end or self._partial:
            parts = self._partial = self._partial or []
            parts.append(data)
            while not end:
                data, kind, end = await self.receive_chunk()
                parts.append(data)
            data = b"".join(parts)
            self._partial = None
        return data.decode() if kind is TEXT else data

    def __aiter__(self) -> WebSocket:
        """Iterate over messages until the peer closes."""
        return self

    async def __anext__(self) -> str | bytes:
        try:
            return await self.receive()
        except ConnectionClosedOK:
            raise StopAsyncIteration from None

    def _fill_batch(self) -> bool:
        """Take what has come, or raise why nothing more can come.

        Returns: whether there was something; else a task that receives has to wait.
        """
        inbox = self._inbox
        if not inbox:
            self._read = self.received
            if self._decoder.stalled:
                self._take(self._decoder.feed(b""))
            self.carrier.resume()
        if inbox:
            if len(inbox) == 1:
                self._batch.append(inbox.pop())
            else:
                self._batch += reversed(inbox)
                inbox.clear()
            return True
        if self._closing is not None:
            self._answer()
        if self.state is not State.OPEN:
            raise self._error()
        if self._reader.task is not None:
            raise trio.BusyResourceError("another task is receiving from this WebSocket")
        # What the handler has sent is complete for now: it need not wait for the next tick.
        self.carrier.flush()
        if self.state is not State.OPEN:  # the flush has met the end
            raise self._error()
        return False

    # Sending

    async def send(self, message: str | bytes, *, compress: bool = True) -> None:
        """Send a message: `str` as text, bytes as binary.

        Waits while more than `send_buffer_size` bytes wait for the peer. A message whose
        `send()` is cancelled in that wait is sent all the same.

        Args:
            message: what to send.
            compress: False sends this message uncompressed where permessage-deflate was
                agreed on: for what holds both secrets and an attacker's words.

        Raises:
            ConnectionClosed: the connection is over, or the peer was too slow to read.
            UsageError: a message is being sent in parts; end that first.
            TypeError: the message is neither text nor bytes.
        """
        if self._sending is not None:
            raise UsageError("a message is being sent in parts: end it before sending another")
        if isinstance(message, str):
            self._put(message.encode(), TEXT, True, compress)
        elif isinstance(message, bytes):
            self._put(message, BINARY, True, compress)
        elif isinstance(message, bytearray | memoryview):
            self._put(bytes(message), BINARY, True, compress)
        else:
            raise TypeError(f"a message is str or bytes, not {type(message).__name__}")
        if self.carrier.size > self.carrier.most:
            await self._make_room()

    async def send_chunk(
        self,
        data: bytes,
        kind: MessageType,
        end: bool = True,
        *,
        compress: bool = True,
        wait: bool = True,
    ) -> None:
        """Send a part of a message as a frame of its own (section 5.4).

        Args:
            data: the bytes; those of all parts of a text message together must be UTF-8.
            kind: the type of the message, the same for all its parts.
            end: whether this part is the last.
            compress: as in `send()`, and the same for all parts.
            wait: False leaves the part waiting for the peer, however much waits there. It is
                for who relays what the peer sends: a peer may send a whole message before it
                reads, so within a message neither side may wait for the other.

        Raises: as `send()`; UsageError also if `kind` differs from the parts before.
        """
        carrier = self.carrier
        if end and self._plain:
            carrier.put(kind | FIN, data)
        else:
            self._put(data, kind, end, compress)
        if wait and carrier.size > carrier.most:
            await self._make_room()

    def send_nowait(self, data: bytes, kind: MessageType) -> None:
        """Send a message without ever waiting, for who sends the same to many.

        What one peer does not read piles up: look at `unsent` afterwards, and drop who is slow.

        Args:
            data: the message; for text as UTF-8, which is not checked.
            kind: its type.

        Raises: ConnectionClosed and UsageError as `send()`.
        """
        if self._plain:
            self.carrier.put(kind | FIN, data)
        elif self._sending is not None:
            raise UsageError("a message is being sent in parts: end it before sending another")
        else:
            self._put(data, kind, True, True)

    @property
    def unsent(self) -> int:
        """Bytes that wait for the peer to read."""
        return self.carrier.size

    async def drained(self) -> None:
        """Wait until at most half of `send_buffer_size` waits for the peer, or it is gone."""
        if self.carrier.size > self.options.send_buffer_size // 2 and not self.is_over:
            self.carrier.flush()
            if self.carrier.size > self.options.send_buffer_size // 2:
                await self.carrier.drain()
                return
        await trio.lowlevel.checkpoint()

    def _put(self, data: bytes, kind: MessageType, end: bool, compress: bool) -> None:
        if not self._writable:
            raise self._error()
        first = kind | FIN if end else kind
        compress = compress and self._deflater is not None
        if self._sending is not None:
            if kind is not self._sending:
                raise UsageError(f"the message in progress is {self._sending.name.lower()}")
            first &= FIN
        elif compress:
            first |= RSV1
        if compress:
            assert self._deflater is not None
            data = self._deflater.deflate(data, ends=end)
        self._sending = None if end else kind
        self._plain = end and self._deflater is None
        (self.carrier.put if end else self.carrier.put_part)(first, data)

    async def _make_room(self) -> None:
        """Wait for the peer, or at least let others run: it may read as fast as we send."""
        carrier = self.carrier
        carrier.flush()
        if carrier.size > self.options.send_buffer_size:
            await carrier.drain()
        else:
            await trio.lowlevel.checkpoint()
        if self.state is State.ABORTED:
            raise self._error()

    async def ping(self) -> float:
        """Ping the peer (section 5.5.2); return the round-trip time in seconds.

        Put `trio.fail_after()` around it to bound the wait.

        Raises:
            ConnectionClosed: the connection ended before the pong came.
        """
        if not self._writable:
            raise self._error()
        if self._round_trips is None:
            self._round_trips = RoundTrips()
        trip = self._round_trips.begin()
        self.send_ping(trip.payload)
        try:
            await trip.ended.wait()
        finally:
            self._round_trips.forget(trip)
        if trip.seconds is None:
            raise self._error()
        return trip.seconds

    # Closing

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Send what waits, then a close frame, and wait for the peer's (section 7.1.2).

        What the peer still sends is thrown away. After `close_timeout` the connection is
        dropped. Closing what is closed does nothing.

        Args:
            code: 1000 to 1003, 1007 to 1014 (but 1015), or 3000 to 4999; 1005 sends none.
            reason: for people, at most 123 bytes as UTF-8.

        Raises:
            ValueError: the code may not be sent, or the reason is too long.
        """
        self.begin_close(code, reason)
        await self.wait_closed()

    def begin_close(self, code: int = 1000, reason: str = "") -> None:
        """Do what `close()` does, without waiting for the end of it."""
        payload = close_payload(code, reason)
        if self._writable:
            self._why = self._why or f"we closed with {code} {reason}".rstrip()
            self._send_close(code, payload)

    def abort(self) -> None:
        """Drop the connection without a close frame: the peer sees 1006. Never waits."""
        self.drop("aborted by the application", "aborted")

    async def wait_closed(self) -> None:
        """Wait until the connection is closed or lost."""
        if self._ended is None:
            self._ended = trio.Event()
            if self.is_over:
                self._ended.set()
        await self._ended.wait()

    @property
    def is_over(self) -> bool:
        """Whether the connection is closed or lost."""
        return self.state in (State.CLOSED, State.ABORTED)

    async def shutting_down(self) -> None:
        """Wait until the server shuts down. There is then time for some last words.

        A socket whose handler awaits this is not closed at once in a shutdown but has half of
        the server's grace period to say goodbye and close.
        """
        self.awaits_shutdown = True
        try:
            await self.worker.shutting_down.wait()
        except BaseException:
            self.awaits_shutdown = False
            raise

    # What accept() calls

    def attach(self, nursery: trio.Nursery) -> None:
        """The handler runs in this nursery from now on."""
        self.nursery = nursery
        if self.is_over:
            self._limit_handler()

    def leave(self, code: int, reason: str) -> None:
        """The handler has ended: close, or answer the peer that has closed before."""
        if code == 1000 and self._closing is not None:
            self._answer()
        else:
            self.begin_close(code, reason)

    def _limit_handler(self) -> None:
        """The peer is gone: the handler has `close_timeout` seconds to end."""
        scope = self.nursery.cancel_scope
        scope.deadline = min(scope.deadline, trio.current_time() + self.options.close_timeout)

    # What carriers call

    def opened(self) -> None:
        """The opening handshake is answered: frames may flow.

        The peer's may have come before. If the peer has gone by now, the handler learns it as
        always: when it uses the socket.
        """
        if self.is_over:
            return
        self.worker.sockets.add(self)
        self.worker.counters.opened += 1
        self.carrier.start()
        if self.options.keep_alive_interval is not None:
            self._keep_alive = KeepAlive(self)

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer."""
        self.heard = True
        self.received += len(data)
        events = self._decoder.feed(data)
        if events:
            self._take(events)
        if self._inbox:
            if self._close_sent:
                self._discard()
            else:
                self._reader.wake()

    @property
    def full(self) -> bool:
        """Whether the inbox holds enough: who feeds should pause until `Carrier.resume()`."""
        # With an empty inbox the bytes are in a chunk that is not full yet: more must come.
        enough = self.received - self._read >= self.options.inbox_size and self._holds_some
        return enough or self._decoder.stalled

    @property
    def _holds_some(self) -> bool:
        return bool(self._inbox or self._batch)

    @property
    def wanted(self) -> int:
        """How many bytes are known to come: the rest of the frame in progress."""
        return self._decoder.remaining

    def lost(self, why: str = "peer vanished without a close frame") -> None:
        """The peer's bytes have ended."""
        if isinstance(self._closing, Close) and self._close_sent:
            self._end(State.CLOSED)
        else:
            self.drop(why)

    def drop(self, why: str, reason: str = LOST) -> None:
        """End the connection without a goodbye, or without waiting any longer for one.

        `why` is for people; `reason` is counted.
        """
        if not self.is_over:
            code = self._closing.code if isinstance(self._closing, Violation) else None
            counters = self.worker.counters
            counters.note_drop(reason, violation=code, close_sent=self._close_sent)
            if not self._close_sent:
                self._why = why
            self._end(State.ABORTED)

    def flushed(self) -> None:
        """The outbox has become empty; only told if `Carrier.reports_empty`."""
        if self._owed_pong is not None:
            payload, self._owed_pong = self._owed_pong, None
            self.carrier.reports_empty = self._close_sent
            self._send_control(PONG, payload)
        elif self._close_sent:
            if isinstance(self._closing, Close):
                self._end(State.CLOSED)
            elif self._closing is not None:
                # A broken peer is owed the frame that tells why, so its bytes are read, and
                # thrown away, until it has seen that: closing at once could reset it away.
                self.carrier.half_close()

    def send_ping(self, payload: bytes = b"") -> None:
        self._send_control(PING, payload)

    def send_pong(self, payload: bytes = b"") -> None:
        self._send_control(PONG, payload)

    # The states

    @property
    def _writable(self) -> bool:
        """Whether data frames may still be sent (section 5.5.1)."""
        state = self.state
        return state is State.OPEN or (state is State.CLOSE_RECEIVED and not self._close_sent)

    def _send_control(self, opcode: int, payload: bytes) -> None:
        if self._writable:
            self.carrier.put_part(FIN | opcode, payload)

    def _take(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Ping | Pong):  # its bytes do not wait for the handler
                self._read = min(self._read + len(event.payload) + 6, self.received)
            if isinstance(event, Ping):
                self._take_ping(event.payload)
            elif isinstance(event, Pong):
                if self._round_trips is not None:
                    self._round_trips.answered(event.payload)
            else:
                self._take_end(event)

    def _take_ping(self, payload: bytes) -> None:
        if self.carrier.size > self.options.send_buffer_size:
            # Who pings and does not read gets the newest pong only (section 5.5.3).
            self._owed_pong = payload
            self.carrier.reports_empty = True
        else:
            self.send_pong(payload)

    def _take_end(self, event: Close | Violation) -> None:
        """The peer has closed, or must be closed for what it did."""
        self._closing = event
        if isinstance(event, Close):
            self.close_code, self.close_reason = event.code, event.reason
            if self.state is State.OPEN:
                self.state = State.CLOSE_RECEIVED
        if self._close_sent:
            self._finish()
        elif self._holds_some:
            # The handler may answer what came before; its next receive() answers this.
            self._timer = self.worker.clock.call_in(self.options.close_timeout, self._answer)
        else:
            self._answer()

    def _answer(self) -> None:
        """Answer the peer's close with the same, or its violation with the code for it."""
        event = self._closing
        if event is None or self._close_sent:
            return
        if isinstance(event, Close):
            self._why = f"peer closed with {event.code} {event.reason}".rstrip()
        else:
            self._why = f"peer broke the protocol: {event.reason}"
        code = self.answer_code if event.code == NO_STATUS else event.code
        self._send_close(code, close_payload(code, event.reason))

    def _send_close(self, code: int, payload: bytes) -> None:
        self._owed_pong = None
        by = "client" if isinstance(self._closing, Close) else "server"
        self.worker.counters.note_close(by, code)
        self.carrier.put_part(FIN | CLOSE, payload)
        self._close_sent = True
        self._plain = False
        self.carrier.reports_empty = True
        if self.state is State.OPEN:
            self.state = State.CLOSE_SENT
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.worker.clock.call_in(
            self.options.close_timeout,
            partial(self.drop, "peer did not answer the close frame", "unanswered_close"),
        )
        if self._closing is None:
            self._discard()
        self._reader.wake()

    def _discard(self) -> None:
        """Throw away what came, so that the peer's close frame can come."""
        self._inbox.clear()
        self._batch.clear()
        while self._decoder.stalled:
            self._take(self._decoder.feed(b""))
            self._inbox.clear()
        self._read = self.received
        self.carrier.resume()

    def _finish(self) -> None:
        """Both sides have said what they had to say: end as soon as ours is written."""
        if not self.carrier.size:
            self.flushed()

    def _end(self, state: State) -> None:
        """The one end of every connection."""
        if self.is_over:
            return
        self.state = state
        self._plain = False
        if self.close_code is None:
            self.close_code, self.close_reason = ABNORMAL, ""
        if not self._close_sent:
            by = "client" if isinstance(self._closing, Close) else "nobody"
            self.worker.counters.note_close(by, self.close_code)
        logger.debug("WebSocket %s: %s", state.value, self._why)
        self.worker.sockets.discard(self)
        self.worker.counters.bytes_received += self.received
        self.received = self._read = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._keep_alive is not None:
            self._keep_alive.stop()
        self.carrier.close(abort=state is State.ABORTED)
        self.carrier.stop()
        if self._round_trips is not None:
            self._round_trips.abandon()
        self._reader.wake()
        if self._ended is not None:
            self._ended.set()
        if hasattr(self, "nursery"):
            self._limit_handler()

    def _error(self) -> ConnectionClosed:
        """Why nothing more can be received or sent."""
        code = self.close_code or NO_STATUS
        reason = self.close_reason or ""
        why = self._why or "the connection is closed"
        if self.state is State.ABORTED or isinstance(self._closing, Violation):
            return ConnectionClosedError(ABNORMAL if code == NO_STATUS else code, reason, why)
        return ConnectionClosedOK(code, reason, why)
