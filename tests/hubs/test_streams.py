"""Streams: to the client, from the client, both at once, and their many ways to end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from msgspec import UNSET
from trio.testing import MockClock, wait_all_tasks_blocked

from echo.hubs import Hub, HubError, HubOptions, UploadError, authorize
from echo.hubs.messages import Completion, StreamItem
from echo.hubs.protocol import HubProtocol
from tests.hubs.memory import serving
from tests.hubs.support import PROTOCOLS

each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda each: each.name)

DETAILED = HubOptions(detailed_errors=True)
STREAMING = "An error occurred on the server while streaming results."


def invoking(name: str) -> str:
    return f"An unexpected error occurred invoking '{name}' on the server."


class Iterating:
    """An async iterable that is no generator."""

    def __aiter__(self) -> AsyncIterator[int]:
        return self._items()

    async def _items(self) -> AsyncIterator[int]:
        yield 1
        yield 2


class Down(Hub):
    notes: list[str]

    async def countdown(self, start: int) -> AsyncIterator[int]:
        for number in range(start, 0, -1):
            yield number

    async def slow_countdown(self, start: int) -> AsyncIterator[int]:
        for number in range(start, 0, -1):
            await trio.lowlevel.checkpoint()
            yield number

    def passed_on(self, start: int) -> AsyncIterator[int]:
        return self.countdown(start)

    async def awaited(self, start: int) -> AsyncIterator[int]:
        await trio.lowlevel.checkpoint()
        return self.countdown(start)

    def iterable(self, start: int) -> Any:
        return Iterating()

    iterable.__annotations__["return"] = AsyncIterator[int]

    def null(self) -> AsyncIterator[int]:
        return None  # type: ignore[return-value]

    def fails(self) -> AsyncIterator[int]:
        raise LookupError("BOOM!")

    async def fails_at_once(self) -> AsyncIterator[int]:
        raise LookupError("BOOM!")
        yield 0

    async def fails_later(self) -> AsyncIterator[int]:
        yield 1
        raise LookupError("BOOM!")

    async def tells(self) -> AsyncIterator[int]:
        yield 1
        raise HubError("out of numbers")

    async def unspeakable(self) -> AsyncIterator[Any]:
        yield 1
        yield object()

    async def endless(self) -> AsyncIterator[int]:
        self.notes.append("begun")
        try:
            number = 0
            while True:
                yield number
                number += 1
                await trio.lowlevel.checkpoint()
        finally:
            self.notes.append("ended")

    async def silent(self) -> AsyncIterator[int]:
        self.notes.append("begun")
        try:
            await trio.sleep_forever()
            yield 0
        except trio.Cancelled:
            self.notes.append("cancelled")
            await self.clients.caller.send("StreamCanceled")
            raise

    async def torrent(self) -> AsyncIterator[str]:
        """Never waits of itself."""
        self.notes.append("begun")
        try:
            while True:
                yield "x" * 1000
        finally:
            self.notes.append("ended")

    async def aborts(self) -> AsyncIterator[int]:
        self.context.abort()
        for number in range(1000):
            self.notes.append(str(number))
            yield number

    async def stay(self) -> None:
        await self.context.aborted.wait()
        await trio.sleep(3)
        self.notes.append("stayed")

    async def asks(self) -> AsyncIterator[int]:
        yield await self.clients.caller.invoke("sum", 1, returns=int)

    def echo(self, text: str) -> str:
        return text


@pytest.fixture
def down() -> type[Down]:
    class Fresh(Down):
        notes = []  # noqa: RUF012

    return Fresh


@each_protocol
@pytest.mark.parametrize("method", ["Countdown", "slowCountdown", "passed_on", "awaited"])
async def test_items_come_and_then_the_end(
    method: str, protocol: HubProtocol, down: type[Down]
) -> None:
    async with serving(down) as service:
        client = await service.connect(protocol)
        assert await client.items(client.call_stream(method, 3)) == ([3, 2, 1], None)
        assert await client.items(client.call_stream(method, 0)) == ([], None)


async def test_any_async_iterable_will_do(down: type[Down]) -> None:
    async with serving(down) as service:
        client = await service.connect()
        assert await client.items(client.call_stream("iterable", 0)) == ([1, 2], None)


async def test_nothing_else_will_do(down: type[Down]) -> None:
    async with serving(down) as service:
        client = await service.connect()
        items, error = await client.items(client.call_stream("null"))
        assert not items
        assert error == (
            "The value returned by the streaming method 'Down.null' is not an async iterator."
        )


@pytest.mark.parametrize(
    ("method", "items", "sentence", "detail"),
    [
        ("fails", [], invoking("fails"), " LookupError: BOOM!"),
        ("fails_at_once", [], STREAMING, " LookupError: BOOM!"),
        ("fails_later", [1], STREAMING, " LookupError: BOOM!"),
    ],
)
async def test_an_error_ends_a_stream_in_a_completion(
    method: str, items: list[int], sentence: str, detail: str, down: type[Down]
) -> None:
    for options, error in ((None, sentence), (DETAILED, sentence + detail)):
        async with serving(down, options) as service:
            client = await service.connect()
            assert await client.items(client.call_stream(method)) == (items, error)
            assert await client.result("echo", "still here") == "still here"


async def test_a_hub_error_and_an_item_without_a_form_end_it_too(down: type[Down]) -> None:
    async with serving(down) as service:
        client = await service.connect()
        told = await client.items(client.call_stream("tells"))
        assert told == ([1], f"{STREAMING} HubException: out of numbers")
        assert await client.items(client.call_stream("unspeakable")) == ([1], STREAMING)


async def test_a_cancelled_stream_ends_without_an_error(down: type[Down]) -> None:
    async with serving(down) as service:
        client = await service.connect()
        id = client.call_stream("endless")
        for number in range(3):
            assert (await client.expect(StreamItem)).item == number
        client.cancel(id)
        _, error = await client.items(id)
        assert error is None
        assert down.notes == ["begun", "ended"]
        client.cancel(id)  # once more, when it is over
        assert await client.result("echo", "still here") == "still here"


async def test_a_method_cancelled_at_once_still_begins_and_sees_it(down: type[Down]) -> None:
    async with serving(down) as service:
        client = await service.connect()
        id = client.call_stream("silent")
        client.cancel(id)
        assert await client.called("StreamCanceled") == []
        assert (await client.expect(Completion)).invocation_id == id
        assert down.notes == ["begun", "cancelled"]


async def test_a_stream_that_waits_sees_its_cancellation_and_can_still_send(
    down: type[Down],
) -> None:
    async with serving(down) as service:
        client = await service.connect()
        id = client.call_stream("silent")
        await wait_all_tasks_blocked()
        client.cancel(id)
        assert await client.called("StreamCanceled") == []
        assert (await client.expect(Completion)).error is None


async def test_the_client_leaving_cancels_its_streams(down: type[Down]) -> None:
    async with serving(down) as service:
        client = await service.connect()
        client.call_stream("silent")
        client.call_stream("endless")
        await client.expect(StreamItem)
        client.leave()
        await client.served.wait()
        assert sorted(down.notes) == ["begun", "begun", "cancelled", "ended"]
        assert service.server.metrics.streams == 0


async def test_an_id_that_is_in_use_is_refused(down: type[Down]) -> None:
    async with serving(down) as service:
        client = await service.connect()
        id = client.call_stream("silent")
        client.call_stream("countdown", 1, id=id)
        refusal = await client.expect(Completion)
        assert refusal.error == f"Invocation ID '{id}' is already in use."
        client.cancel(id)
        await client.called("StreamCanceled")
        assert (await client.expect(Completion)).error is None
        assert await client.items(client.call_stream("countdown", 1, id=id)) == ([1], None)


async def test_a_stream_waits_for_a_client_that_does_not_read(down: type[Down]) -> None:
    options = HubOptions(transport_buffer_size=10_000)
    async with serving(down, options) as service:
        client = await service.connect()
        id = client.call_stream("torrent")
        await wait_all_tasks_blocked()
        assert 10_000 < client.link.unsent < 12_000
        while client.link.unsent > 4_000:
            await client.read_raw()
        await wait_all_tasks_blocked()
        assert 10_000 < client.link.unsent < 12_000
        client.cancel(id)
        while not isinstance(await client.expect(object), Completion):
            pass
        assert down.notes == ["begun", "ended"]


async def test_a_stream_that_never_waits_ends_with_its_connection(down: type[Down]) -> None:
    async with serving(down) as service:
        client = await service.connect()
        client.call_stream("torrent")
        await wait_all_tasks_blocked()
        client.leave()
        await client.served.wait()
        assert down.notes == ["begun", "ended"]


async def test_a_stream_on_a_connection_that_is_over_goes_no_further(down: type[Down]) -> None:
    async with serving(down) as service:
        client = await service.connect()
        client.call_stream("aborts")
        await client.closed()
        assert down.notes == ["0"]


async def test_streams_have_no_time_to_end_as_other_calls_have(
    down: type[Down], autojump_clock: MockClock
) -> None:
    async with serving(down) as service:
        client = await service.connect()
        client.call_stream("silent")
        client.call("stay")
        await wait_all_tasks_blocked()
        client.leave()
        await client.served.wait()
        assert down.notes == ["begun", "cancelled", "stayed"]


async def test_a_stream_may_ask_its_client(down: type[Down]) -> None:
    async with serving(down) as service:
        client = await service.connect()
        id = client.call_stream("asks")
        assert await client.called("sum") == [1]
        client.complete("s1", result=5)
        assert await client.items(id) == ([5], None)


# From the client


@dataclass
class Thing:
    foo: str
    bar: int


async def slow_policy(user: object) -> bool:
    await wait_all_tasks_blocked()
    return True


class Up(Hub):
    errors: list[str]

    async def concat(self, texts: AsyncIterator[str]) -> str:
        return "".join([text async for text in texts])

    @authorize(slow_policy)
    async def concat_later(self, texts: AsyncIterator[str]) -> str:
        return await self.concat(texts)

    async def things(self, things: AsyncIterator[Thing], first: str) -> list[str]:
        return [first] + [f"{thing.foo} {thing.bar}" async for thing in things]

    async def two(self, texts: AsyncIterator[str], numbers: AsyncIterator[int]) -> str:
        return await self.concat(texts) + str(sum([number async for number in numbers]))

    async def catch(self, numbers: AsyncIterator[int]) -> str:
        try:
            async for number in numbers:
                self.errors.append(str(number))
        except UploadError as error:
            self.errors.append(str(error))
            return str(error)
        return "no error"

    async def first(self, texts: AsyncGenerator[str, None]) -> str:
        text = await anext(texts)
        await texts.aclose()
        assert not [text async for text in texts]
        return text

    async def take_one(self, texts: AsyncIterator[str]) -> str:
        return await anext(texts)

    async def ignore(self, texts: AsyncIterator[str]) -> None:
        await trio.sleep_forever()

    async def ask(self, texts: AsyncIterator[str]) -> str:
        return await self.clients.caller.invoke("question", returns=str)

    async def shout(self, texts: AsyncIterator[str]) -> AsyncIterator[str]:
        async for text in texts:
            yield text.upper()

    def echo(self, text: str) -> str:
        return text


@pytest.fixture
def up() -> type[Up]:
    class Fresh(Up):
        errors = []  # noqa: RUF012

    return Fresh


@each_protocol
async def test_items_reach_the_method_in_order(protocol: HubProtocol, up: type[Up]) -> None:
    async with serving(up) as service:
        client = await service.connect(protocol)
        client.call("Concat", streams=("x",))
        for letter in "BEANED":
            client.item("x", letter)
        client.complete("x")
        assert (await client.expect(Completion)).result == "BEANED"


async def test_items_are_converted_and_streams_stand_between_arguments(up: type[Up]) -> None:
    async with serving(up) as service:
        client = await service.connect()
        client.call("things", "begin", streams=("x",))
        client.item("x", {"foo": "a", "bar": 1})
        client.item("x", {"foo": "b", "bar": 2})
        client.complete("x")
        assert (await client.expect(Completion)).result == ["begin", "a 1", "b 2"]


async def test_several_streams_at_once_do_not_mix(up: type[Up]) -> None:
    async with serving(up) as service:
        client = await service.connect()
        ids = [client.call("concat", streams=(f"x{number}",)) for number in range(3)]
        for letters in zip("one", "two", "six", strict=True):
            for number, letter in enumerate(letters):
                client.item(f"x{number}", letter)
        for number, word in ((0, "one"), (2, "six"), (1, "two")):
            client.complete(f"x{number}")
            done = await client.expect(Completion)
            assert (done.invocation_id, done.result) == (ids[number], word)


async def test_one_call_may_take_several_streams(up: type[Up]) -> None:
    async with serving(up) as service:
        client = await service.connect()
        client.call("two", streams=("a", "b"))
        client.item("b", 1)
        client.item("a", "x")
        client.item("b", 2)
        client.complete("b")
        client.complete("a")
        assert (await client.expect(Completion)).result == "x3"


async def test_items_and_the_end_may_come_before_the_method_may_run(up: type[Up]) -> None:
    async with serving(up) as service:
        client = await service.connect()
        client.call("concat_later", streams=("x",))
        client.item("x", "a")
        client.item("x", "b")
        client.complete("x")
        assert (await client.expect(Completion)).result == "ab"


async def test_an_error_of_the_client_is_raised_behind_the_last_item(up: type[Up]) -> None:
    async with serving(up) as service:
        client = await service.connect()
        client.call("catch", streams=("x",))
        client.item("x", 1)
        client.complete("x", "custom error")
        assert (await client.expect(Completion)).result == "custom error"
        assert up.errors == ["1", "custom error"]
        client.call("concat", streams=("x",))
        client.complete("x", "Something bad")
        error = (await client.expect(Completion)).error
        assert error == f"{invoking('concat')} HubException: Something bad"


async def test_the_first_end_of_a_stream_counts(up: type[Up]) -> None:
    async with serving(up) as service:
        client = await service.connect()
        client.call("concat_later", streams=("x",))
        client.complete("x", "Something bad")
        client.complete("x")
        error = (await client.expect(Completion)).error
        assert error == f"{invoking('concat_later')} HubException: Something bad"


async def test_an_item_of_another_type_ends_the_stream(up: type[Up]) -> None:
    async with serving(up) as service:
        client = await service.connect()
        client.call("catch", streams=("x",))
        client.item("x", "not a number")
        client.item("x", 2)
        assert (await client.expect(Completion)).result == "Failed to bind Stream message."
        assert await client.result("echo", "still here") == "still here"


async def test_what_belongs_to_no_stream_is_ignored(up: type[Up]) -> None:
    async with serving(up, DETAILED) as service:
        client = await service.connect()
        client.item("none such", "x")
        client.complete("none such")
        client.complete("s1", result=1)
        client.cancel("none such")
        assert await client.result("echo", "still here") == "still here"


@pytest.mark.parametrize(("method", "sent", "expected"), [("concat", 2, 1), ("concat", 0, 1)])
async def test_too_many_or_too_few_streams_are_told(
    method: str, sent: int, expected: int, up: type[Up]
) -> None:
    async with serving(up) as service:
        client = await service.connect()
        client.call(method, streams=tuple(map(str, range(sent))))
        assert (await client.expect(Completion)).error == (
            f"{invoking(method)} HubException: "
            f"Client sent {sent} stream(s), Hub method expects {expected}."
        )
        client.call("echo", "x", streams=("1",))
        assert (await client.expect(Completion)).error == (
            f"{invoking('echo')} HubException: Client sent 1 stream(s), Hub method expects 0."
        )


async def test_a_stream_id_that_is_in_use_is_refused(up: type[Up]) -> None:
    async with serving(up) as service:
        client = await service.connect()
        client.call("concat", streams=("x",))
        client.call("concat", streams=("x",))
        client.call("two", streams=("y", "y"))
        assert (await client.expect(Completion)).error == "Stream ID 'x' is already in use."
        assert (await client.expect(Completion)).error == "Stream ID 'y' is already in use."
        client.item("x", "a")
        client.complete("x")
        assert (await client.expect(Completion)).result == "a"


async def test_a_method_may_end_before_its_stream(up: type[Up]) -> None:
    async with serving(up) as service:
        client = await service.connect()
        client.call("first", streams=("x",))
        client.item("x", "a")
        assert (await client.expect(Completion)).result == "a"
        for _ in range(20):
            client.item("x", "more")
        assert await client.result("echo", "still here") == "still here"


async def test_a_stream_that_nobody_reads_holds_back_its_client(up: type[Up]) -> None:
    async with serving(up, HubOptions(stream_capacity=3)) as service:
        client = await service.connect()
        client.call("ignore", streams=("x",))
        for _ in range(4):
            client.item("x", "a")
        client.call("echo", "behind them")
        await wait_all_tasks_blocked()
        assert client.idle
        client.leave()
        await wait_all_tasks_blocked()  # is noticed although nobody reads from it
        (connection,) = service.server.connections
        assert connection.ended


async def test_a_method_that_ends_lets_go_who_feeds_its_stream(up: type[Up]) -> None:
    async with serving(up, HubOptions(stream_capacity=1)) as service:
        client = await service.connect()
        client.call("take_one", streams=("x",))
        await wait_all_tasks_blocked()
        client.send(*[StreamItem(invocation_id="x", item=letter) for letter in "abcdef"])
        assert (await client.expect(Completion)).result == "a"
        assert await client.result("echo", "still here") == "still here"


async def test_a_stream_ends_with_its_connection(up: type[Up]) -> None:
    async with serving(up) as service:
        client = await service.connect()
        client.call("catch", streams=("x",))
        client.item("x", 1)
        await wait_all_tasks_blocked()
        client.leave()
        await client.served.wait()
        assert up.errors == ["1", "The underlying connection was closed."]


async def test_a_client_result_does_not_end_a_stream_of_that_id(up: type[Up]) -> None:
    async with serving(up) as service:
        client = await service.connect()
        client.call("ask", streams=("1",))
        assert await client.called("question") == []
        client.complete("s1", result="yes")
        assert (await client.expect(Completion)).result == "yes"


async def test_a_call_without_an_answer_may_take_a_stream(up: type[Up]) -> None:
    async with serving(up) as service:
        client = await service.connect()
        client.call_without_answer("catch", streams=("x",))
        client.item("x", 7)
        client.complete("x")
        await wait_all_tasks_blocked()
        assert client.idle
        assert up.errors == ["7"]


async def test_streams_may_flow_both_ways(up: type[Up]) -> None:
    async with serving(up) as service:
        client = await service.connect()
        id = client.call_stream("shout", streams=("x",))
        for text in ("a", "b"):
            client.item("x", text)
            assert (await client.expect(StreamItem)).item == text.upper()
        client.complete("x")
        done = await client.expect(Completion)
        assert (done.invocation_id, done.error, done.result) == (id, None, UNSET)


async def test_calls_with_streams_are_limited(up: type[Up]) -> None:
    async with serving(up, HubOptions(max_streams=2)) as service:
        client = await service.connect()
        client.call("concat", streams=("a",))
        stream = client.call_stream("shout", streams=("b",))
        assert await client.items(client.call_stream("shout", streams=("c",))) == (
            [],
            "Failed to invoke 'shout': 2 calls with streams are running already.",
        )
        assert service.server.metrics.streams == 2
        client.complete("b")
        assert (await client.expect(Completion)).invocation_id == stream
        client.call("concat", streams=("c",))
        client.complete("c")
        assert (await client.expect(Completion)).result == ""
