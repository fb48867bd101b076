"""The contract of a lifetime: who is reached, by what, and who is not. For every implementation."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from echo.hubs import ClientDisconnected, EncodingError, Hub, HubError
from echo.hubs.json import JsonProtocol
from echo.hubs.lifetime import (
    All,
    Audience,
    Connections,
    EncodedCall,
    Groups,
    Lifetime,
    LocalLifetime,
    Users,
)
from echo.hubs.messagepack import MessagePackProtocol
from echo.hubs.messages import Invocation, Message
from echo.hubs.protocol import HubProtocol
from tests.hubs.memory import Client, Person, Service, serving
from tests.hubs.support import JSON, MESSAGEPACK

Make = Callable[[], Lifetime]

pytestmark = pytest.mark.parametrize("make", [LocalLifetime])


async def four(service: Service) -> list[Client]:
    """Clients of both protocols: two of ada, one of bob, one of nobody."""
    return [
        await service.connect(JSON, user=Person("ada")),
        await service.connect(MESSAGEPACK, user=Person("ada")),
        await service.connect(JSON, user=Person("bob")),
        await service.connect(MESSAGEPACK),
    ]


async def reached(lifetime: Lifetime, audience: Audience, clients: list[Client]) -> list[int]:
    """How often each of the clients is called by one call to the audience."""
    await lifetime.send(audience, "Hello", ("World", 1))
    await wait_all_tasks_blocked()
    counts = []
    for client in clients:
        counts.append(0)
        while not client.idle:
            assert await client.called("Hello") == ["World", 1]
            counts[-1] += 1
    return counts


async def test_all_are_reached_but_those_excluded_or_gone(make: Make) -> None:
    lifetime = make()
    async with serving(Hub, lifetime=lifetime) as service:
        clients = await four(service)
        assert await reached(lifetime, All(), clients) == [1, 1, 1, 1]
        excluded = frozenset((clients[1].id, clients[2].id, "unknown"))
        assert await reached(lifetime, All(excluded), clients) == [1, 0, 0, 1]
        clients[0].leave()
        await clients[0].served.wait()
        clients[0].link.to_client.clear()
        assert await reached(lifetime, All(), clients) == [0, 1, 1, 1]


async def test_connections_are_reached_once_each(make: Make) -> None:
    lifetime = make()
    async with serving(Hub, lifetime=lifetime) as service:
        clients = await four(service)
        ids = (clients[0].id, clients[3].id, "unknown")
        assert await reached(lifetime, Connections(ids), clients) == [1, 0, 0, 1]
        assert await reached(lifetime, Connections(("unknown",)), clients) == [0] * 4


async def test_users_are_reached_on_all_their_connections(make: Make) -> None:
    lifetime = make()
    async with serving(Hub, lifetime=lifetime) as service:
        clients = await four(service)
        assert await reached(lifetime, Users(("ada",)), clients) == [1, 1, 0, 0]
        assert await reached(lifetime, Users(("bob", "ada", "eve")), clients) == [1, 1, 1, 0]
        for client in clients[:2]:
            client.leave()
            await client.served.wait()
            client.link.to_client.clear()
        assert await reached(lifetime, Users(("ada", "bob")), clients) == [0, 0, 1, 0]


async def test_groups_are_reached_but_those_excluded(make: Make) -> None:
    lifetime = make()
    async with serving(Hub, lifetime=lifetime) as service:
        clients = await four(service)
        for client, group in ((0, "a"), (1, "a"), (1, "b"), (2, "b")):
            await lifetime.add_to_group(clients[client].id, group)
        assert await reached(lifetime, Groups(("a",)), clients) == [1, 1, 0, 0]
        assert await reached(lifetime, Groups(("none",)), clients) == [0] * 4
        assert await reached(lifetime, Groups(("a", "b")), clients) == [1, 2, 1, 0]
        excluded = frozenset((clients[1].id,))
        assert await reached(lifetime, Groups(("a", "b"), excluded), clients) == [1, 0, 1, 0]


async def test_who_is_added_twice_is_in_a_group_once(make: Make) -> None:
    lifetime = make()
    async with serving(Hub, lifetime=lifetime) as service:
        clients = await four(service)
        for _ in range(2):
            await lifetime.add_to_group(clients[0].id, "a")
        assert await reached(lifetime, Groups(("a",)), clients) == [1, 0, 0, 0]
        await lifetime.remove_from_group(clients[0].id, "a")
        assert await reached(lifetime, Groups(("a",)), clients) == [0] * 4


async def test_changes_of_groups_that_make_no_difference_do_nothing(make: Make) -> None:
    lifetime = make()
    async with serving(Hub, lifetime=lifetime) as service:
        clients = await four(service)
        await lifetime.add_to_group("unknown", "a")
        await lifetime.remove_from_group("unknown", "a")
        await lifetime.remove_from_group(clients[0].id, "a")
        await lifetime.add_to_group(clients[0].id, "b")
        await lifetime.remove_from_group(clients[0].id, "a")
        assert await reached(lifetime, Groups(("a", "b")), clients) == [1, 0, 0, 0]


async def test_who_leaves_is_out_of_its_groups(make: Make) -> None:
    lifetime = make()
    async with serving(Hub, lifetime=lifetime) as service:
        clients = await four(service)
        for client in clients[:2]:
            await lifetime.add_to_group(client.id, "a")
        clients[0].leave()
        await clients[0].served.wait()
        clients[0].link.to_client.clear()
        assert await reached(lifetime, Groups(("a",)), clients) == [0, 1, 0, 0]
        await lifetime.add_to_group(clients[0].id, "a")  # too late
        assert await reached(lifetime, Groups(("a",)), clients) == [0, 1, 0, 0]


async def test_nothing_of_who_has_left_is_kept(make: Make) -> None:
    lifetime = make()
    async with serving(Hub, lifetime=lifetime) as service:
        client = await service.connect(user=Person("ada"))
        await lifetime.add_to_group(client.id, "a")
        (connection,) = service.server.connections
        gone = weakref.ref(connection.link)
        del connection
        client.leave()
        await client.served.wait()
        del client
        await wait_all_tasks_blocked()
        gc.collect()
        assert gone() is None
        if isinstance(lifetime, LocalLifetime):
            assert not lifetime.connections
            assert not lifetime._groups
            assert not lifetime._groups_of
            assert not lifetime._users


async def test_a_call_is_encoded_once_for_each_protocol(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []

    def count(kind: type[HubProtocol]) -> None:
        encode = kind.encode

        def counted(protocol: HubProtocol, message: Message) -> bytes:
            encoded.append(protocol.name)
            return encode(protocol, message)

        monkeypatch.setattr(kind, "encode", counted)

    count(JsonProtocol)
    count(MessagePackProtocol)
    lifetime = make()
    async with serving(Hub, lifetime=lifetime) as service:
        clients = await four(service)
        encoded.clear()
        await lifetime.send(All(), "Hello", ("World", 1))
        assert sorted(encoded) == ["json", "messagepack"]
        for client in clients:
            assert await client.called("Hello") == ["World", 1]


async def test_calls_come_in_the_order_in_which_they_were_made(make: Make) -> None:
    lifetime = make()
    async with serving(Hub, lifetime=lifetime) as service:
        (client, *_) = await four(service)
        for number in range(100):
            await lifetime.send(All() if number % 2 else Users(("ada",)), "Number", (number,))
        for number in range(100):
            assert await client.called("Number") == [number]


async def test_what_cannot_be_sent_is_the_senders_error(make: Make) -> None:
    lifetime = make()
    async with serving(Hub, lifetime=lifetime) as service:
        (client, *_) = await four(service)
        with pytest.raises(EncodingError):
            await lifetime.send(All(), "Hello", (object(),))
        with pytest.raises(EncodingError):
            await lifetime.invoke(client.id, "Hello", (object(),), int)
        await lifetime.send(All(), "Hello", ("World",))
        assert await client.called("Hello") == ["World"]


# Client results


async def ask(lifetime: Lifetime, id: str, answers: list[Any], returns: object = int) -> None:
    try:
        answers.append(await lifetime.invoke(id, "Result", ("test",), returns))
    except Exception as error:
        answers.append(error)


async def test_a_client_answers(make: Make) -> None:
    lifetime = make()
    async with serving(Hub, lifetime=lifetime) as service:
        for protocol in (JSON, MESSAGEPACK):
            client = await service.connect(protocol)
            answers: list[Any] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, lifetime, client.id, answers)
                call = await client.expect(Invocation)
                assert call.arguments == ["test"]
                assert call.invocation_id is not None
                client.complete(call.invocation_id, result=10)
            assert answers == [10]


async def test_a_client_answers_with_an_error_that_comes_unchanged(make: Make) -> None:
    lifetime = make()
    async with serving(Hub, lifetime=lifetime) as service:
        client = await service.connect()
        answers: list[Any] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, lifetime, client.id, answers)
            call = await client.expect(Invocation)
            assert call.invocation_id is not None
            client.complete(call.invocation_id, "Error from client")
        (error,) = answers
        assert type(error) is HubError
        assert str(error) == "Error from client"


async def test_another_client_cannot_answer_for_it(make: Make) -> None:
    lifetime = make()
    async with serving(Hub, lifetime=lifetime) as service:
        client, other = await service.connect(), await service.connect()
        answers: list[Any] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, lifetime, client.id, answers)
            call = await client.expect(Invocation)
            assert call.invocation_id is not None
            other.complete(call.invocation_id, result=66)
            await wait_all_tasks_blocked()
            assert not answers
            client.complete(call.invocation_id, result=10)
        assert answers == [10]


async def test_questions_to_several_clients_do_not_mix(make: Make) -> None:
    lifetime = make()
    async with serving(Hub, lifetime=lifetime) as service:
        clients = [await service.connect() for _ in range(2)]
        answers: list[list[Any]] = [[], []]
        async with trio.open_nursery() as nursery:
            for client, answer in zip(clients, answers, strict=True):
                nursery.start_soon(ask, lifetime, client.id, answer)
            ids = [(await client.expect(Invocation)).invocation_id for client in clients]
            assert all(ids)
            clients[1].complete(str(ids[1]), "no")
            await wait_all_tasks_blocked()
            assert not answers[0]
            clients[0].complete(str(ids[0]), result=3)
        assert answers[0] == [3]
        assert isinstance(answers[1][0], HubError)


async def test_who_is_not_connected_cannot_be_asked(make: Make) -> None:
    with pytest.raises(ClientDisconnected, match=r"Connection 'none' does not exist\."):
        await make().invoke("none", "Result", (), int)


async def test_who_leaves_does_not_answer(make: Make) -> None:
    lifetime = make()
    async with serving(Hub, lifetime=lifetime) as service:
        client = await service.connect()
        answers: list[Any] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, lifetime, client.id, answers)
            await client.expect(Invocation)
            client.leave()
        (error,) = answers
        assert type(error) is ClientDisconnected
        assert str(error) == f"Connection '{client.id}' disconnected."


async def test_who_no_longer_wants_an_answer_can_be_cancelled(make: Make) -> None:
    lifetime = make()
    async with serving(Hub, lifetime=lifetime) as service:
        client = await service.connect()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lifetime.invoke, client.id, "Result", (), int)
                call = await client.expect(Invocation)
                scope.cancel()
        (connection,) = service.server.connections
        assert not connection.answers
        client.complete(str(call.invocation_id), result=2)  # too late
        answers: list[Any] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, lifetime, client.id, answers)
            call = await client.expect(Invocation)
            client.complete(str(call.invocation_id), result=3)
        assert answers == [3]


async def test_what_is_encoded_elsewhere_is_not_encoded_again(make: Make) -> None:
    """As a backplane brings it."""
    lifetime = make()
    async with serving(Hub, lifetime=lifetime) as service:
        client = await service.connect()
        if isinstance(lifetime, LocalLifetime):
            message = Invocation(target="not this", arguments=())
            form = JSON.encode(Invocation(target="but this", arguments=()))
            assert lifetime.deliver(All(), EncodedCall(message, {"json": form})) == 1
            assert await client.called("but this") == []
