"""From a client's message to a run of a hub's method, and back to what the client is told.

The coroutines here are run by the connection, inline as far as they go without waiting. Whatever
a method does, its call ends in one completion, or in none if nobody waits for one.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any, TypeAlias

import trio
from msgspec import UNSET

from echo.hubs.binding import BindingError
from echo.hubs.calls import Call
from echo.hubs.clients import CallerClients, GroupManager
from echo.hubs.errors import ClientDisconnected, HubError, error_text, unwrapped
from echo.hubs.filters import HubInvocation, around
from echo.hubs.hub import Hub, HubMethod, allowed, methods_of
from echo.hubs.lifetime import Lifetime
from echo.hubs.messages import Completion, Invocation, StreamInvocation, StreamItem
from echo.hubs.metrics import Metrics
from echo.hubs.options import HubOptions
from echo.hubs.protocol import EncodingError
from echo.hubs.streams import Upload

if TYPE_CHECKING:
    from echo.hubs.connection import HubConnection

logger = logging.getLogger("echo.hubs")

Message: TypeAlias = Invocation | StreamInvocation


class _Refused(Exception):
    """A call that does not run; `str()` is what its caller is told."""


class Dispatcher:
    """Runs the methods of one hub."""

    def __init__(
        self, hub: type[Hub], options: HubOptions, lifetime: Lifetime, metrics: Metrics
    ) -> None:
        self.methods = methods_of(hub)
        self._hub = hub
        self._options = options
        self._lifetime = lifetime
        self._metrics = metrics
        self._groups = GroupManager(lifetime)
        filters = options.filters
        run = around(filters, "invoke", _run)
        self._run_filtered = None if run is _run else run
        self._on_connected = around(filters, "on_connected", lambda hub: hub.on_connected())
        self._on_disconnected = around(
            filters, "on_disconnected", lambda hub, error: hub.on_disconnected(error)
        )

    # Connects and disconnects

    async def connected(self, connection: HubConnection) -> None:
        """Run the hub's `on_connected`. Raises what it raises."""
        await self._on_connected(self._create(Call(connection, may_ask=False)))

    async def disconnected(self, connection: HubConnection, error: Exception | None) -> None:
        """Run the hub's `on_disconnected`. Raises what it raises."""
        await self._on_disconnected(self._create(Call(connection)), error)

    # Calls

    def refuse(self, connection: HubConnection, message: Message, error: str) -> None:
        """Tell the caller, if it waits for an answer, why its call does not run."""
        self._metrics.failed_invocations += 1
        if message.invocation_id is not None:
            self._complete(connection, message, error)

    def open_uploads(
        self, connection: HubConnection, method: HubMethod, message: Message
    ) -> list[Upload] | None:
        """Be ready for the streams that come with a call; None if it is refused for them.

        Their items may come at once, while the method is not yet allowed to run.
        """
        ids = message.stream_ids
        if len(ids) != method.uploads:
            return []  # the call will fail for it
        if len(set(ids)) < len(ids) or any(id in connection.uploads for id in ids):
            self.refuse(connection, message, f"Stream ID '{ids[0]}' is already in use.")
            return None
        uploads = [
            Upload(
                converter,
                connection.protocol,
                self._options.stream_capacity,
                detailed=self._options.detailed_errors,
            )
            for converter in method.signature.streams
        ]
        connection.uploads.update(zip(ids, uploads, strict=True))
        return uploads

    async def invoke(
        self, call: Call, method: HubMethod, message: Message, uploads: Sequence[Upload] = ()
    ) -> None:
        """Run a call that has one result."""
        connection = call.connection
        error = None
        result: object = UNSET
        began = perf_counter()
        try:
            result = await self._execute(call, method, message, uploads, streams=False)
        except Exception as failure:
            error = self._explain(connection, message, failure)
        finally:
            self._metrics.invocation_seconds.observe(perf_counter() - began)
            self._end(call, message, uploads)
        if message.invocation_id is not None:
            if result is None and method.is_void:
                result = UNSET
            self._complete(connection, message, error, result)

    async def stream(
        self, call: Call, method: HubMethod, message: Message, uploads: Sequence[Upload] = ()
    ) -> None:
        """Run a call that streams to the client, until it ends or is cancelled."""
        connection = call.connection
        assert message.invocation_id is not None
        error = None
        with trio.CancelScope() as scope:
            connection.streams[message.invocation_id] = scope
            try:
                error = await self._stream(call, method, message, uploads)
            finally:
                del connection.streams[message.invocation_id]
                self._end(call, message, uploads)
        self._complete(connection, message, error)

    async def _stream(
        self, call: Call, method: HubMethod, message: Message, uploads: Sequence[Upload]
    ) -> str | None:
        connection = call.connection
        id = message.invocation_id
        assert id is not None
        try:
            result = await self._execute(call, method, message, uploads, streams=True)
            if not hasattr(result, "__aiter__"):
                name = method.signature.name
                raise _Refused(
                    f"The value returned by the streaming method '{name}' is not an async iterator."
                )
        except Exception as failure:
            return self._explain(connection, message, failure)
        try:
            items = aiter(result)
            try:
                async for item in items:
                    if connection.ended:
                        break
                    data = connection.protocol.encode(StreamItem(invocation_id=id, item=item))
                    connection.post(data)
                    if connection.crowded:
                        await connection.room()
            finally:
                if hasattr(items, "aclose"):
                    await items.aclose()
        except Exception as failure:
            sentence = "An error occurred on the server while streaming results."
            return self._log_failure(connection, message, unwrapped(failure), sentence)
        return None

    async def _execute(
        self,
        call: Call,
        method: HubMethod,
        message: Message,
        uploads: Sequence[Upload],
        *,
        streams: bool,
    ) -> Any:
        """Check that the method may be called so, and call it."""
        connection = call.connection
        target = message.target
        if method.policies and not await allowed(method.policies, connection.link.user):
            raise _Refused(f"Failed to invoke '{target}' because user is unauthorized")
        if method.streams is not streams:
            is_one, called = ("streaming", "non-") if method.streams else ("non-streaming", "")
            raise _Refused(
                f"The client attempted to invoke the {is_one} '{target}' method with a "
                f"{called}streaming invocation."
            )
        signature = method.signature
        signature.check_streams(len(message.stream_ids))
        arguments = signature.bind(message.arguments, connection.protocol, uploads)
        hub = self._create(call)
        if self._run_filtered is not None:
            return await self._run_filtered(HubInvocation(hub, target, method.function, arguments))
        result = method.function(hub, *arguments)
        if type(result) is CoroutineType or inspect.isawaitable(result):
            return await result
        return result

    def _create(self, call: Call) -> Hub:
        hub = self._hub()
        hub.clients = CallerClients(self._lifetime, call)
        hub.context = call.connection.context
        hub.groups = self._groups
        return hub

    # Ends

    def _end(self, call: Call, message: Message, uploads: Sequence[Upload]) -> None:
        connection = call.connection
        if uploads:
            for id, upload in zip(message.stream_ids, uploads, strict=False):
                upload.close()
                del connection.uploads[id]
        connection.end_call(call)

    def _complete(
        self,
        connection: HubConnection,
        message: Message,
        error: str | None = None,
        result: object = UNSET,
    ) -> None:
        id = message.invocation_id
        assert id is not None
        encode = connection.protocol.encode
        try:
            data = encode(Completion(invocation_id=id, error=error, result=result))
        except EncodingError as failure:
            error = self._explain(connection, message, failure)
            data = encode(Completion(invocation_id=id, error=error))
        connection.post(data)

    def _explain(self, connection: HubConnection, message: Message, error: Exception) -> str:
        """What the caller is told of an error that kept its call from a result."""
        target = message.target
        error = unwrapped(error)
        if isinstance(error, _Refused):
            self._metrics.failed_invocations += 1
            return str(error)
        if isinstance(error, BindingError):
            self._metrics.failed_invocations += 1
            logger.debug("%s: call of %r: %s %s", connection.id, target, error, error.reason)
            return error.invocation_text(target, detailed=self._options.detailed_errors)
        sentence = f"An unexpected error occurred invoking '{target}' on the server."
        return self._log_failure(connection, message, error, sentence)

    def _log_failure(
        self, connection: HubConnection, message: Message, error: Exception, sentence: str
    ) -> str:
        self._metrics.failed_invocations += 1
        if isinstance(error, HubError | ClientDisconnected) or connection.ended:
            logger.debug("%s: %r failed: %s", connection.id, message.target, error)
        else:
            logger.error("Hub method %r failed", message.target, exc_info=error)
        return error_text(sentence, error, detailed=self._options.detailed_errors)


async def _run(invocation: HubInvocation) -> Any:
    """What filters are around: the method."""
    result = invocation.method(invocation.hub, *invocation.arguments)
    return await result if inspect.isawaitable(result) else result
