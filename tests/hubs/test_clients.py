"""Whom hub methods and the rest of the app call, and what they get for it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from echo.hubs import ClientDisconnected, Hub, HubError, HubOptions, UsageError
from echo.hubs.messages import Completion, Invocation
from tests.hubs.memory import Client, Person, Service, serving


class Post(Hub):
    """Sends "Mail" to whom its caller says."""

    async def on_connected(self) -> None:
        await self.groups.add(self.context.connection_id, "everyone")

    async def to_all(self, text: str) -> None:
        await self.clients.all.send("Mail", text)

    async def to_all_except(self, text: str, ids: list[str]) -> None:
        await self.clients.all_except(ids).send("Mail", text)

    async def to_caller(self, text: str) -> None:
        await self.clients.caller.send("Mail", text)

    async def to_others(self, text: str) -> None:
        await self.clients.others.send("Mail", text)

    async def to_client(self, text: str, id: str) -> None:
        await self.clients.client(id).send("Mail", text)

    async def to_clients(self, text: str, ids: list[str]) -> None:
        await self.clients.clients(ids).send("Mail", text)

    async def to_group(self, text: str, name: str) -> None:
        await self.clients.group(name).send("Mail", text)

    async def to_groups(self, text: str, names: list[str]) -> None:
        await self.clients.groups(names).send("Mail", text)

    async def to_group_except(self, text: str, name: str, ids: list[str]) -> None:
        await self.clients.group_except(name, ids).send("Mail", text)

    async def to_others_in_group(self, text: str, name: str) -> None:
        await self.clients.others_in_group(name).send("Mail", text)

    async def to_user(self, text: str, id: str) -> None:
        await self.clients.user(id).send("Mail", text)

    async def to_users(self, text: str, ids: list[str]) -> None:
        await self.clients.users(ids).send("Mail", text)

    async def join(self, name: str) -> None:
        await self.groups.add(self.context.connection_id, name)

    async def leave(self, name: str) -> None:
        await self.groups.remove(self.context.connection_id, name)

    async def letters(self, count: int) -> None:
        for _ in range(count):
            await self.clients.caller.send("Mail", "x" * 100)


async def received(clients: list[Client]) -> list[int]:
    """How much mail each of them has, whatever else it was told."""
    await wait_all_tasks_blocked()
    counts = []
    for client in clients:
        counts.append(0)
        while not client.idle:
            message = await client.expect(object)
            if isinstance(message, Invocation):
                assert (message.target, message.arguments) == ("Mail", ["hi"])
                counts[-1] += 1
    return counts


async def three(service: Service) -> list[Client]:
    clients = [await service.connect(user=Person(name)) for name in ("ada", "bob", "cyd")]
    await clients[0].invoke("join", "a")
    await clients[1].invoke("join", "a")
    await clients[1].invoke("join", "b")
    return clients


@pytest.mark.parametrize(
    ("method", "choice", "counts"),
    [
        ("to_all", (), [1, 1, 1]),
        ("to_all_except", (["0", "1"],), [0, 0, 1]),
        ("to_all_except", ([],), [1, 1, 1]),
        ("to_caller", (), [1, 0, 0]),
        ("to_others", (), [0, 1, 1]),
        ("to_client", ("2",), [0, 0, 1]),
        ("to_client", ("none",), [0, 0, 0]),
        ("to_clients", (["1", "2", "2"],), [0, 1, 1]),
        ("to_clients", ([],), [0, 0, 0]),
        ("to_group", ("a",), [1, 1, 0]),
        ("to_group", ("everyone",), [1, 1, 1]),
        ("to_groups", (["a", "b"],), [1, 2, 0]),
        ("to_group_except", ("a", ["1"]), [1, 0, 0]),
        ("to_others_in_group", ("a",), [0, 1, 0]),
        ("to_user", ("bob",), [0, 1, 0]),
        ("to_users", (["bob", "cyd"],), [0, 1, 1]),
    ],
)
async def test_who_is_called(method: str, choice: tuple[Any, ...], counts: list[int]) -> None:
    async with serving(Post) as service:
        clients = await three(service)

        def named(value: Any) -> Any:
            """The client's id in the place of its number."""
            if isinstance(value, list):
                return [named(each) for each in value]
            return clients[int(value)].id if value.isdigit() else value

        clients[0].call(method, "hi", *map(named, choice))
        assert await received(clients) == counts


