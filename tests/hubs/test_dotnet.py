"""What SignalR's own test-suites ask of a server and our other tests do not say as plainly."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio

from echo.hubs import Hub, HubFilter, HubOptions
from echo.hubs.errors import ClientDisconnected, HubError
from echo.hubs.messages import Completion
from echo.hubs.protocol import EncodingError
from tests.hubs.memory import serving
from tests.hubs.support import JSON, MESSAGEPACK


class Greeting(Hub):
    async def on_connected(self) -> None:
        await self.clients.caller.send("Welcome", self.context.connection_id)
        await self.clients.others.send("Joined", self.context.connection_id)

    def echo(self, text: str) -> str:
        return text


async def test_on_connected_may_send_to_its_client_and_to_others() -> None:
    async with serving(Greeting) as service:
        first = await service.connect(MESSAGEPACK)
        assert await first.called("Welcome") == [first.id]
        second = await service.connect(JSON)
        assert await second.called("Welcome") == [second.id]
        assert await first.called("Joined") == [second.id]
        assert await first.result("echo", "hi") == "hi"


async def test_a_filter_may_skip_on_connected_and_the_connection_goes_on() -> None:
    class Skipping(HubFilter):
        async def on_connected(self, hub: Hub, proceed: Callable[[Hub], Awaitable[None]]) -> None:
            pass

    async with serving(Greeting, HubOptions(filters=(Skipping(),))) as service:
        client = await service.connect()
        assert await client.result("echo", "hi") == "hi"
        assert client.idle


async def test_a_filter_that_raises_in_on_connected_ends_the_connection_for_good() -> None:
    class Refusing(HubFilter):
        async def on_connected(self, hub: Hub, proceed: Callable[[Hub], Awaitable[None]]) -> None:
            raise HubError("not today")

    async with serving(Greeting, HubOptions(filters=(Refusing(),))) as service:
        close = await (await service.connect()).closed()
        assert close.error == "Connection closed with an error. HubException: not today"
        assert not close.allow_reconnect


class Groups(Hub):
    async def leave(self, group: str) -> None:
        await self.groups.remove(self.context.connection_id, group)

    async def join_twice_and_leave_once(self, group: str) -> None:
        for _ in range(2):
            await self.groups.add(self.context.connection_id, group)
        await self.groups.remove(self.context.connection_id, group)

    async def send(self, group: str) -> None:
        await self.clients.group(group).send("Mail")


async def test_a_group_has_each_client_once_and_may_be_left_by_who_is_not_in_it() -> None:
    async with serving(Groups) as service:
        client = await service.connect()
        await client.result("leave", "a")
        await client.result("join_twice_and_leave_once", "a")
        await client.result("send", "a")
        assert client.idle


class Unspeakable(Hub):
    async def send(self) -> None:
        await self.clients.all.send("Mail", object())

    async def send_and_go_on(self) -> str:
        with suppress(EncodingError):
            await self.clients.all.send("Mail", object())
        return "went on"


async def test_what_cannot_be_sent_fails_where_it_is_sent() -> None:
    """.NET ends the connections of all that it was meant for."""
    async with serving(Unspeakable) as service:
        client, other = await service.connect(), await service.connect(MESSAGEPACK)
        error = await client.error("send")
        assert error == "An unexpected error occurred invoking 'send' on the server."
        assert await client.result("send_and_go_on") == "went on"
        assert other.idle
        assert await other.result("send_and_go_on") == "went on"


class Asking(Hub):
    async def total(self, numbers: AsyncIterator[int]) -> int:
        factor: int = await self.clients.caller.invoke("factor", returns=int)
        return factor * sum([number async for number in numbers])

    async def ask(self) -> Any:
        return await self.clients.caller.invoke("question")


async def test_a_call_with_an_upload_may_ask_its_client() -> None:
    async with serving(Asking) as service:
        client = await service.connect()
        id = client.call("total", streams=("u",))
        client.item("u", 1)
        assert await client.called("factor") == []
        client.item("u", 2)
        client.complete("s1", result=10)
        client.complete("u")
        completion = await client.expect(Completion)
        assert (completion.invocation_id, completion.result) == (id, 30)


async def test_who_asks_may_give_up_and_a_late_answer_is_nobodys() -> None:
    async with serving(Asking) as service:
        client = await service.connect()
        with trio.move_on_after(0.05) as patience:
            await service.server.context.clients.client(client.id).invoke("question")
        assert patience.cancelled_caught
        assert await client.called("question") == []
        client.complete("s1", result="late")
        client.call("ask")
        assert await client.called("question") == []
        client.complete("s2", result="in time")
        assert (await client.expect(Completion)).result == "in time"


async def test_only_who_was_asked_can_answer() -> None:
    async with serving(Asking) as service:
        client, other = await service.connect(), await service.connect()
        client.call("ask")
        await client.called("question")
        other.complete("s1", result="from another")
        assert (await other.error("nope")) == "Unknown hub method 'nope'"
        client.complete("s1", result="from the right one")
        assert (await client.expect(Completion)).result == "from the right one"


class Keeping(Hub):
    kept: list[Any]

    def keep(self) -> None:
        self.kept.append(self.clients.caller)


async def test_the_proxy_of_the_caller_outlives_its_call_and_its_connection() -> None:
    Keeping.kept = []
    async with serving(Keeping) as service:
        client = await service.connect()
        await client.result("keep")
        await Keeping.kept[0].send("Mail", "hi")
        assert await client.called("Mail") == ["hi"]
        client.leave()
        await client.served.wait()
        await Keeping.kept[0].send("Mail", "too late")
        with pytest.raises(ClientDisconnected):
            await Keeping.kept[0].invoke("question")


async def test_a_message_that_breaks_off_with_its_connection_is_not_called() -> None:
    async with serving(Greeting) as service:
        client = await service.connect()
        client.send_raw(b'{"type":1,"invocationId":"1","target":"echo","arguments":["hi"]}')
        client.leave()
        await client.served.wait()
        assert service.server.metrics.invocations == 0
