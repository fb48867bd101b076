"""HubConnection: one client, from its handshake to `on_disconnected`.

What is sent goes into the link at once, in order, from whatever task; who sends much to one
client asks for `room()` first. The connection ends once, in `stop()`, which is synchronous;
`run()` then says goodbye, within bounds.
"""

from __future__ import annotations

import logging
import math
from collections import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio

from echo.hubs.answers import Answer, read_answer
from echo.hubs.calls import Call
from echo.hubs.context import CallerContext
from echo.hubs.errors import ClientDisconnected, HubError, SlowClient, error_text, unwrapped
from echo.hubs.messages import Close, Completion, Invocation, Message, Sequence
from echo.hubs.protocol import HubProtocol
from echo.hubs.pulse import Pulse
from echo.hubs.reading import Reader
from echo.hubs.replay import Replay
from echo.hubs.transports.link import Link

if TYPE_CHECKING:
    from echo.hubs.server import HubServer
    from echo.hubs.streams import Upload

logger = logging.getLogger("echo.hubs")


class HubConnection:
    """A client whose handshake is done.

    Args:
        server: the hub.
        link: what carries the connection.
        protocol: what the client speaks.
        replay: for stateful reconnect, if the client asked for it.
        first: the bytes behind the handshake request.
    """

    __slots__ = (
        *("_acknowledged", "_asked", "_nursery", "_pulse", "_running", "_server"),
        *("answers", "context", "ended", "error", "link", "protocol", "reader", "replay"),
        *("streams", "uploads", "user_identifier"),
    )

    def __init__(
        self,
        server: HubServer,
        link: Link,
        protocol: HubProtocol,
        replay: Replay | None = None,
        first: bytes = b"",
    ) -> None:
        self._server = server
        self.link = link
        self.protocol = protocol
        self.user_identifier = server.user_id(link)
        """By which `clients.user()` finds it."""
        self.context = CallerContext(self)
        self.reader = Reader(self, server, first)
        # Calls
        self._running = 0  # runs of the hub's methods
        self.streams: dict[str, trio.CancelScope] = {}
        """The calls that stream to the client, by invocation id."""
        self.uploads: dict[str, Upload] = {}
        """The streams from the client, by stream id."""
        self._asked = 0
        self.answers: dict[str, Callable[[Completion | None], None]] = {}
        """Who waits for a client result, by invocation id; called with None at the end."""
        # Stateful reconnect
        self.replay = replay
        self._acknowledged: trio.Event | None = None  # for who waits for an Ack
        # The end
        self._pulse: Pulse | None = None
        self._nursery: trio.Nursery | None = None
        self.ended = False
        """Whether it is over: nothing more is sent."""
        self.error: Exception | None = None
        """Why it is over, if the client did not just leave."""

    def __repr__(self) -> str:
        return f"<HubConnection {self.id} {'over' if self.ended else 'open'}>"

    @property
    def id(self) -> str:
        """The connection id. Public."""
        return self.link.id

    @property
    def nursery(self) -> trio.Nursery:
        """Lives as long as the connection."""
        assert self._nursery is not None
        return self._nursery

    # Sending

    def post(self, data: bytes) -> None:
        """Send an encoded message of a call or a stream. Never waits; dropped after the end.

        A client for which too much waits is dropped.
        """
        if self.ended:
            return
        link = self.link
        most = self._server.options.outbox_size
        if self.replay is not None:
            self.replay.sent(data)
            if self.replay.size > most:
                self._drop_slow_client()
                return
        link.send(data)
        if link.unsent > most:
            self._drop_slow_client()

    def post_unnumbered(self, message: Message) -> None:
        """Send a message that belongs to no call."""
        if not self.ended:
            self.link.send(self.protocol.encode(message))

    def _drop_slow_client(self) -> None:
        most = self._server.options.outbox_size
        reason = f"the client is too slow: more than {most} bytes wait for it"
        self.link.abort(reason)
        self.stop(SlowClient(reason))

    @property
    def crowded(self) -> bool:
        """Whether so much waits for the client that who can wait should."""
        options = self._server.options
        return self.link.unsent > options.transport_buffer_size or (
            self.replay is not None and self.replay.size > options.replay_size
        )

    async def room(self) -> None:
        """Wait until less waits for the client, but not for ever for its acknowledgements."""
        options = self._server.options
        await self.link.drain()
        if self.replay is not None:
            with trio.move_on_after(options.replay_timeout):
                while self.replay.size > options.replay_size and not self.ended:
                    self._acknowledged = self._acknowledged or trio.Event()
                    await self._acknowledged.wait()

    async def ask(self, target: str, arguments: abc.Sequence[object], returns: object) -> Any:
        """Call `target` on the client and wait for its answer; see `SingleClientProxy.invoke`."""
        results = self._server.metrics.client_results
        if not self.ended:
            self._asked += 1
            id = f"s{self._asked}"  # an id that no client gives to a stream
            call = Invocation(invocation_id=id, target=target, arguments=arguments)
            data = self.protocol.encode(call)
            answer = Answer()
            self.answers[id] = answer.come
            try:
                self.post(data)
                completion = await answer.wait(self._server.options.client_result_timeout)
            except TimeoutError:
                results["timeout"] += 1
                raise
            finally:
                self.answers.pop(id, None)
            if completion is not None:
                results["result" if completion.error is None else "error"] += 1
                return read_answer(completion, returns, self.protocol)
        results["disconnected"] += 1
        raise ClientDisconnected(f"Connection '{self.id}' disconnected.")

    # From the first message to the last

    async def run(self) -> None:
        """Serve the client until it leaves or has to."""
        server = self._server
        greeted = False
        try:
            await server.lifetime.join(self)
            async with trio.open_nursery() as self._nursery:
                if not self.ended:
                    self._pulse = Pulse(self, server.clock(), server.options)
                    greeted = await self._greet()
                    await self.reader.run()
        except* Exception as failures:
            error = unwrapped(failures)
            logger.error("Hub connection %s failed", self.id, exc_info=error)
            self.stop(error)
        finally:
            self.stop()
            await self._say_goodbye(greeted)

    async def _greet(self) -> bool:
        """Run the hub's `on_connected`; returns whether it went well."""
        self.begin_run()
        try:
            await self.reader.watched(self._server.dispatcher.connected(self))
        except Exception as failure:
            error = unwrapped(failure)
            _log("on_connected", error)
            self.stop(error, allow_reconnect=False)
            return False
        finally:
            self._end_run()
        return True

    async def _say_goodbye(self, greeted: bool) -> None:
        """Tell the hub and the lifetime; close the link. Also when all this is cancelled."""
        server = self._server
        seconds = server.options.close_timeout
        hurry = trio.current_effective_deadline() == -math.inf
        if greeted:
            with trio.move_on_after(seconds, shield=True) as scope:
                try:
                    await server.dispatcher.disconnected(self, self.error)
                except Exception as failure:
                    _log("on_disconnected", unwrapped(failure))
            if scope.cancelled_caught:
                logger.warning("on_disconnected() took longer than %g s and was cancelled", seconds)
        with trio.move_on_after(seconds, shield=True):
            try:
                await server.lifetime.leave(self)
            except Exception:
                logger.exception("Hub connection %s could not leave", self.id)
        if hurry:
            self.link.abort("the server ends")
        else:
            await self.link.close()

    def begin_run(self) -> None:
        """A method of the hub begins."""
        self._running += 1

    def end_call(self, call: Call) -> None:
        """A call has ended."""
        call.release()
        if call.streaming:
            self.reader.end_stream()
        self._end_run()

    def _end_run(self) -> None:
        self._running -= 1
        if self.ended and not self._running:
            self.nursery.cancel_scope.cancel()

    # What the reader and the timers find

    def note_ping(self) -> None:
        """The client has sent a ping."""
        if self._pulse is not None:
            self._pulse.expect()

    def note_dispatched(self) -> None:
        """All that came is dispatched."""
        if self._pulse is not None:
            self._pulse.heard()

    def is_new(self, message: Message) -> bool:
        """Whether a message has not come before the client's reconnect already."""
        assert self.replay is not None
        new = self.replay.is_new(message)
        if self._pulse is not None:
            self._pulse.acknowledge()
        return new

    def acknowledged(self, number: int) -> None:
        """The client has what was sent up to this number."""
        if self.replay is not None:
            self.replay.acknowledged(number)
            self._wake()

    def resume(self) -> None:
        """The client has reconnected: go on where it is."""
        if self.replay is None or self.ended:
            return
        number, again = self.replay.resumed()
        self.post_unnumbered(Sequence(sequence_id=number))
        for data in again:
            self.link.send(data)
        self._server.metrics.resumed += 1

    def _wake(self) -> None:
        if self._acknowledged is not None:
            self._acknowledged.set()
            self._acknowledged = None

    # The end

    def stop(
        self, error: Exception | None = None, *, allow_reconnect: bool = True, tell: bool = True
    ) -> None:
        """End the connection. Never waits; only the first time counts.

        Streams are cancelled. Methods that run have `close_timeout` to end.

        Args:
            error: why, for `on_disconnected`.
            allow_reconnect: whether the client is invited to come back.
            tell: whether the client is told of the error.
        """
        if self.ended:
            return
        self.ended = True
        self.error = error
        server = self._server
        sentence = None
        if error is not None and tell:
            detailed = server.options.detailed_errors
            sentence = error_text("Connection closed with an error.", error, detailed=detailed)
        close = Close(error=sentence, allow_reconnect=allow_reconnect)
        self.link.send(self.protocol.encode(close))
        server.metrics.ends[type(error).__name__ if error is not None else "closed"] += 1
        if self._pulse is not None:
            self._pulse.stop()
        self.context.note_end()
        for scope in self.streams.values():
            scope.cancel()
        for upload in self.uploads.values():
            upload.end("The underlying connection was closed.")
        for come in list(self.answers.values()):
            come(None)
        self._wake()
        if self._nursery is not None:
            if self._running:
                grace = trio.current_time() + server.options.close_timeout
                self._nursery.cancel_scope.deadline = grace
            else:
                self._nursery.cancel_scope.cancel()


def _log(method: str, error: Exception) -> None:
    if isinstance(error, HubError):
        logger.debug("%s() failed: %s", method, error)
    else:
        logger.error("%s() failed", method, exc_info=error)
