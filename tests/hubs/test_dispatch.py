"""Calls: what becomes of them, in which order, and what their callers are told."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from msgspec import UNSET
from trio.testing import wait_all_tasks_blocked

from echo.hubs import Hub, HubError, HubFilter, HubInvocation, HubOptions
from echo.hubs.messages import Completion, StreamItem
from echo.hubs.protocol import HubProtocol
from tests.hubs.memory import serving
from tests.hubs.support import PROTOCOLS

DETAILED = HubOptions(detailed_errors=True)

each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda each: each.name)


@dataclass
class Point:
    x: int
    y: int = 0


class Anything(Hub):
    def value(self) -> int:
        return 43

    async def later(self) -> int:
        await trio.lowlevel.checkpoint()
        return 42

    def nothing(self) -> None:
        pass

    def none(self) -> str | None:
        return None

    def concat(self, number: int, text: str, flag: bool) -> str:
        return f"{number}, {text}, {flag}"

    def mirror(self, point: Point) -> Point:
        return Point(point.y, point.x)

    def fail(self) -> None:
        raise LookupError("BOOM!")

    async def fail_later(self) -> None:
        await trio.lowlevel.checkpoint()
        raise LookupError("BOOM!")

    def tell(self) -> None:
        raise HubError("This is for you.")

    async def tell_from_a_nursery(self) -> None:
        async def child() -> None:
            raise HubError("This is for you.")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)

    def unspeakable(self) -> object:
        return object()

    async def stream(self) -> AsyncIterator[int]:
        yield 1


@each_protocol
async def test_results_come_back_in_either_protocol(protocol: HubProtocol) -> None:
    async with serving(Anything) as service:
        client = await service.connect(protocol)
        assert await client.result("value") == 43
        assert await client.result("later") == 42
        assert await client.result("concat", 1, "a", True) == "1, a, True"
        assert await client.result("mirror", {"x": 1, "y": 2}) == {"x": 2, "y": 1}


@each_protocol
async def test_no_result_is_not_the_result_none(protocol: HubProtocol) -> None:
    async with serving(Anything) as service:
        client = await service.connect(protocol)
        assert await client.result("nothing") is UNSET
        assert await client.result("none") is None


async def test_a_call_without_an_id_has_no_completion() -> None:
    async with serving(Anything) as service:
        client = await service.connect()
        for name in ("value", "fail", "fail_later", "tell", "no such method", "stream"):
            client.call_without_answer(name)
        client.call_without_answer("concat", "wrong")
        assert await client.result("later") == 42  # and nothing before


@pytest.mark.parametrize("method", ["Fail", "fail_later"])
async def test_an_error_is_told_but_not_what_it_was(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(Anything) as service:
        client = await service.connect()
        error = await client.error(method)
        assert error == f"An unexpected error occurred invoking '{method}' on the server."
        assert await client.result("value") == 43
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "BOOM!" in caplog.text


async def test_with_detailed_errors_its_type_and_text_are_told() -> None:
    async with serving(Anything, DETAILED) as service:
        client = await service.connect()
        error = await client.error("Fail")
        assert error == (
            "An unexpected error occurred invoking 'Fail' on the server. LookupError: BOOM!"
        )


@pytest.mark.parametrize("method", ["Tell", "tell_from_a_nursery"])
@pytest.mark.parametrize("detailed", [False, True])
async def test_a_hub_error_is_always_told_and_not_logged(
    method: str, detailed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(Anything, HubOptions(detailed_errors=detailed)) as service:
        client = await service.connect()
        assert await client.error(method) == (
            f"An unexpected error occurred invoking '{method}' on the server. "
            "HubException: This is for you."
        )
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@each_protocol
async def test_a_result_that_has_no_form_on_the_wire_is_an_error(protocol: HubProtocol) -> None:
    async with serving(Anything, DETAILED) as service:
        client = await service.connect(protocol)
        error = await client.error("Unspeakable")
        assert error.startswith(
            "An unexpected error occurred invoking 'Unspeakable' on the server. EncodingError: "
        )
        assert await client.result("value") == 43


async def test_an_error_text_that_cannot_be_sent_is_mended() -> None:
    class Odd(Hub):
        def cut(self) -> None:
            raise HubError("half a \ud83d")

    async with serving(Odd) as service:
        client = await service.connect()
        assert (await client.error("cut")).endswith("HubException: half a ?")


@pytest.mark.parametrize(
    ("arguments", "detail"),
    [
        ((), "Invocation provides 0 argument(s) but target expects 3."),
        ((1, "a", True, 2), "Invocation provides 4 argument(s) but target expects 3."),
        (
            ("one", "a", True),
            "Error binding arguments. Make sure that the types of the provided values match the "
            "types of the hub method being invoked.",
        ),
    ],
)
async def test_wrong_arguments_fail_the_call_and_nothing_else(
    arguments: tuple[object, ...], detail: str
) -> None:
    text = "Failed to invoke 'Concat' due to an error on the server."
    async with serving(Anything) as service:
        client = await service.connect()
        assert await client.error("Concat", *arguments) == text
        assert await client.result("value") == 43
    async with serving(Anything, DETAILED) as service:
        client = await service.connect()
        assert await client.error("Concat", *arguments) == f"{text} InvalidDataException: {detail}"


async def test_each_kind_of_call_has_its_kind_of_method() -> None:
    async with serving(Anything) as service:
        client = await service.connect()
        assert await client.error("Stream") == (
            "The client attempted to invoke the streaming 'Stream' method with a non-streaming "
            "invocation."
        )
        assert await client.items(client.call_stream("Value")) == (
            [],
            "The client attempted to invoke the non-streaming 'Value' method with a streaming "
            "invocation.",
        )
        assert await client.items(client.call_stream("None such")) == (
            [],
            "Unknown hub method 'None such'",
        )


async def test_each_call_has_a_hub_of_its_own_and_all_have_one_context() -> None:
    hubs = []

    class Counting(Hub):
        def mark(self) -> bool:
            hubs.append(self)
            fresh = not hasattr(self, "marked")
            self.marked = True
            self.context.items["calls"] = self.context.items.get("calls", 0) + 1
            return fresh

        def calls(self) -> int:
            return int(self.context.items["calls"])

    async with serving(Counting) as service:
        client = await service.connect()
        assert [await client.result("mark") for _ in range(3)] == [True] * 3
        assert await client.result("calls") == 3
    assert len(set(map(id, hubs))) == 3


# Several calls at a time


class Gates(Hub):
    gates: dict[str, trio.Event]
    begun: list[str]

    async def wait(self, name: str) -> str:
        self.begun.append(name)
        await self.gates.setdefault(name, trio.Event()).wait()
        return name

    def at_once(self, name: str) -> str:
        self.begun.append(name)
        return name

    async def ask(self, question: str) -> Any:
        return await self.clients.caller.invoke("question", question)

    async def take(self, numbers: AsyncIterator[int]) -> int:
        self.begun.append("take")
        return sum([number async for number in numbers])

    async def ticks(self) -> AsyncIterator[int]:
        try:
            yield 0
            await trio.sleep_forever()
        finally:
            self.begun.append("ticks ended")


@pytest.fixture
def gates() -> type[Gates]:
    class Fresh(Gates):
        gates = {}  # noqa: RUF012
        begun = []  # noqa: RUF012

    return Fresh


async def test_a_client_has_one_call_running_the_next_waits(gates: type[Gates]) -> None:
    async with serving(gates) as service:
        client = await service.connect()
        client.call("wait", "a")
        client.call("at_once", "b")
        await wait_all_tasks_blocked()
        assert gates.begun == ["a"]
        assert client.idle
        gates.gates["a"].set()
        assert (await client.expect(Completion)).result == "a"
        assert (await client.expect(Completion)).result == "b"


async def test_with_more_slots_a_quick_call_overtakes_a_slow_one(gates: type[Gates]) -> None:
    async with serving(gates, HubOptions(parallel_invocations=2)) as service:
        client = await service.connect()
        client.call("wait", "a")
        for _ in range(5):
            assert await client.result("at_once", "b") == "b"
        client.call("wait", "c")
        client.call("at_once", "d")
        await wait_all_tasks_blocked()
        assert gates.begun == ["a", *"bbbbb", "c"]
        gates.gates["c"].set()
        assert (await client.expect(Completion)).result == "c"
        assert (await client.expect(Completion)).result == "d"
        gates.gates["a"].set()
        assert (await client.expect(Completion)).result == "a"


async def test_the_calls_of_another_client_do_not_wait(gates: type[Gates]) -> None:
    async with serving(gates) as service:
        client, other = await service.connect(), await service.connect()
        client.call("wait", "a")
        await wait_all_tasks_blocked()
        assert await other.result("at_once", "b") == "b"


async def test_streams_do_not_count_and_get_through_while_a_call_runs(gates: type[Gates]) -> None:
    async with serving(gates) as service:
        client = await service.connect()
        ticks = client.call_stream("ticks")
        assert (await client.expect(StreamItem)).item == 0
        take = client.call("take", streams=("s",))
        slow = client.call("wait", "a")
        await wait_all_tasks_blocked()
        client.item("s", 1)
        client.item("s", 2)
        client.complete("s")
        done = await client.expect(Completion)
        assert (done.invocation_id, done.result) == (take, 3)
        client.cancel(ticks)
        assert (await client.expect(Completion)).invocation_id == ticks
        assert gates.begun == ["take", "a", "ticks ended"]
        gates.gates["a"].set()
        assert (await client.expect(Completion)).invocation_id == slow


async def test_a_call_that_asks_its_client_does_not_block_the_next(gates: type[Gates]) -> None:
    async with serving(gates) as service:
        client = await service.connect()
        client.call("ask", "one")
        assert await client.called("question") == ["one"]
        assert await client.result("at_once", "x") == "x"
        client.call("ask", "two")
        assert await client.called("question") == ["two"]
        client.complete("s2", result="second")
        assert (await client.expect(Completion)).result == "second"
        client.complete("s1", result="first")
        assert (await client.expect(Completion)).result == "first"
        client.call("wait", "a")  # and there is still one slot, not two
        client.call("at_once", "b")
        await wait_all_tasks_blocked()
        assert gates.begun == ["x", "a"]


async def test_a_client_that_leaves_while_its_next_call_waits_is_noticed(
    gates: type[Gates],
) -> None:
    async with serving(gates) as service:
        client = await service.connect()
        client.call("wait", "a")
        client.call("at_once", "b")
        await wait_all_tasks_blocked()
        client.leave()
        await wait_all_tasks_blocked()
        assert not client.served.is_set()  # the method may end
        gates.gates["a"].set()
        await client.served.wait()
        assert gates.begun == ["a"]


# Filters


class Noting(HubFilter):
    def __init__(self, name: str, notes: list[str]) -> None:
        self.name = name
        self.notes = notes

    async def invoke(
        self, invocation: HubInvocation, proceed: Callable[[HubInvocation], Awaitable[Any]]
    ) -> Any:
        self.notes.append(f"{self.name} {invocation.target} {invocation.arguments}")
        assert invocation.context is invocation.hub.context
        result = await proceed(invocation)
        self.notes.append(f"{self.name} done")
        return result

    async def on_connected(self, hub: Hub, proceed: Callable[[Hub], Awaitable[None]]) -> None:
        self.notes.append(f"{self.name} connected")
        await proceed(hub)

    async def on_disconnected(
        self,
        hub: Hub,
        error: Exception | None,
        proceed: Callable[[Hub, Exception | None], Awaitable[None]],
    ) -> None:
        self.notes.append(f"{self.name} disconnected")
        await proceed(hub, error)


class Filtered(Hub):
    notes: list[str]

    async def on_connected(self) -> None:
        self.notes.append("hub connected")

    async def on_disconnected(self, error: Exception | None) -> None:
        self.notes.append("hub disconnected")

    def echo(self, text: str) -> str:
        self.notes.append("hub")
        return text

    async def letters(self, text: str) -> AsyncIterator[str]:
        for letter in text:
            yield letter


async def test_filters_are_around_everything_the_first_outermost() -> None:
    notes: list[str] = []
    Filtered.notes = notes
    options = HubOptions(filters=(Noting("A", notes), Noting("B", notes)))
    async with serving(Filtered, options) as service:
        client = await service.connect()
        assert await client.result("Echo", "hi") == "hi"
        client.leave()
        await client.served.wait()
    assert notes == [
        *("A connected", "B connected", "hub connected"),
        *("A Echo ['hi']", "B Echo ['hi']", "hub", "B done", "A done"),
        *("A disconnected", "B disconnected", "hub disconnected"),
    ]


async def test_a_filter_need_not_override_anything() -> None:
    Filtered.notes = []
    async with serving(Filtered, HubOptions(filters=(HubFilter(),))) as service:
        client = await service.connect()
        assert await client.result("Echo", "hi") == "hi"


async def test_a_filter_may_change_arguments_and_result_or_skip_the_method() -> None:
    class Changing(HubFilter):
        async def invoke(
            self, invocation: HubInvocation, proceed: Callable[[HubInvocation], Awaitable[Any]]
        ) -> Any:
            if invocation.arguments == ["skip"]:
                return "skipped"
            invocation.arguments[0] += "!"
            result = await proceed(invocation)
            return result.upper() if isinstance(result, str) else result

    Filtered.notes = []
    async with serving(Filtered, HubOptions(filters=(Changing(),))) as service:
        client = await service.connect()
        assert await client.result("Echo", "hi") == "HI!"
        assert await client.result("Echo", "skip") == "skipped"
        assert await client.items(client.call_stream("letters", "ab")) == (["a", "b", "!"], None)


async def test_a_filter_may_catch_what_the_hub_raises() -> None:
    class Catching(HubFilter):
        async def invoke(
            self, invocation: HubInvocation, proceed: Callable[[HubInvocation], Awaitable[Any]]
        ) -> Any:
            try:
                return await proceed(invocation)
            except LookupError as error:
                raise HubError(f"caught {error}") from error

        async def on_connected(self, hub: Hub, proceed: Callable[[Hub], Awaitable[None]]) -> None:
            with suppress(LookupError):
                await proceed(hub)

    class Failing(Hub):
        async def on_connected(self) -> None:
            raise LookupError("no")

        def fail(self) -> None:
            raise LookupError("BOOM!")

    async with serving(Failing, HubOptions(filters=(Catching(),))) as service:
        client = await service.connect()
        assert (await client.error("fail")).endswith("HubException: caught BOOM!")


async def test_a_filter_that_raises_fails_the_call() -> None:
    class Refusing(HubFilter):
        async def invoke(
            self, invocation: HubInvocation, proceed: Callable[[HubInvocation], Awaitable[Any]]
        ) -> Any:
            raise HubError("not today")

    async with serving(Anything, HubOptions(filters=(Refusing(),))) as service:
        client = await service.connect()
        assert (await client.error("value")).endswith("HubException: not today")
        items = await client.items(client.call_stream("stream"))
        assert items == (
            [],
            "An unexpected error occurred invoking 'stream' on the server. HubException: not today",
        )