async def test_a_group_that_is_left_no_longer_reaches() -> None:
    async with serving(Post) as service:
        clients = await three(service)
        await clients[0].invoke("leave", "a")
        await clients[0].invoke("leave", "never joined")
        clients[2].call("to_group", "hi", "a")
        assert await received(clients) == [0, 1, 0]


async def test_the_rest_of_the_app_reaches_them_too() -> None:
    async with serving(Post) as service:
        clients = await three(service)
        hub = service.server.context
        await hub.clients.all.send("Mail", "hi")
        await hub.clients.user("ada").send("Mail", "hi")
        await hub.groups.add(clients[2].id, "a")
        await hub.groups.remove(clients[0].id, "a")
        await hub.clients.group("a").send("Mail", "hi")
        assert await received(clients) == [2, 2, 2]
        assert hub.metrics.connections == 3


async def test_one_string_is_not_several() -> None:
    async with serving(Post) as service:
        clients = service.server.context.clients
        for choose in (clients.clients, clients.groups, clients.users, clients.all_except):
            with pytest.raises(TypeError, match=r"give a list of names, not one string: \['ada'\]"):
                choose("ada")


async def test_who_sends_to_its_caller_waits_for_it() -> None:
    options = HubOptions(transport_buffer_size=10_000)
    async with serving(Post, options) as service:
        client = await service.connect()
        id = client.call("letters", 1000)
        await wait_all_tasks_blocked()
        assert 10_000 < client.link.unsent < 11_000
        count = 0
        while isinstance(message := await client.expect(object), Invocation):
            count += 1
        assert isinstance(message, Completion)
        assert (count, message.invocation_id) == (1000, id)


async def test_who_sends_to_many_waits_for_nobody() -> None:
    options = HubOptions(transport_buffer_size=1000, outbox_size=10_000)
    async with serving(Post, options) as service:
        slow, quick = await service.connect(), await service.connect()
        for number in range(200):
            quick.call("to_all", "x" * 100)
            assert await quick.called("Mail") == ["x" * 100]
            assert (await quick.expect(Completion)).error is None, number
        await slow.served.wait()
        assert service.server.metrics.ends == {"SlowClient": 1}
        assert slow.link.why == "the client is too slow: more than 10000 bytes wait for it"


async def test_many_calls_in_a_row_let_others_run() -> None:
    async with serving(Post) as service:
        client = await service.connect()
        turns = []

        async def turn() -> None:
            while True:
                turns.append(True)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn)
            for _ in range(1000):
                await service.server.context.clients.all.send("Mail", "hi")
            nursery.cancel_scope.cancel()
        assert len(turns) >= 10
        assert await received([client]) == [1000]


# Client results


class Asking(Hub):
    notes: list[Any]

    async def on_disconnected(self, error: Exception | None) -> None:
        self.notes.append("disconnected")

    async def ask(self, id: str, question: str) -> Any:
        return await self.clients.client(id).invoke("question", question)

    async def ask_number(self) -> int:
        return await self.clients.caller.invoke("number", returns=int)

    async def ask_nothing(self) -> None:
        await self.clients.caller.invoke("nothing", returns=None)

    async def ask_in_background(self) -> None:
        caller = self.clients.caller

        async def ask() -> None:
            self.notes.append(await caller.invoke("later", returns=str))

        self.context.nursery.start_soon(ask)

    def echo(self, text: str) -> str:
        return text


@pytest.fixture
def asking() -> type[Asking]:
    class Fresh(Asking):
        notes = []  # noqa: RUF012

    return Fresh


async def test_a_method_may_ask_another_client(asking: type[Asking]) -> None:
    async with serving(asking) as service:
        client, other = await service.connect(), await service.connect()
        client.call("ask", other.id, "how are you?")
        assert await other.called("question") == ["how are you?"]
        other.complete("s1", result={"fine": True})
        assert (await client.expect(Completion)).result == {"fine": True}


