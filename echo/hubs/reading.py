"""The reading side of a connection: each message to what it means, in order.

One task at a time reads. It runs the calls that it reads, inline as long as they do not wait;
when one has to, another task reads on while the first stays with its call. Reading itself waits
for the client, for a free slot for its next call, and for room for what it uploads or for what
waits for it; in the last cases somebody else watches whether the client is still there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import trio

from echo.hubs.calls import Call, run_until_wait
from echo.hubs.errors import HubError
from echo.hubs.messages import (
    Ack,
    CancelInvocation,
    Close,
    Completion,
    Invocation,
    Message,
    Ping,
    Sequence,
    StreamInvocation,
    StreamItem,
)
from echo.hubs.protocol import ProtocolError
from echo.hubs.transports.link import LinkResumed

if TYPE_CHECKING:
    from echo.hubs.connection import HubConnection
    from echo.hubs.server import HubServer

logger = logging.getLogger("echo.hubs")

T = TypeVar("T")
Work: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

_NOTHING: Iterator[Message] = iter(())


class Reader:
    """Reads one connection.

    Args:
        connection: whose messages.
        server: its hub.
        first: the bytes behind the handshake request.
    """

    __slots__ = (
        *("_connection", "_generation", "_messages", "_parser", "_server"),
        *("_asking", "_slot_free", "_slots_taken", "_streaming", "receiving"),
    )

    def __init__(self, connection: HubConnection, server: HubServer, first: bytes) -> None:
        self._connection = connection
        self._server = server
        self._parser = connection.protocol.parser(server.options.max_message_size)
        self._messages: Iterator[Message] = self._parser.feed(first)
        self._generation = 0  # of the task that reads
        self._slots_taken = 0  # of the parallel invocations, those that wait for one included
        self._slot_free: trio.Event | None = None  # for who waits for one
        self._streaming = 0  # calls with streams
        self._asking = 0  # answers of clients that calls wait for
        self.receiving = False
        """Whether it waits for the client, not for what the client has asked for."""

    async def run(self) -> None:
        """Read until the end, or until a call has to wait and another task reads on."""
        connection = self._connection
        link = connection.link
        options = self._server.options
        generation = self._generation
        try:
            while True:
                heard = False
                for message in self._messages:
                    heard = True
                    if connection.replay is not None and not connection.is_new(message):
                        continue
                    if type(message) is Invocation or type(message) is StreamInvocation:
                        work = self._prepare(message)
                        if work is not None:
                            if self._slots_taken > options.parallel_invocations:
                                await self.watched(self._wait_for_slot())
                                if connection.ended:
                                    return
                            connection.begin_run()
                            await run_until_wait(work(), self._hand_over)
                            if generation != self._generation:
                                return
                    elif type(message) is StreamItem:
                        upload = connection.uploads.get(message.invocation_id)
                        waiting = upload.offer(message.item) if upload is not None else None
                        if waiting is not None:
                            await self.watched(waiting)
                    else:
                        self._handle(message)
                    if link.unsent > options.transport_buffer_size:
                        await self.watched(link.drain())
                    if connection.ended:
                        return
                self._messages = _NOTHING  # an iterator at its end weighs as much as before it
                if heard:
                    connection.note_dispatched()
                self.receiving = True
                try:
                    data = await link.receive()
                except LinkResumed:
                    self._parser = connection.protocol.parser(options.max_message_size)
                    connection.resume()
                    continue
                finally:
                    self.receiving = False
                if not data:
                    connection.stop()
                    return
                self._messages = self._parser.feed(data)
        except ProtocolError as error:
            logger.debug("%s broke the protocol: %s", connection.id, error)
            connection.stop(error)

    def _hand_over(self) -> None:
        """A call has to wait in the task that reads: read on in another."""
        connection = self._connection
        connection.note_dispatched()
        self._generation += 1
        if not connection.ended:
            connection.nursery.start_soon(self.run)

    async def watched(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work` while nobody receives; should the client go meanwhile, that is the end."""
        watch = trio.CancelScope()

        def begin() -> None:
            self._connection.nursery.start_soon(self._watch, watch)

        try:
            return await run_until_wait(work, begin)
        finally:
            watch.cancel()

    async def _watch(self, scope: trio.CancelScope) -> None:
        with scope:
            await self._connection.link.wait_ended()
            self._connection.stop()

    # Calls

    def _prepare(self, message: Invocation | StreamInvocation) -> Work | None:
        """What runs a call; None if the client is told already that it does not run."""
        connection = self._connection
        server = self._server
        dispatcher = server.dispatcher
        server.metrics.invocations += 1
        target = message.target
        method = dispatcher.methods.get(target.lower())
        if method is None:
            dispatcher.refuse(connection, message, f"Unknown hub method '{target}'")
            return None
        if method.counts and type(message) is Invocation:
            self._slots_taken += 1
            return partial(dispatcher.invoke, Call(connection, counted=True), method, message)
        id = message.invocation_id
        most = server.options.max_streams
        if type(message) is StreamInvocation and id in connection.streams:
            dispatcher.refuse(connection, message, f"Invocation ID '{id}' is already in use.")
            return None
        if self._streaming >= most:
            error = f"Failed to invoke '{target}': {most} calls with streams are running already."
            dispatcher.refuse(connection, message, error)
            return None
        uploads = dispatcher.open_uploads(connection, method, message)
        if uploads is None:
            return None
        self._streaming += 1
        server.metrics.streams += 1
        run = dispatcher.stream if type(message) is StreamInvocation else dispatcher.invoke
        return partial(run, Call(connection, streaming=True), method, message, uploads)

    async def _wait_for_slot(self) -> None:
        while self._slots_taken > self._server.options.parallel_invocations:
            self._slot_free = trio.Event()
            await self._slot_free.wait()

    def begin_asking(self) -> None:
        """A call waits for a client's answer. Raises `HubError` if too many do."""
        most = self._server.options.max_client_results
        if self._asking >= most:
            raise HubError(f"{most} calls are waiting for answers of clients already.")
        self._asking += 1

    def end_asking(self) -> None:
        """It has it, or not."""
        self._asking -= 1

    def release_slot(self) -> None:
        """A call no longer counts: the next may run."""
        self._slots_taken -= 1
        if self._slot_free is not None:
            self._slot_free.set()

    def end_stream(self) -> None:
        """A call with streams has ended."""
        self._streaming -= 1
        self._server.metrics.streams -= 1

    # Other messages

    def _handle(self, message: Message) -> None:
        connection = self._connection
        match message:
            case Ping():
                connection.note_ping()
            case CancelInvocation(invocation_id=id):
                scope = connection.streams.get(id)
                if scope is not None:  # else it has just ended
                    scope.cancel()
            case Completion(invocation_id=id):
                if id in connection.uploads:
                    connection.uploads[id].end(message.error)
                elif id in connection.answers:
                    connection.answers[id](message)
                else:
                    logger.debug("%s completes %r, which nobody waits for", connection.id, id)
            case Close(error=error):
                reason = HubError(error) if error is not None else None
                connection.stop(reason, allow_reconnect=False, tell=False)
            case Ack(sequence_id=number):
                connection.acknowledged(number)
            case Sequence(sequence_id=number):
                if connection.replay is not None:
                    connection.replay.sequence(number)
