"""A Trio application that an asyncio server can serve too.

`hypercorn echo:app` picks Hypercorn's asyncio worker. There `GuestApp` runs Trio as a guest of
the server's loop, from the lifespan's startup to its shutdown, and each ASGI call as one Trio
task in one nursery. A call is never left behind on either side: whoever is cancelled cancels the
other half and waits for it; results and errors cross as they are. Under Trio it only forwards.
"""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Generic, TypeAlias, TypeVar, cast

import outcome
import trio

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

T = TypeVar("T")
U = TypeVar("U")

logger = logging.getLogger("echo")


class GuestApp:
    """An ASGI application made by `create_app`, which is called once, inside Trio."""

    def __init__(self, create_app: Callable[[], ASGIApp]) -> None:
        self._create_app = create_app
        self._app: ASGIApp | None = None
        self._guest: _Guest | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if trio.lowlevel.in_trio_task():
            # For each request, and so without a frame between: _forward() does the same.
            if self._app is not None:
                await self._app(scope, receive, send)
            else:
                await self._forward(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._host(scope, receive, send)
        else:
            guest = self._guest
            if guest is None or guest.loop is not asyncio.get_running_loop():
                raise RuntimeError(
                    "Under asyncio the application runs between the server's lifespan startup and "
                    "shutdown only: turn lifespan on, or use `hypercorn -k trio echo:app`"
                )
            await guest.run(self._forward, scope, guest.bridge(receive), guest.bridge(send))

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._app is None:
            try:
                self._app = self._create_app()
            except Exception as error:
                if scope["type"] != "lifespan":
                    raise
                # Raising here would let the server go on and answer every request with 500.
                logger.exception("The application could not be made")
                await receive()
                await send(_failed("startup", error))
                return
        await self._app(scope, receive, send)

    async def _host(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The whole life of the guest, within the server's lifespan call."""
        if self._guest is not None:
            raise RuntimeError("The application is already being served")
        logger.warning(
            "Trio runs as a guest of the asyncio worker, which is slower; "
            "the faster command is: hypercorn -k trio echo:app"
        )
        self._guest = guest = _Guest()
        try:
            await guest.start()
            last = await guest.run(
                _lifespan, self._forward, scope, guest.bridge(receive), guest.bridge(send)
            )
        finally:
            self._guest = None
            await guest.end()
        # A server may stop its loop, or look for our exception, as soon as it has this message.
        # So it is sent when Trio has ended, from here, as the very last thing.
        await send(last)


async def _lifespan(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> Message:
    """Run the application's lifespan and return its last word instead of sending it.

    Returns only when the server has asked for the shutdown or the startup has failed, even if
    the application has no lifespan or lost it: until then the guest is needed.
    """
    heard: list[str] = []
    started = False
    last: Message | None = None

    async def hear() -> Message:
        message = cast(Message, await receive())
        heard.append(message["type"])
        return message

    async def say(message: Message) -> None:
        nonlocal started, last
        if message["type"] == "lifespan.startup.complete":
            started = True
            await send(message)
        else:
            # No checkpoint: at shutdown Quart-Trio may say this in a cancelled scope. What the
            # application does after it is cancelled, as Hypercorn's Trio worker would.
            last = message
            over.cancel()

    over = trio.CancelScope()
    try:
        with over:
            await app(scope, hear, say)
    except Exception as error:
        logger.exception("The application's lifespan failed")
        if last is None and "lifespan.shutdown" in heard:
            last = _failed("shutdown", error)
        elif last is None and not started:
            last = _failed("startup", error)
    if last is not None:
        return last

    while "lifespan.startup" not in heard:
        await hear()
    if not started:
        await send({"type": "lifespan.startup.complete"})
    while "lifespan.shutdown" not in heard:
        await hear()
    return {"type": "lifespan.shutdown.complete"}


def _failed(stage: str, error: Exception) -> Message:
    return {
        "type": f"lifespan.{stage}.failed",
        "message": f"{type(error).__name__}: {error}",
    }


class _Guest:
    """One guest run of Trio on the running asyncio loop, in the same thread.

    Both loops share the thread, so a future can be set from a Trio task and a Trio task
    rescheduled from an asyncio callback; neither needs a queue or a lock.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery
        self._ready: asyncio.Future[None] = self.loop.create_future()
        self._ended: asyncio.Future[outcome.Outcome[None]] = self.loop.create_future()
        # One future for each task in the nursery, so that none waits on a Trio that broke down.
        self._running: set[asyncio.Future[outcome.Outcome[Any]]] = set()

    async def start(self) -> None:
        try:
            trio.lowlevel.start_guest_run(
                self._main,
                run_sync_soon_threadsafe=self.loop.call_soon_threadsafe,
                run_sync_soon_not_threadsafe=self.loop.call_soon,
                done_callback=self._on_end,
                # The signals are asyncio's.
                host_uses_signal_set_wakeup_fd=True,
            )
        except BaseException:
            self._ended.set_result(outcome.Value(None))
            raise
        await self._ready

    async def end(self) -> None:
        """Cancel what still runs and wait until Trio has ended."""
        self._scope.cancel()
        await _settle(self._ended, self._scope.cancel)
        self._ended.result().unwrap()

    async def _main(self) -> None:
        with self._scope:
            async with trio.open_nursery() as self._nursery:
                if not self._ready.done():  # start() may have been cancelled
                    self._ready.set_result(None)
                await trio.sleep_forever()

    def _on_end(self, ended: outcome.Outcome[None]) -> None:
        self._ended.set_result(ended)
        for future in self._running:
            if not future.done():
                future.set_result(outcome.Error(RuntimeError("Trio broke down")))
        if not self._ready.done():
            self._ready.set_exception(RuntimeError("Trio ended before it was ready"))

    # --- asyncio calls Trio ---

    async def run(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run `function` as a Trio task; cancelling this cancels the task and waits for it."""
        done: asyncio.Future[outcome.Outcome[T]] = self.loop.create_future()
        scope = trio.CancelScope()
        self._running.add(done)
        self._nursery.start_soon(self._task, done, scope, function, args)
        try:
            await _settle(done, scope.cancel)
        except asyncio.CancelledError:
            # As everywhere in asyncio, an error while being cancelled is not swallowed.
            if isinstance(done.result(), outcome.Error):
                done.result().unwrap()
            raise
        finally:
            self._running.discard(done)
        return done.result().unwrap()

    async def _task(
        self,
        done: asyncio.Future[outcome.Outcome[T]],
        scope: trio.CancelScope,
        function: Callable[..., Awaitable[T]],
        args: tuple[Any, ...],
    ) -> None:
        # What asyncio sees if the task is cancelled, by its scope or by the end of the guest.
        result: outcome.Outcome[T] = outcome.Error(asyncio.CancelledError())
        try:
            with scope:
                result = outcome.Value(await function(*args))
        except trio.Cancelled:
            raise
        except BaseExceptionGroup as group:
            cancelled, errors = group.split(trio.Cancelled)
            if errors is not None:
                result = outcome.Error(errors)
            if cancelled is not None:
                raise cancelled from None
        except BaseException as error:
            # All of it belongs to the asyncio side: it must not end the other calls.
            result = outcome.Error(error)
        finally:
            if not done.done():
                done.set_result(result)

    # --- Trio calls asyncio ---

    def bridge(self, function: Callable[..., Awaitable[T]]) -> "Bridged[T]":
        """`function` of the asyncio side as one that a Trio task can await.

        It runs in the context of the caller of bridge(), not in the Trio task's: variables that
        the application sets stay on its side.
        """
        return Bridged(self.loop, contextvars.copy_context(), function)


class Bridged(Generic[T]):
    """A function of the asyncio side, to be awaited by Trio tasks of the guest.

    `__wrapped__` is that function itself; `bridge()` takes others of its kind across as well.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context,
        function: Callable[..., Awaitable[T]],
    ) -> None:
        self._loop = loop
        self._context = context
        self.__wrapped__ = function

    def bridge(self, function: Callable[..., Awaitable[U]]) -> "Bridged[U]":
        return Bridged(self._loop, self._context, function)

    async def __call__(self, *args: Any) -> T:
        async def call() -> T:
            return await self.__wrapped__(*args)

        await trio.lowlevel.checkpoint_if_cancelled()
        waiting = trio.lowlevel.current_task()
        task = self._loop.create_task(call(), context=self._context)
        raise_cancel: Callable[[], Any] | None = None

        def finished(task: asyncio.Task[T]) -> None:
            if not task.cancelled():
                result: outcome.Outcome[T] = outcome.capture(task.result)
            elif raise_cancel is not None:
                result = outcome.capture(raise_cancel)
            else:  # someone of the asyncio side cancelled it
                result = outcome.Error(asyncio.CancelledError())
            trio.lowlevel.reschedule(waiting, result)

        def abort(raise_it: Callable[[], Any]) -> trio.lowlevel.Abort:
            # Not yet: a message that arrived in this moment would be lost, and the asyncio task
            # would outlive its caller. `finished` decides.
            nonlocal raise_cancel
            if raise_cancel is None:
                raise_cancel = raise_it
                task.cancel()
            return trio.lowlevel.Abort.FAILED

        task.add_done_callback(finished)
        return cast(T, await trio.lowlevel.wait_task_rescheduled(abort))


async def _settle(future: "asyncio.Future[Any]", cancel: Callable[[], object]) -> None:
    """Wait until `future` is done; if cancelled meanwhile, `cancel` its work and still wait.

    The wait has no bound of its own: it ends when the cancelled Trio task does, whose only
    shields are bounded goodbyes.
    """
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError as error:
            cancelled = error
            cancel()
    if cancelled is not None:
        raise cancelled