async def test_the_answers_error_reaches_the_caller_unchanged(asking: type[Asking]) -> None:
    async with serving(asking) as service:
        client = await service.connect()
        client.call("ask_number")
        await client.called("number")
        client.complete("s1", "Client didn't provide a result.")
        assert (await client.expect(Completion)).error == (
            "An unexpected error occurred invoking 'ask_number' on the server. "
            "HubException: Client didn't provide a result."
        )


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"result": "one"}, "Error trying to deserialize result to int."),
        ({"result": None}, "Error trying to deserialize result to int."),
        ({}, "Client didn't provide a result."),
    ],
)
async def test_an_answer_of_another_type_is_an_error(
    answer: dict[str, Any], error: str, asking: type[Asking]
) -> None:
    async with serving(asking) as service:
        client = await service.connect()
        client.call("ask_number")
        await client.called("number")
        client.complete("s1", **answer)
        completion = await client.expect(Completion)
        assert str(completion.error).endswith(f"HubException: {error}")


async def test_an_answer_may_be_none(asking: type[Asking]) -> None:
    async with serving(asking) as service:
        client = await service.connect()
        client.call("ask_nothing")
        await client.called("nothing")
        client.complete("s1")
        assert (await client.expect(Completion)).error is None


async def test_who_leaves_or_is_not_there_is_an_error_that_is_not_logged(
    asking: type[Asking], caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(asking, HubOptions(detailed_errors=True)) as service:
        client, other = await service.connect(), await service.connect()
        client.call("ask", other.id, "still there?")
        await other.called("question")
        other.leave()
        completion = await client.expect(Completion)
        text = f"IOException: Connection '{other.id}' disconnected."
        assert str(completion.error).endswith(text)
        await other.served.wait()
        error = await client.error("ask", other.id, "hello?")
        assert error.endswith(f"IOException: Connection '{other.id}' does not exist.")
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_who_does_not_answer_in_time_is_an_error(
    asking: type[Asking], autojump_clock: MockClock
) -> None:
    options = HubOptions(detailed_errors=True, client_result_timeout=7, keep_alive_interval=100)
    async with serving(asking, options) as service:
        client = await service.connect()
        start = trio.current_time()
        client.call("ask_number")
        await client.called("number")
        completion = await client.expect(Completion)
        assert str(completion.error).endswith("TimeoutError: the client did not answer within 7 s")
        assert trio.current_time() - start == 7
        client.complete("s1", result=1)  # too late
        assert await client.result("echo", "still here") == "still here"


async def test_the_caller_can_be_asked_when_its_call_has_ended(asking: type[Asking]) -> None:
    async with serving(asking) as service:
        client = await service.connect()
        client.call("ask_in_background")
        await client.expect(Completion)
        await client.called("later")
        client.complete("s1", result="answer")
        assert await client.result("echo", "still here") == "still here"
        await wait_all_tasks_blocked()
        assert asking.notes == ["answer"]


async def test_the_answers_that_calls_wait_for_are_limited(asking: type[Asking]) -> None:
    async with serving(asking, HubOptions(max_client_results=2)) as service:
        client = await service.connect()
        for _ in range(2):
            client.call("ask_number")
            await client.called("number")
        assert await client.error("ask_number") == (
            "An unexpected error occurred invoking 'ask_number' on the server. "
            "HubException: 2 calls are waiting for answers of clients already."
        )
        client.complete("s1", result=1)
        assert (await client.expect(Completion)).result == 1
        client.call("ask_number")
        await client.called("number")


async def test_the_rest_of_the_app_may_ask(asking: type[Asking]) -> None:
    async with serving(asking) as service:
        client = await service.connect()
        clients = service.server.context.clients
        answers = []

        async def ask() -> None:
            answers.append(await clients.client(client.id).invoke("number", 1, returns=int))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            assert await client.called("number") == [1]
            client.complete("s1", result=2)
        assert answers == [2]
        with pytest.raises(ClientDisconnected):
            await clients.client("unknown").invoke("number")


async def test_a_client_that_is_being_greeted_cannot_be_asked() -> None:
    errors = []

    class Impatient(Hub):
        async def on_connected(self) -> None:
            for client in (self.clients.caller, self.clients.client("anyone")):
                try:
                    await client.invoke("question")
                except UsageError as error:
                    errors.append(str(error))
            raise HubError("done")

    async with serving(Impatient) as service:
        client = await service.connect()
        await client.closed()
    text = "Client results inside OnConnectedAsync Hub methods are not allowed."
    assert errors == [text, text]
