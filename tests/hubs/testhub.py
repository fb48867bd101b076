"""The hubs of the test host: SignalR's own test hub, and what else our tests ask for.

Methods are named as the clients' tests name them; what they do is as small as it can be.
"""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import trio

from echo.hubs import Hub, HubError, authorize, hub_method


class InvalidOperationException(Exception):
    """Named as the tests of SignalR expect it."""


@dataclass
class CustomObject:
    Name: str
    Value: int


@dataclass
class ComplexObject:
    String: str
    IntArray: list[int]
    ByteArray: bytes
    Guid: UUID
    DateTime: datetime.datetime


class Values(Hub):
    """Calls that take and give values."""

    def echo(self, message: str) -> str:
        return message

    @hub_method("Über-Echo")
    async def echo_by_another_name(self, message: str) -> str:
        return message

    def echo_any(self, value: Any) -> Any:
        return value

    def nothing(self) -> None:
        pass

    def repeat(self, text: str, times: int) -> str:
        return text * times

    def reverse_bytes(self, data: bytes) -> bytes:
        return data[::-1]

    def next_day(self, moment: datetime.datetime) -> datetime.datetime:
        return moment + datetime.timedelta(days=1)

    def echo_complex_object(self, value: ComplexObject) -> ComplexObject:
        assert isinstance(value.ByteArray, bytes)
        assert isinstance(value.Guid, UUID)
        return value

    def send_complex_object(self) -> ComplexObject:
        return ComplexObject(
            String="hello world",
            IntArray=[1, 2, 3],
            ByteArray=b"\x01\x02\x03",
            Guid=UUID("00010203-0405-0607-0706-050403020100"),
            DateTime=datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC),
        )

    def throw_exception(self, message: str) -> None:
        raise InvalidOperationException(message)

    def throw_hub_error(self, message: str) -> None:
        raise HubError(message)

    def note(self, value: Any) -> None:
        self.context.items.setdefault("notes", []).append(value)

    def notes(self) -> list[Any]:
        notes: list[Any] = self.context.items.get("notes", [])
        return notes


