"""A Trio application inside an asyncio loop: what crosses, what ends, and that nothing is left.

The tests are synchronous: each runs its own asyncio loop, and pytest-trio has no part in it.
"""

import asyncio
import contextlib
import contextvars
import gc
import inspect
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
import trio

from echo.hosting.guest import Bridged, GuestApp

Messages = asyncio.Queue[Any]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run in asyncio; no task may be left, and nothing may go wrong where nobody looks."""
    unheard: list[dict[str, Any]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: unheard.append(context))
        async with asyncio.timeout(10):
            await test()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main(), debug=True)
    gc.collect()  # "never awaited" and abandoned guests are told by the collector
    assert unheard == []
    assert not trio.lowlevel.in_trio_run()


class Lifespan:
    """A server's side of the lifespan."""

    def __init__(self, app: Any) -> None:
        self.requests: Messages = asyncio.Queue()
        self.answers: Messages = asyncio.Queue()
        self.task = asyncio.create_task(
            app({"type": "lifespan", "state": {}}, self.requests.get, self.answers.put)
        )

    async def startup(self) -> dict[str, Any]:
        return await self._ask("lifespan.startup")

    async def shutdown(self) -> dict[str, Any]:
        return await self._ask("lifespan.shutdown")

    async def _ask(self, kind: str) -> dict[str, Any]:
        await self.requests.put({"type": kind})
        answer: dict[str, Any] = await self.answers.get()
        return answer


@contextlib.asynccontextmanager
async def serving(app: Any) -> AsyncIterator[Lifespan]:
    lifespan = Lifespan(app)
    assert await lifespan.startup() == {"type": "lifespan.startup.complete"}
    try:
        yield lifespan
    finally:
        assert await lifespan.shutdown() == {"type": "lifespan.shutdown.complete"}
        await lifespan.task


