"""The contract of a lifetime: who is reached, by what, and who is not; wherever they all are.

With several nodes the clients are on different ones, and each node sends in its turn. The
behaviours are those that the specification tests of SignalR's lifetime managers name.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from echo.hubs import ClientDisconnected, EncodingError, HubError, HubOptions
from echo.hubs.backplane import BackplaneError
from echo.hubs.lifetime import All, Connections, Groups, Lifetime, Users
from echo.hubs.messages import Invocation
from tests.hubs.backplane.farm import Opener, farms
from tests.hubs.memory import Client
from tests.hubs.support import JSON, MESSAGEPACK

everywhere = farms(2, 3, local=True)
across = farms(2)

# Who is reached


@everywhere
async def test_all_are_reached_but_those_excluded_or_gone(farm_of: Opener) -> None:
    async with farm_of() as farm:
        clients = await farm.four()
        assert await farm.reached(All(), clients) == [1, 1, 1, 1]
        excluded = frozenset((clients[1].id, clients[2].id, "unknown"))
        assert await farm.reached(All(excluded), clients) == [1, 0, 0, 1]
        await farm.gone(clients[0])
        assert await farm.reached(All(), clients) == [0, 1, 1, 1]


@everywhere
async def test_connections_are_reached_once_each(farm_of: Opener) -> None:
    async with farm_of() as farm:
        clients = await farm.four()
        ids = (clients[0].id, clients[3].id, "unknown")
        assert await farm.reached(Connections(ids), clients) == [1, 0, 0, 1]
        assert await farm.reached(Connections((clients[1].id,)), clients) == [0, 1, 0, 0]
        assert await farm.reached(Connections(("unknown",)), clients) == [0] * 4
        assert await farm.reached(Connections(()), clients) == [0] * 4


@everywhere
async def test_users_are_reached_on_all_their_connections(farm_of: Opener) -> None:
    async with farm_of() as farm:
        clients = await farm.four()
        assert await farm.reached(Users(("ada",)), clients) == [1, 1, 0, 0]
        assert await farm.reached(Users(("bob", "ada", "eve")), clients) == [1, 1, 1, 0]
        await farm.gone(clients[0])
        assert await farm.reached(Users(("ada",)), clients) == [0, 1, 0, 0]
        await farm.gone(clients[1])
        assert await farm.reached(Users(("ada", "bob")), clients) == [0, 0, 1, 0]


@everywhere
async def test_a_user_is_reached_while_one_of_two_connections_to_a_node_stays(
    farm_of: Opener,
) -> None:
    async with farm_of() as farm:
        clients = [await farm.connect(user="ada", node=0) for _ in range(2)]
        await farm.gone(clients[0])
        assert await farm.reached(Users(("ada",)), clients) == [0, 1]


@everywhere
async def test_groups_are_reached_but_those_excluded(farm_of: Opener) -> None:
    async with farm_of() as farm:
        clients = await farm.four()
        for client, group in ((0, "a"), (1, "a"), (1, "b"), (2, "b")):
            await farm.lifetimes[0].add_to_group(clients[client].id, group)
        assert await farm.reached(Groups(("a",)), clients) == [1, 1, 0, 0]
        assert await farm.reached(Groups(("none",)), clients) == [0] * 4
        assert await farm.reached(Groups(("a", "b")), clients) == [1, 2, 1, 0]
        excluded = frozenset((clients[1].id,))
        assert await farm.reached(Groups(("a", "b"), excluded), clients) == [1, 0, 1, 0]


@everywhere
async def test_who_is_added_twice_is_in_a_group_once(farm_of: Opener) -> None:
    async with farm_of() as farm:
        clients = await farm.four()
        for lifetime in (*farm.lifetimes, *farm.lifetimes):
            await lifetime.add_to_group(clients[0].id, "a")
        assert await farm.reached(Groups(("a",)), clients) == [1, 0, 0, 0]
        await farm.lifetimes[-1].remove_from_group(clients[0].id, "a")
        assert await farm.reached(Groups(("a",)), clients) == [0] * 4


@everywhere
async def test_any_node_changes_the_groups_of_any_client(farm_of: Opener) -> None:
    async with farm_of() as farm:
        clients = await farm.four()
        for lifetime in farm.lifetimes:
            for client in clients:
                await lifetime.add_to_group(client.id, "a")
            assert await farm.reached(Groups(("a",)), clients) == [1] * 4
            for client in clients:
                await lifetime.remove_from_group(client.id, "a")
            assert await farm.reached(Groups(("a",)), clients) == [0] * 4


@everywhere
async def test_changes_of_groups_that_make_no_difference_do_nothing(farm_of: Opener) -> None:
    async with farm_of() as farm:
        clients = await farm.four()
        for lifetime in farm.lifetimes:
            await lifetime.remove_from_group(clients[0].id, "a")
            await lifetime.add_to_group(clients[0].id, "b")
            await lifetime.remove_from_group(clients[0].id, "a")
        assert await farm.reached(Groups(("a", "b")), clients) == [1, 0, 0, 0]


@everywhere
async def test_who_leaves_is_out_of_its_groups(farm_of: Opener) -> None:
    async with farm_of() as farm:
        clients = [await farm.connect(node=0) for _ in range(2)]
        for client in clients:
            await farm.lifetimes[0].add_to_group(client.id, "a")
        await farm.gone(clients[0])
        assert await farm.reached(Groups(("a",)), clients) == [0, 1]
        await farm.gone(clients[1])
        assert await farm.reached(Groups(("a",)), clients) == [0, 0]


@everywhere
async def test_names_may_be_any_text(farm_of: Opener) -> None:
    async with farm_of() as farm:
        for name in ("*", "a b", "ü:all", "{x}", "[a-z]?", "", "\n"):
            clients = [await farm.connect(user=name or "x") for _ in range(2)]
            await farm.lifetimes[0].add_to_group(clients[1].id, name)
            assert await farm.reached(Groups((name,)), clients) == [0, 1]
            assert await farm.reached(Users((name or "x",)), clients) == [1, 1]
            for client in clients:
                await farm.gone(client)


# How


@everywhere
async def test_calls_of_one_sender_come_in_their_order(farm_of: Opener) -> None:
    async with farm_of() as farm:
        clients = await farm.four()
        for lifetime in farm.lifetimes:
            for number in range(100):
                await lifetime.send(All(), "Number", (number,))
            for client in clients:
                for number in range(100):
                    assert await client.called("Number") == [number]


@everywhere
async def test_what_cannot_be_sent_is_the_senders_error(farm_of: Opener) -> None:
    async with farm_of() as farm:
        clients = await farm.four()
        for lifetime in farm.lifetimes:
            with pytest.raises(EncodingError):
                await lifetime.send(All(), "Hello", (object(),))
            with pytest.raises(EncodingError):
                await lifetime.invoke(clients[0].id, "Hello", (object(),), int)
        assert await farm.reached(All(), clients) == [1] * 4


@everywhere
async def test_who_does_not_read_disturbs_nobody(farm_of: Opener) -> None:
    options = HubOptions(outbox_size=1000)
    async with farm_of(options=options) as farm:
        clients = [await farm.connect(), await farm.connect(), await farm.connect()]
        for _ in range(20):
            await farm.lifetimes[0].send(All(), "Much", ("x" * 200,))
            for client in clients[1:]:
                assert await client.called("Much") == ["x" * 200]
        await clients[0].served.wait()  # dropped: it has not read


# Client results


async def ask(lifetime: Lifetime, id: str, answers: list[Any], returns: object = int) -> None:
    try:
        answers.append(await lifetime.invoke(id, "Result", ("test",), returns))
    except Exception as error:
        answers.append(error)


async def question(client: Client) -> str:
    """What the client is asked: the id under which it is to answer."""
    call = await client.expect(Invocation)
    assert (call.target, call.arguments) == ("Result", ["test"])
    assert call.invocation_id is not None
    return call.invocation_id


@everywhere
async def test_a_client_answers_whoever_asks(farm_of: Opener) -> None:
    async with farm_of() as farm:
        for protocol in (JSON, MESSAGEPACK):
            client = await farm.connect(protocol)
            for lifetime in farm.lifetimes:
                for result, returns in ((10, int), ({"a": [1, None]}, dict), (None, Any)):
                    answers: list[Any] = []
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(ask, lifetime, client.id, answers, returns)
                        client.complete(await question(client), result=result)
                    assert answers == [result]


@everywhere
async def test_a_client_answers_with_an_error_that_comes_unchanged(farm_of: Opener) -> None:
    async with farm_of() as farm:
        client = await farm.connect()
        for lifetime in farm.lifetimes:
            answers: list[Any] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, lifetime, client.id, answers)
                client.complete(await question(client), "Error from client")
            (error,) = answers
            assert type(error) is HubError
            assert str(error) == "Error from client"


@everywhere
async def test_an_answer_of_another_type_is_an_error(farm_of: Opener) -> None:
    async with farm_of() as farm:
        client = await farm.connect(MESSAGEPACK)
        for lifetime in farm.lifetimes:
            answers: list[Any] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, lifetime, client.id, answers)
                client.complete(await question(client), result="wrong type")
            (error,) = answers
            assert type(error) is HubError
            assert str(error) == "Error trying to deserialize result to int."


@everywhere
async def test_another_client_cannot_answer_for_it(farm_of: Opener) -> None:
    async with farm_of() as farm:
        client, other, third = [await farm.connect() for _ in range(3)]
        for lifetime in farm.lifetimes:
            answers: list[Any] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, lifetime, client.id, answers)
                id = await question(client)
                other.complete(id, result=66)
                third.complete(id, result=67)
                await farm.settle()
                assert not answers
                client.complete(id, result=10)
            assert answers == [10]


@everywhere
async def test_questions_do_not_mix(farm_of: Opener) -> None:
    """To several clients, from several nodes."""
    async with farm_of() as farm:
        clients = [await farm.connect() for _ in range(2)]
        answers: dict[tuple[int, int], list[Any]] = {}
        async with trio.open_nursery() as nursery:
            for place, lifetime in enumerate(farm.lifetimes):
                for number, client in enumerate(clients):
                    found = answers[place, number] = []
                    nursery.start_soon(ask, lifetime, client.id, found)
                    await farm.settle()
            asked = {
                (place, number): await question(client)
                for number, client in enumerate(clients)
                for place in range(len(farm.lifetimes))
            }
            for number in range(2):
                ids = [id for (_, each), id in asked.items() if each == number]
                assert len(set(ids)) == len(ids)
            for (place, number), id in reversed(asked.items()):
                clients[number].complete(id, result=place * 10 + number)
        assert answers == {(place, number): [place * 10 + number] for place, number in answers}


@everywhere
async def test_who_is_not_connected_cannot_be_asked(farm_of: Opener) -> None:
    async with farm_of() as farm:
        await farm.connect()
        for lifetime in farm.lifetimes:
            with pytest.raises(ClientDisconnected, match=r"^Connection 'none' does not exist\.$"):
                await lifetime.invoke("none", "Result", (), int)


@everywhere
async def test_who_leaves_does_not_answer(farm_of: Opener) -> None:
    async with farm_of() as farm:
        for lifetime in farm.lifetimes:
            client = await farm.connect(node=0)
            answers: list[Any] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, lifetime, client.id, answers)
                await question(client)
                client.leave()
            (error,) = answers
            assert type(error) is ClientDisconnected
            assert str(error) == f"Connection '{client.id}' disconnected."


@everywhere
async def test_who_no_longer_wants_an_answer_can_be_cancelled(farm_of: Opener) -> None:
    async with farm_of() as farm:
        client = await farm.connect()
        for lifetime in farm.lifetimes:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(lifetime.invoke, client.id, "Result", ("test",), int)
                    late = await question(client)
                    scope.cancel()
            client.complete(late, result=2)
            answers: list[Any] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, lifetime, client.id, answers)
                client.complete(await question(client), result=3)
            assert answers == [3]


@everywhere
async def test_who_does_not_answer_in_time_has_not(farm_of: Opener) -> None:
    options = HubOptions(client_result_timeout=0.05)
    async with farm_of(options=options) as farm:
        client = await farm.connect()
        for lifetime in farm.lifetimes:
            answers: list[Any] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, lifetime, client.id, answers)
                await question(client)
            (error,) = answers
            assert type(error) is TimeoutError
            assert str(error) == "the client did not answer within 0.05 s"


# Nodes


@across
async def test_a_change_of_groups_that_no_node_makes_is_an_error(farm_of: Opener) -> None:
    async with farm_of(ack_timeout=0.05) as farm:
        for change in (farm.lifetimes[0].add_to_group, farm.lifetimes[1].remove_from_group):
            with pytest.raises(BackplaneError, match=r"'unknown' within 0\.05 s: it is not"):
                await change("unknown", "a")


@farms(1)
async def test_the_only_node_knows_that_nobody_else_changes_groups(farm_of: Opener) -> None:
    async with farm_of() as farm:
        await farm.lifetimes[0].add_to_group("unknown", "a")
        await farm.lifetimes[0].remove_from_group("unknown", "a")


@across
async def test_clients_of_this_node_are_served_while_the_engine_is_away(farm_of: Opener) -> None:
    async with farm_of() as farm:
        here, there = [await farm.connect(user="ada", node=node) for node in range(2)]
        assert farm.engine is not None
        await farm.engine.stop()
        for client, lifetime in zip((here, there), farm.lifetimes, strict=True):
            late = await farm.connect(user="ada", node=farm.lifetimes.index(lifetime))
            await lifetime.add_to_group(late.id, "a")
            for audience in (All(), Users(("ada",)), Groups(("a",)), Connections((late.id,))):
                await lifetime.send(audience, "Hello", ("you",))
                assert await late.called("Hello") == ["you"]
            for _ in range(2):
                assert await client.called("Hello") == ["you"]
            answers: list[Any] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, lifetime, late.id, answers)
                late.complete(await question(late), result=1)
            assert answers == [1]
            await farm.gone(late)
        await wait_all_tasks_blocked()
        assert here.idle
        assert there.idle


@across
async def test_what_needs_another_node_fails_at_once_while_the_engine_is_away(
    farm_of: Opener,
) -> None:
    async with farm_of() as farm:
        client = await farm.connect(node=0)
        assert farm.engine is not None
        await farm.engine.stop()
        lifetime = farm.lifetimes[1]
        with pytest.raises(BackplaneError):
            await lifetime.invoke(client.id, "Result", (), int)
        for change in (lifetime.add_to_group, lifetime.remove_from_group):
            with pytest.raises(BackplaneError):
                await change(client.id, "a")


@across
async def test_what_waits_for_another_node_ends_when_the_engine_goes(farm_of: Opener) -> None:
    async with farm_of() as farm:
        client = await farm.connect(node=0)
        answers: list[Any] = []
        assert farm.engine is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, farm.lifetimes[1], client.id, answers)
            await question(client)
            await farm.engine.stop()
        (error,) = answers
        assert type(error) is BackplaneError


@across
async def test_when_the_engine_is_back_everything_works_again(farm_of: Opener) -> None:
    async with farm_of() as farm:
        before = await farm.four()
        await farm.lifetimes[0].add_to_group(before[0].id, "a")
        await farm.lifetimes[0].add_to_group(before[1].id, "gone")
        assert farm.engine is not None
        await farm.engine.stop()
        on_node_1 = farm.lifetimes[1]
        await on_node_1.remove_from_group(before[1].id, "gone")
        meanwhile = await farm.connect(user="eve", node=1)
        await on_node_1.add_to_group(meanwhile.id, "a")
        await farm.engine.start()
        await farm.settle()
        clients = [*before, meanwhile]
        assert await farm.reached(All(), clients) == [1, 1, 1, 1, 1]
        assert await farm.reached(Groups(("a",)), clients) == [1, 0, 0, 0, 1]
        assert await farm.reached(Groups(("gone",)), clients) == [0] * 5
        assert await farm.reached(Users(("eve", "bob")), clients) == [0, 0, 1, 0, 1]
        assert await farm.reached(Connections((meanwhile.id,)), clients) == [0, 0, 0, 0, 1]


@across
async def test_what_was_sent_while_the_engine_was_away_is_lost_and_counted(
    farm_of: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    async with farm_of() as farm:
        here, there = [await farm.connect(node=node) for node in range(2)]
        assert farm.engine is not None
        await farm.engine.stop()
        for number in range(5):
            await farm.lifetimes[0].send(All(), "Number", (number,))
            assert await here.called("Number") == [number]
        await farm.engine.start()
        await farm.lifetimes[0].send(All(), "Number", (5,))
        assert await here.called("Number") == [5]
        assert await there.called("Number") == [5]
        await farm.settle()
        assert here.idle
        assert there.idle
        backplane = farm.nodes[0].backplane
        assert backplane is not None
        assert backplane.metrics.lost == {"away": 5}
        assert backplane.metrics.outages == 1
        assert caplog.text.count("Messages to other nodes are lost") == 1
        await farm.engine.stop()
        await farm.lifetimes[0].send(All(), "Number", (6,))
        assert caplog.text.count("Messages to other nodes are lost") == 2  # once an outage


@across
async def test_the_application_is_told_of_the_engine(farm_of: Opener) -> None:
    async with farm_of() as farm:
        backplane, engine = farm.nodes[0].backplane, farm.engine
        assert backplane is not None
        assert engine is not None
        states: list[tuple[bool, bool]] = []
        backplane.listen(lambda each: states.append((each.connected, each.away is None)))
        await engine.stop()
        await engine.start()
        assert states[0] == (False, False)
        assert states[-1] == (True, True)
        assert backplane.connected