class Streams(Hub):
    """Streams down, up, and both at once."""

    async def stream(self) -> AsyncIterator[str]:
        for letter in "abc":
            yield letter

    async def empty_stream(self) -> AsyncIterator[int]:
        for number in range(0):
            yield number

    async def counter(self, count: int, pause: float) -> AsyncIterator[int]:
        for number in range(count):
            yield number
            if pause:
                await trio.sleep(pause)

    async def count_and_fail(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number
        raise InvalidOperationException("Out of numbers.")

    def stream_throw_exception(self, message: str) -> AsyncIterator[str]:
        raise InvalidOperationException(message)

    async def infinite_stream(self) -> AsyncIterator[str]:
        try:
            await trio.sleep_forever()
            yield "never"
        finally:
            await last_words(self.clients.caller.send, "StreamCanceled")

    async def ticks(self) -> AsyncIterator[int]:
        number = 0
        try:
            while True:
                yield number
                number += 1
                await trio.sleep(0.02)
        finally:
            await last_words(self.clients.caller.send, "StreamCanceled")

    async def left_behind(self, tag: str) -> AsyncIterator[str]:
        try:
            yield "go on"
            await trio.sleep_forever()
        finally:
            await last_words(self.clients.group(watchers(tag)).send, "Gone", tag)

    async def streaming_concat(self, stream: AsyncIterator[str]) -> str:
        return "".join([item async for item in stream])

    async def slow_sum(self, numbers: AsyncIterator[int], pause_after: int) -> int:
        total = count = 0
        async for number in numbers:
            total += number
            count += 1
            if pause_after and count % pause_after == 0:
                await trio.sleep(0.01)
        return total

    async def tell_sum(self, numbers: AsyncIterator[int]) -> None:
        """For clients that learn no result of a call with a stream."""
        await self.clients.caller.send("Sum", sum([number async for number in numbers]))

    async def zip(
        self, words: AsyncIterator[str], between: str, numbers: AsyncIterator[int]
    ) -> list[str]:
        return [f"{word}{between}{await anext(numbers)}" async for word in words]

    async def echo_stream(self, items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for item in items:
            yield item

    async def first_of(self, items: AsyncIterator[str]) -> str:
        return await anext(items)


class Messages(Hub):
    """Calls of clients, whoever they are, and groups."""

    async def invoke_with_string(self, message: str) -> None:
        await self.clients.client(self.context.connection_id).send("Message", message)

    async def send_custom_object(self, value: CustomObject) -> None:
        await self.clients.client(self.context.connection_id).send("CustomObject", value)

    async def call_me(self, values: list[Any]) -> None:
        await self.clients.caller.send("Called", *values)

    async def send_numbers(self, count: int) -> None:
        for number in range(count):
            await self.clients.caller.send("Number", number)

    async def start_numbers(self, count: int, pause: float) -> None:
        async def send() -> None:
            for number in range(count):
                await client.send("Number", number)
                await trio.sleep(pause)

        client = self.clients.client(self.context.connection_id)
        self.context.nursery.start_soon(send)

    async def send_to_all(self, text: str) -> None:
        await self.clients.all.send("Message", text)

    async def send_to_others(self, text: str) -> None:
        await self.clients.others.send("Message", text)

    async def send_to_caller(self, text: str) -> None:
        await self.clients.caller.send("Message", text)

    async def send_to_client(self, text: str, id: str) -> None:
        await self.clients.client(id).send("Message", text)

    async def send_to_clients(self, text: str, ids: list[str]) -> None:
        await self.clients.clients(ids).send("Message", text)

    async def send_to_all_except(self, text: str, ids: list[str]) -> None:
        await self.clients.all_except(ids).send("Message", text)

    async def send_to_user(self, text: str, name: str) -> None:
        await self.clients.user(name).send("Message", text)

    async def send_to_users(self, text: str, names: list[str]) -> None:
        await self.clients.users(names).send("Message", text)

    async def join(self, group: str) -> None:
        await self.groups.add(self.context.connection_id, group)

    async def leave(self, group: str) -> None:
        await self.groups.remove(self.context.connection_id, group)

    async def send_to_group(self, text: str, group: str) -> None:
        await self.clients.group(group).send("Message", text)

    async def send_to_groups(self, text: str, groups: list[str]) -> None:
        await self.clients.groups(groups).send("Message", text)

    async def send_to_others_in_group(self, text: str, group: str) -> None:
        await self.clients.others_in_group(group).send("Message", text)

    async def send_to_group_except(self, text: str, group: str, ids: list[str]) -> None:
        await self.clients.group_except(group, ids).send("Message", text)

    async def ask(self, id: str, question: str) -> str:
        return await self.clients.client(id).invoke("Question", question, returns=str)


class Requests(Hub):
    """What the connection's own request said, and its end."""

    def get_caller_connection_id(self) -> str:
        return self.context.connection_id

    def get_active_transport_name(self) -> str:
        return self.context.transport

    def get_num_redirects(self) -> int:
        return int(self.context.request.query["numRedirects"])

    def get_query(self, name: str) -> str | None:
        return self.context.request.query.get(name)

    def get_header(self, name: str) -> str | None:
        return self.context.request.headers.get(name)

    def get_content_type_header(self) -> str | None:
        return self.context.request.headers.get("content-type")

    def get_cookie(self, name: str) -> str | None:
        return self.context.request.cookies.get(name)

    def abort(self) -> None:
        self.context.abort()

    async def watch_for(self, tag: str) -> None:
        await self.groups.add(self.context.connection_id, watchers(tag))

    def tell_when_gone(self, tag: str) -> None:
        self.context.items["tag"] = tag

    async def on_disconnected(self, error: Exception | None) -> None:
        if tag := self.context.items.get("tag"):
            await self.clients.group(watchers(tag)).send("Gone", tag)


class TestHub(Values, Streams, Messages, Requests):
    """All of it."""


@authorize()
class AuthorizedHub(Messages):
    def echo(self, message: str) -> str:
        return message

    def get_user_name_identifier(self) -> str:
        return self.context.user_identifier or ""

    @authorize(lambda user: user.id == "admin")
    def admins_only(self) -> str:
        return "welcome"


class FailingHub(Hub):
    async def on_connected(self) -> None:
        raise InvalidOperationException("Not today.")


def watchers(tag: str) -> str:
    return f"watchers of {tag}"


async def last_words(send: Callable[..., Awaitable[None]], *words: object) -> None:
    """Send although the method is being cancelled."""
    with trio.move_on_after(1, shield=True):
        await send(*words)