def guest(handler: Callable[..., Awaitable[None]]) -> GuestApp:
    """`handler` as an application with a plain lifespan."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await handler(scope, receive, send)
            return
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return

    return GuestApp(lambda: app)


async def nothing() -> dict[str, Any]:
    return await asyncio.Future()


async def ignore(message: Any) -> None: ...


HTTP = {"type": "http"}


# --- forwarding ---


def test_under_trio_it_hands_the_very_same_objects_on() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, receive, send))

    trio.run(GuestApp(lambda: app), HTTP, nothing, ignore)
    assert all(given is got for given, got in zip((HTTP, nothing, ignore), seen[0], strict=True))


def test_the_application_is_made_once_and_inside_trio() -> None:
    made: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    def create() -> Any:
        made.append(trio.lowlevel.in_trio_task())
        return app

    async def main() -> None:
        asgi = GuestApp(create)
        await asgi(dict(HTTP), nothing, ignore)
        await asgi(dict(HTTP), nothing, ignore)

    trio.run(main)
    assert made == [True]


def test_hypercorn_sees_an_asgi_application() -> None:
    assert inspect.iscoroutinefunction(guest(ignore).__call__)


# --- calls ---


def test_messages_cross_in_both_directions_and_the_scope_is_not_copied() -> None:
    scope = dict(HTTP)
    scopes: list[Any] = []

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        assert trio.lowlevel.in_trio_task()
        for _ in range(3):
            await send({"echo": (await receive())["n"]})

    async def test() -> None:
        app = guest(echo)
        async with serving(app):
            incoming: Messages = asyncio.Queue()
            outgoing: Messages = asyncio.Queue()
            for n in range(3):
                incoming.put_nowait({"n": n})
            await app(scope, incoming.get, outgoing.put)
            assert [outgoing.get_nowait()["echo"] for _ in range(3)] == [0, 1, 2]

    run(test)
    assert scopes[0] is scope


def test_many_calls_run_side_by_side() -> None:
    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep(0.05)
        await send(scope["n"])

    async def test() -> None:
        app = guest(handler)
        got: list[int] = []

        async def send(n: int) -> None:
            got.append(n)

        async with serving(app):
            begun = time.monotonic()
            await asyncio.gather(*(app({"type": "http", "n": n}, nothing, send) for n in range(50)))
            assert time.monotonic() - begun < 1
        assert sorted(got) == list(range(50))

    run(test)


class AppError(Exception):
    pass


def test_an_error_of_the_application_reaches_the_server_with_its_type() -> None:
    async def handler(*_: Any) -> None:
        raise AppError("why")

    async def test() -> None:
        app = guest(handler)
        async with serving(app):
            with pytest.raises(AppError, match="why"):
                await app(HTTP, nothing, ignore)
            with pytest.raises(AppError):  # and the guest goes on
                await app(HTTP, nothing, ignore)

    run(test)


def test_an_error_of_the_server_reaches_the_application_with_its_type() -> None:
    caught: list[Exception] = []

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({})
        except OSError as error:
            caught.append(error)

    async def send(message: Any) -> None:
        await asyncio.sleep(0)
        raise ConnectionResetError("gone")

    async def test() -> None:
        app = guest(handler)
        async with serving(app):
            await app(HTTP, nothing, send)

    run(test)
    assert type(caught[0]) is ConnectionResetError


def test_cancelling_the_connection_cancels_the_trio_task_and_waits_for_it() -> None:
    events: list[str] = []

    async def handler(*_: Any) -> None:
        try:
            events.append("begun")
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(1, shield=True):
                await trio.sleep(0.05)
            events.append("ended")

    async def test() -> None:
        app = guest(handler)
        async with serving(app):
            task = asyncio.create_task(app(HTTP, nothing, ignore))
            await asyncio.sleep(0.05)
            assert events == ["begun"]
            task.cancel()
            await asyncio.sleep(0.01)
            task.cancel()  # a second time, while it waits
            with pytest.raises(asyncio.CancelledError):
                await task
            assert events == ["begun", "ended"]

    run(test)


def test_a_call_cancelled_before_it_begins_ends_at_once() -> None:
    async def handler(*_: Any) -> None:
        await trio.sleep_forever()

    async def test() -> None:
        app = guest(handler)
        async with serving(app):
            task = asyncio.create_task(app(HTTP, nothing, ignore))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(test)


def test_an_error_while_being_cancelled_is_not_lost() -> None:
    async def handler(scope: Any, receive: Any, send: Any) -> None:
        try:
            await receive()
        finally:
            raise AppError

    async def test() -> None:
        app = guest(handler)
        async with serving(app):
            task = asyncio.create_task(app(HTTP, nothing, ignore))
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(AppError):
                await task

    run(test)


def test_the_servers_own_timeout_around_a_call_works() -> None:
    async def handler(*_: Any) -> None:
        await trio.sleep_forever()

    async def test() -> None:
        app = guest(handler)
        async with serving(app):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await app(HTTP, nothing, ignore)

    run(test)


def test_a_trio_task_cancelled_in_receive_cancels_the_servers_receive() -> None:
    events: list[str] = []

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        with trio.move_on_after(0.02) as limit:
            await receive()
        assert limit.cancelled_caught
        events.append("app goes on")

    async def receive() -> dict[str, Any]:
        try:
            return await nothing()
        finally:
            await asyncio.sleep(0.02)
            events.append("receive ended")

    async def test() -> None:
        app = guest(handler)
        async with serving(app):
            await app(HTTP, receive, ignore)

    run(test)
    assert events == ["receive ended", "app goes on"]


@pytest.mark.parametrize("steps", range(6))
def test_a_message_that_arrives_with_the_cancellation_is_not_lost(steps: int) -> None:
    got: list[int] = []
    numbers = iter(range(10))

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        with trio.CancelScope() as scope["limit"]:
            got.append(await receive())
        got.append(await receive())

    async def test() -> None:
        app = guest(handler)
        scope: dict[str, Any] = dict(HTTP)
        arrived = asyncio.Event()

        async def receive() -> int:
            await arrived.wait()
            return next(numbers)

        async with serving(app):
            task = asyncio.create_task(app(scope, receive, ignore))
            await asyncio.sleep(0.05)
            arrived.set()
            for _ in range(steps):  # the number on its way from receive() to the application
                await asyncio.sleep(0)
            scope["limit"].cancel()
            await task

    run(test)
    assert got == list(range(next(numbers)))


def test_a_cancelled_task_that_calls_again_does_not_reach_the_server() -> None:
    calls: list[Any] = []

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        with trio.CancelScope() as limit:
            limit.cancel()
            await send("never")

    async def send(message: Any) -> None:
        calls.append(message)

    async def test() -> None:
        app = guest(handler)
        async with serving(app):
            await app(HTTP, nothing, send)

    run(test)
    assert calls == []


def test_a_bridged_function_takes_others_of_the_server_across() -> None:
    async def handler(scope: Any, receive: Any, send: Bridged[None]) -> None:
        assert send.__wrapped__ is ignore
        assert not hasattr(send, "__self__")  # as a bound method of a Trio server would have
        assert await send.bridge(in_asyncio)(1) == 2

    async def in_asyncio(n: int) -> int:
        await asyncio.sleep(0)
        return n + 1

    async def test() -> None:
        app = guest(handler)
        async with serving(app):
            await app(HTTP, nothing, ignore)

    run(test)


variable = contextvars.ContextVar("variable", default="default")


def test_context_variables_of_the_application_stay_on_its_side() -> None:
    seen: list[tuple[str, str]] = []

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        seen.append(("application begins with", variable.get()))
        variable.set("application")
        await receive()
        seen.append(("application keeps", variable.get()))

    async def receive() -> dict[str, Any]:
        seen.append(("server sees", variable.get()))
        return {}

    async def test() -> None:
        app = guest(handler)
        async with serving(app):
            variable.set("connection")
            await app(HTTP, receive, ignore)
            seen.append(("afterwards", variable.get()))

    run(test)
    assert seen == [
        ("application begins with", "connection"),
        ("server sees", "connection"),
        ("application keeps", "application"),
        ("afterwards", "connection"),
    ]


def test_an_idle_guest_does_not_poll() -> None:
    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    async def test() -> None:
        app = guest(handler)
        async with serving(app):
            task = asyncio.create_task(app(HTTP, nothing, ignore))
            await asyncio.sleep(0.05)
            begun = time.process_time()
            await asyncio.sleep(0.5)
            assert time.process_time() - begun < 0.05
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(test)


# --- the lifespan ---


def test_starting_says_once_how_to_be_faster(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(*_: Any) -> None: ...

    async def test() -> None:
        app = guest(handler)
        async with serving(app):
            await app(HTTP, nothing, ignore)
            await app(HTTP, nothing, ignore)

    with caplog.at_level(logging.INFO, "echo"):
        run(test)
    # On a busy machine asyncio may tell of itself that something was slow.
    assert len([record for record in caplog.records if record.name == "echo"]) == 1
    assert "hypercorn -k trio echo:app" in caplog.messages[0]
    assert caplog.records[0].levelno == logging.WARNING  # shown without any configuration


def test_the_shutdown_is_told_only_after_trio_has_ended() -> None:
    async def handler(*_: Any) -> None: ...

    async def test() -> None:
        app = guest(handler)
        lifespan = Lifespan(app)
        await lifespan.startup()
        assert trio.lowlevel.in_trio_run()
        assert (await lifespan.shutdown())["type"] == "lifespan.shutdown.complete"
        assert not trio.lowlevel.in_trio_run()
        # Hypercorn cancels the lifespan right after it: there must be nothing left to cancel.
        assert lifespan.task.done()

    run(test)


def test_it_can_be_started_again_after_its_end() -> None:
    async def handler(*_: Any) -> None: ...

    app = guest(handler)

    async def test() -> None:
        async with serving(app):
            await app(HTTP, nothing, ignore)

    run(test)
    run(test)


def test_without_a_lifespan_a_call_says_what_to_do() -> None:
    async def handler(*_: Any) -> None: ...

    async def test() -> None:
        app = guest(handler)
        with pytest.raises(RuntimeError, match="hypercorn -k trio echo:app"):
            await app(HTTP, nothing, ignore)
        async with serving(app):
            pass
        with pytest.raises(RuntimeError, match="turn lifespan on"):
            await app(HTTP, nothing, ignore)

    run(test)


def test_a_second_lifespan_at_the_same_time_is_an_error_and_harms_nothing() -> None:
    async def handler(*_: Any) -> None: ...

    async def test() -> None:
        app = guest(handler)
        async with serving(app):
            with pytest.raises(RuntimeError, match="already being served"):
                await app({"type": "lifespan"}, nothing, ignore)
            await app(HTTP, nothing, ignore)

    run(test)


def test_calls_that_still_run_at_the_shutdown_are_cancelled() -> None:
    ended: list[bool] = []

    async def handler(*_: Any) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)

    async def test() -> None:
        app = guest(handler)
        async with serving(app):
            task = asyncio.create_task(app(HTTP, nothing, ignore))
            await asyncio.sleep(0.02)
        assert ended == [True]
        with pytest.raises(asyncio.CancelledError):
            await task

    run(test)


def test_a_startup_that_fails_is_told_after_trio_has_ended() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        await receive()  # as Quart-Trio does

    async def test() -> None:
        lifespan = Lifespan(GuestApp(lambda: app))
        answer = await lifespan.startup()
        assert answer == {"type": "lifespan.startup.failed", "message": "no database"}
        assert lifespan.task.done() and not trio.lowlevel.in_trio_run()

    run(test)


def test_what_the_server_raises_at_a_failed_startup_leaves_the_lifespan() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        raise AppError(message["message"])  # as Hypercorn does

    async def test() -> None:
        with pytest.raises(AppError, match="no database"):
            await GuestApp(lambda: app)({"type": "lifespan"}, receive, send)

    run(test)


def test_a_lifespan_that_raises_is_a_failed_startup(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise AppError("no database")

    async def test() -> None:
        answer = await Lifespan(GuestApp(lambda: app)).startup()
        assert answer["type"] == "lifespan.startup.failed"
        assert answer["message"] == "AppError: no database"

    run(test)
    assert "AppError: no database" in caplog.text  # with its traceback


def failing() -> Any:
    raise AppError("no such setting")


def test_an_application_that_cannot_be_made_is_a_failed_startup_under_asyncio() -> None:
    async def test() -> None:
        answer = await Lifespan(GuestApp(failing)).startup()
        assert answer["type"] == "lifespan.startup.failed"
        assert answer["message"] == "AppError: no such setting"

    run(test)


def test_an_application_that_cannot_be_made_is_a_failed_startup_under_trio() -> None:
    answers: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: dict[str, Any]) -> None:
        answers.append(message)

    trio.run(GuestApp(failing), {"type": "lifespan"}, receive, send)
    assert [each["type"] for each in answers] == ["lifespan.startup.failed"]


def test_an_application_without_a_lifespan_is_served_all_the_same() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send("hello")

    async def test() -> None:
        asgi = GuestApp(lambda: app)
        got: Messages = asyncio.Queue()
        async with serving(asgi):
            await asgi(HTTP, nothing, got.put)
        assert got.get_nowait() == "hello"

    run(test)


def test_an_application_that_loses_its_lifespan_is_served_to_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            raise AppError("a background task")
        await send("hello")

    async def test() -> None:
        asgi = GuestApp(lambda: app)
        got: Messages = asyncio.Queue()
        async with serving(asgi):
            await asyncio.sleep(0.02)
            await asgi(HTTP, nothing, got.put)
        assert got.get_nowait() == "hello"

    run(test)
    assert "a background task" in caplog.text


def test_a_shutdown_that_raises_is_told_as_failed() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise AppError("cannot flush")

    async def test() -> None:
        lifespan = Lifespan(GuestApp(lambda: app))
        await lifespan.startup()
        answer = await lifespan.shutdown()
        assert answer["type"] == "lifespan.shutdown.failed"
        await lifespan.task

    run(test)


def test_a_shutdown_told_in_a_cancelled_scope_is_heard() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with trio.open_nursery() as nursery:
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            nursery.cancel_scope.cancel()  # as Quart-Trio does
            await send({"type": "lifespan.shutdown.complete"})

    async def test() -> None:
        lifespan = Lifespan(GuestApp(lambda: app))
        await lifespan.startup()
        assert (await lifespan.shutdown())["type"] == "lifespan.shutdown.complete"

    run(test)


def test_cancelling_the_lifespan_ends_the_guest() -> None:
    async def handler(*_: Any) -> None: ...

    async def test() -> None:
        lifespan = Lifespan(guest(handler))
        await lifespan.startup()
        lifespan.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await lifespan.task
        assert not trio.lowlevel.in_trio_run()

    run(test)


def test_a_lifespan_cancelled_while_it_starts_ends_the_guest() -> None:
    async def handler(*_: Any) -> None: ...

    async def test() -> None:
        for steps in range(12):
            lifespan = Lifespan(guest(handler))
            for _ in range(steps):
                await asyncio.sleep(0)
            lifespan.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await lifespan.task
            assert not trio.lowlevel.in_trio_run()

    run(test)


def test_a_loop_that_is_closed_around_a_running_guest_ends_it() -> None:
    ended: list[bool] = []

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        try:
            await receive()
        finally:
            ended.append(True)

    async def main() -> None:
        app = guest(handler)
        lifespan = Lifespan(app)
        await lifespan.startup()
        main.task = asyncio.create_task(app(HTTP, nothing, ignore))  # type: ignore[attr-defined]
        await asyncio.sleep(0.02)
        # and away, as a server that crashes: asyncio.run cancels what is left

    asyncio.run(main())
    gc.collect()
    assert ended == [True]
    assert not trio.lowlevel.in_trio_run()


def test_a_guest_leaves_no_more_than_trios_idle_thread() -> None:
    async def handler(*_: Any) -> None: ...

    async def test() -> None:
        async with serving(guest(handler)):
            await asyncio.sleep(0.05)

    run(test)
    assert all(thread.daemon for thread in threading.enumerate()[1:])


@pytest.mark.skipif(sys.platform == "win32", reason="no uvloop on Windows")
def test_it_works_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await send(await receive())

    async def test() -> None:
        app = guest(handler)
        incoming: Messages = asyncio.Queue()
        incoming.put_nowait({"n": 1})
        outgoing: Messages = asyncio.Queue()
        async with serving(app):
            await app(HTTP, incoming.get, outgoing.put)
        assert outgoing.get_nowait() == {"n": 1}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())
