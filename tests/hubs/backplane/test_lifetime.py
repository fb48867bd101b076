"""What a lifetime does with a backplane beyond the contract: what it subscribes to, what it makes
of other peers' messages, and that nothing is left of what was cancelled."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from echo.hubs import ClientDisconnected, Hub, HubError
from echo.hubs.backplane import Backplane, MemoryBackplane, ScaleoutLifetime, wire
from echo.hubs.backplane.wire import ADD, GroupCommand
from echo.hubs.lifetime import All, Connections, Groups, Users
from echo.hubs.messages import Completion, Invocation
from echo.hubs.protocol import HubProtocol
from tests.hubs.backplane.farm import NAME, Farm, MemoryEngine, memory, open_farm
from tests.hubs.backplane.test_contract import ask, question
from tests.hubs.backplane.test_wire import MALFORMED
from tests.hubs.memory import serving
from tests.hubs.support import JSON, MESSAGEPACK, note_encodings

CHANNELS = wire.Channels(NAME)


@asynccontextmanager
async def farm_and_outsider(size: int) -> AsyncIterator[tuple[Farm, Backplane]]:
    """A farm, and a backplane that is no node of its."""

    @asynccontextmanager
    async def opened(size: int) -> AsyncIterator[MemoryEngine]:
        async with memory(size + 1) as engine:
            outsiders.append(engine.backplanes.pop())
            yield engine

    outsiders: list[MemoryBackplane] = []
    async with open_farm(opened, size) as farm:
        yield farm, outsiders[0]


def engine_of(farm: Farm) -> MemoryEngine:
    assert isinstance(farm.engine, MemoryEngine)
    return farm.engine


def call(*arguments: object, target: str = "Hello", excluded: tuple[str, ...] = ()) -> bytes:
    """A call as another server publishes it."""
    message = Invocation(target=target, arguments=arguments)
    return wire.encode_call({"json": JSON.encode(message)}, excluded)


# Channels


async def test_a_node_has_channels_for_those_who_are_here() -> None:
    async with open_farm(memory, 2) as farm:
        (backplane, other) = engine_of(farm).backplanes
        (lifetime, _) = farm.lifetimes
        assert isinstance(lifetime, ScaleoutLifetime)
        own = {
            f"{NAME}:all",
            f"{NAME}:internal:groups",
            f"{NAME}:internal:ack:{lifetime.node}",
            f"{NAME}:internal:return:{lifetime.node}",
        }
        assert set(backplane.channels) == own
        ada, eve = [await farm.connect(user="ada", node=0) for _ in range(2)]
        await lifetime.add_to_group(ada.id, "a")
        await lifetime.add_to_group(eve.id, "a")
        await lifetime.add_to_group(eve.id, "b")
        connections = {f"{NAME}:connection:{each.id}" for each in (ada, eve)}
        rest = {f"{NAME}:user:ada", f"{NAME}:group:a", f"{NAME}:group:b"}
        assert set(backplane.channels) == own | connections | rest
        await farm.settle()
        assert backplane.active == own | connections | rest
        await lifetime.remove_from_group(eve.id, "b")
        await farm.gone(ada)
        rest = {f"{NAME}:connection:{eve.id}", f"{NAME}:user:ada", f"{NAME}:group:a"}
        assert set(backplane.channels) == own | rest
        await farm.gone(eve)
        await farm.settle()
        assert set(backplane.channels) == backplane.active == own
        assert len(set(other.channels)) == 4


async def test_nodes_have_names_of_their_own() -> None:
    async with open_farm(memory, 3) as farm:
        assert (
            len({each.node for each in farm.lifetimes if isinstance(each, ScaleoutLifetime)}) == 3
        )


async def test_hubs_share_a_backplane_under_different_names() -> None:
    async with memory(1) as engine:
        (backplane,) = engine.backplanes
        lifetimes = [ScaleoutLifetime(backplane, name) for name in ("one", "two")]
        with pytest.raises(
            ValueError, match="two hubs of one backplane have the channel 'one:all'"
        ):
            ScaleoutLifetime(backplane, "one")
        async with (
            serving(Hub, lifetime=lifetimes[0]) as one,
            serving(Hub, lifetime=lifetimes[1]) as two,
        ):
            clients = [await one.connect(), await two.connect()]
            await lifetimes[0].send(All(), "Hello", ())
            assert await clients[0].called("Hello") == []
            await wait_all_tasks_blocked()
            assert clients[1].idle


async def test_a_client_of_this_node_is_called_without_the_backplane() -> None:
    async with open_farm(memory, 2) as farm:
        client = await farm.connect(node=0)
        published = engine_of(farm).backplanes[0].metrics.published
        await farm.lifetimes[0].send(Connections((client.id,)), "Hello", ())
        assert await client.called("Hello") == []
        await wait_all_tasks_blocked()
        assert engine_of(farm).backplanes[0].metrics.published == published


# Efficiency


async def test_a_call_is_encoded_once_for_each_protocol_on_all_nodes_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded = note_encodings(monkeypatch)
    async with open_farm(memory, 2) as farm:
        clients = await farm.four() + await farm.four()
        encoded.clear()
        await farm.lifetimes[0].send(All(), "Hello", ("World", 1))
        for client in clients:
            assert await client.called("Hello") == ["World", 1]
        assert sorted(encoded) == ["json", "messagepack"]


async def test_clients_get_the_very_bytes_that_were_published() -> None:
    async with farm_and_outsider(1) as (farm, outsider):
        client = await farm.connect()
        form = b' {"target":"Hello","later":{"x":[1, 2]}, "type":1,"arguments":[1.50]}\x1e'
        outsider.publish(CHANNELS.all, wire.encode_call({"json": form, "other": b"?"}))
        assert await client.read_raw() == form


# Other peers


async def test_what_others_publish_reaches_the_clients_of_all_nodes() -> None:
    async with farm_and_outsider(2) as (farm, outsider):
        clients = await farm.four()
        await farm.lifetimes[0].add_to_group(clients[1].id, "a")
        await farm.lifetimes[0].add_to_group(clients[2].id, "a")
        for channel, who in (
            (CHANNELS.all, [1, 1, 1, 1]),
            (CHANNELS.group + "a", [0, 1, 1, 0]),
            (CHANNELS.user + "ada", [1, 1, 0, 0]),
            (CHANNELS.connection + clients[3].id, [0, 0, 0, 1]),
        ):
            outsider.publish(channel, call("World", 1.5, {"ü": None}))
            await wait_all_tasks_blocked()
            for client, times in zip(clients, who, strict=True):
                for _ in range(times):  # a form that did not come is made
                    assert await client.called("Hello") == ["World", 1.5, {"ü": None}]
                assert client.idle
        for channel, who in (
            (CHANNELS.all, [0, 1, 1, 1]),
            (CHANNELS.group + "a", [0, 1, 1, 0]),
        ):
            outsider.publish(channel, call(excluded=(clients[0].id, "unknown")))
            await wait_all_tasks_blocked()
            assert [not client.idle for client in clients] == [bool(each) for each in who]
            for client, times in zip(clients, who, strict=True):
                if times:
                    assert await client.called("Hello") == []


async def test_what_is_published_has_the_layout_of_dotnet() -> None:
    async with farm_and_outsider(1) as (farm, outsider):
        heard: list[tuple[str, Any]] = []

        def hear(channel: str, data: bytes) -> None:
            heard.append((channel, msgspec.msgpack.decode(data)))

        group, user, other = CHANNELS.group + "a", CHANNELS.user + "ada", CHANNELS.connection + "x"
        outsider.subscribe([CHANNELS.all, group, user, other], hear)
        await outsider.subscribed([CHANNELS.all, group, user, other])
        (lifetime,) = farm.lifetimes
        assert isinstance(lifetime, ScaleoutLifetime)
        message = Invocation(target="Hello", arguments=(1,))
        forms = {"json": JSON.encode(message), "messagepack": MESSAGEPACK.encode(message)}
        for audience, channel, excluded in (
            (All(), CHANNELS.all, [lifetime.node]),
            (All(frozenset(("x",))), CHANNELS.all, [lifetime.node, "x"]),
            (Groups(("a",)), group, [lifetime.node]),
            (Groups(("a",), frozenset(("x",))), group, [lifetime.node, "x"]),
            (Users(("ada",)), user, [lifetime.node]),
            (Connections(("x",)), other, []),
        ):
            await lifetime.send(audience, "Hello", (1,))
            await wait_all_tasks_blocked()
            assert heard.pop() == (channel, [excluded, forms])


async def test_other_servers_ask_clients_of_ours() -> None:
    async with farm_and_outsider(1) as (farm, outsider):
        returns = CHANNELS.returns + "other"
        results: list[tuple[Completion, HubProtocol]] = []
        outsider.subscribe([returns], lambda _, data: results.append(wire.decode_result(data)))
        await outsider.subscribed([returns])

        def asked(id: str, protocol: HubProtocol) -> bytes:
            message = Invocation(invocation_id=id, target="Result", arguments=["test"])
            return wire.encode_call({protocol.name: protocol.encode(message)}, (), id, returns)

        for protocol in (JSON, MESSAGEPACK):
            client = await farm.connect(protocol)
            channel = CHANNELS.connection + client.id
            outsider.publish(channel, asked("1", protocol))
            assert await question(client) == "1"
            client.complete("1", result=[10])
            await wait_all_tasks_blocked()
            completion, spoken = results.pop()
            assert (completion.invocation_id, spoken.name) == ("1", protocol.name)
            assert protocol.decoder(Any)(completion.result) == [10]  # type: ignore[arg-type]
            outsider.publish(channel, asked("2", protocol))
            assert await question(client) == "2"
            client.leave()
            await client.served.wait()
            await wait_all_tasks_blocked()
            assert results.pop()[0] == Completion(
                invocation_id="2", error="Connection disconnected."
            )


async def test_other_servers_answer_ours() -> None:
    async with farm_and_outsider(1) as (farm, outsider):
        calls: list[wire.HubCall] = []
        channel = CHANNELS.connection + "theirs"
        outsider.subscribe([channel], lambda _, data: calls.append(wire.decode_call(data)))
        await outsider.subscribed([channel])
        (lifetime,) = farm.lifetimes
        for error, expected in (
            (None, [1]),
            ("no", HubError("no")),
            ("Connection disconnected.", ClientDisconnected("Connection 'theirs' disconnected.")),
        ):
            answers: list[Any] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, lifetime, "theirs", answers, list)
                await wait_all_tasks_blocked()
                asked = calls.pop()
                assert asked.invocation_id
                assert asked.return_channel is not None
                assert asked.return_channel.startswith(CHANNELS.returns)
                id = asked.invocation_id
                done = Completion(invocation_id=id, error=error)
                if error is None:
                    done = Completion(invocation_id=id, result=[1])
                data = wire.encode_result("messagepack", MESSAGEPACK.encode(done))
                for _ in range(2):  # the second is too late
                    outsider.publish(asked.return_channel, data)
            assert repr(answers) == repr([expected])


async def test_malformed_messages_disturb_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async with farm_and_outsider(2) as (farm, outsider):
        clients = await farm.four()
        lifetime = farm.lifetimes[0]
        assert isinstance(lifetime, ScaleoutLifetime)
        await lifetime.add_to_group(clients[0].id, "a")
        id = clients[0].id
        channels = [
            *(CHANNELS.all, CHANNELS.groups, CHANNELS.group + "a", CHANNELS.user + "ada"),
            *(CHANNELS.connection + id, CHANNELS.ack + lifetime.node),
            CHANNELS.returns + lifetime.node,
        ]
        question = Invocation(invocation_id="1", target="a", arguments=())
        forms = {"json": JSON.encode(question)}
        wrong = [
            *MALFORMED,
            wire.encode_call({}),
            wire.encode_call({"other": b"x"}),
            wire.encode_call({"json": b"x", "messagepack": b"x"}),
            wire.encode_call({"json": JSON.encode(Completion(invocation_id="1"))}),
            wire.encode_call({"json": b'{"type":1,"target":"a","arguments":["\xff"]}\x1e'}),
            wire.encode_call(forms, (), "1", "elsewhere"),
        ]
        for channel in channels:
            for data in wrong:
                outsider.publish(channel, data)
                await wait_all_tasks_blocked()
        counts = [each.metrics.malformed for each in engine_of(farm).backplanes]
        assert all(count >= 3 * len(MALFORMED) for count in counts)
        text = caplog.text
        assert text.count("Malformed messages are ignored") == 2  # once a node
        assert "Traceback" not in text
        for client in clients:
            while not client.idle:  # the question that was addressed to nobody
                message = await client.next()
                assert message == Invocation(invocation_id="1", target="a", arguments=[])
        assert await farm.reached(All(), clients) == [1, 1, 1, 1]
        assert await farm.reached(Groups(("a",)), clients) == [1, 0, 0, 0]


async def test_questions_that_a_client_never_answers_are_limited() -> None:
    async with farm_and_outsider(1) as (farm, outsider):
        returns = CHANNELS.returns + "other"
        results: list[Completion] = []
        outsider.subscribe([returns], lambda _, data: results.append(wire.decode_result(data)[0]))
        await outsider.subscribed([returns])
        client = await farm.connect()
        local: list[Any] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, farm.lifetimes[0], client.id, local)
            mine = await question(client)
            for number in range(1100):
                asked = Invocation(invocation_id=f"q{number}", target="Q", arguments=())
                forms = {"json": JSON.encode(asked)}
                data = wire.encode_call(forms, (), f"q{number}", returns)
                outsider.publish(CHANNELS.connection + client.id, data)
                assert await client.called("Q") == []
            await wait_all_tasks_blocked()
            (connection,) = farm.nodes[0].service.server.connections
            assert len(connection.answers) == 1000
            assert [each.error for each in results] == ["The client did not answer."] * 101
            assert results[0].invocation_id == "q0"
            client.complete(mine, result=1)
        assert local == [1]


async def test_clients_are_asked_for_nodes_only() -> None:
    """Not to have us publish just anywhere."""
    async with farm_and_outsider(1) as (farm, outsider):
        heard: list[bytes] = []
        outsider.subscribe(["elsewhere"], lambda _, data: heard.append(data))
        await outsider.subscribed(["elsewhere"])
        client = await farm.connect()
        asked = Invocation(invocation_id="1", target="a", arguments=())
        data = wire.encode_call({"json": JSON.encode(asked)}, (), "1", "elsewhere")
        for id in (client.id, "unknown"):
            engine_of(farm).backplanes[0].received(CHANNELS.connection + id, data)
        await wait_all_tasks_blocked()
        assert client.idle
        assert not heard
        assert engine_of(farm).backplanes[0].metrics.malformed == 2


async def test_who_has_just_left_is_gone_for_those_who_ask() -> None:
    async with farm_and_outsider(1) as (farm, outsider):
        returns = CHANNELS.returns + "other"
        results: list[Completion] = []
        outsider.subscribe([returns], lambda _, data: results.append(wire.decode_result(data)[0]))
        await outsider.subscribed([returns])
        asked = Invocation(invocation_id="1", target="a", arguments=())
        data = wire.encode_call({"json": JSON.encode(asked)}, (), "1", returns)
        engine_of(farm).backplanes[0].received(CHANNELS.connection + "left", data)
        await wait_all_tasks_blocked()
        assert results == [Completion(invocation_id="1", error="Connection disconnected.")]


# Concurrency and cancellation


@pytest.mark.parametrize("seed", range(5))
async def test_who_comes_and_goes_at_once_leaves_the_subscriptions_right(seed: int) -> None:
    chance = random.Random(seed)
    async with open_farm(memory, 2) as farm:
        clients = [await farm.connect(user="u", node=0) for _ in range(6)]
        groups = ["a", "b"]
        members: dict[tuple[str, str], bool] = {}

        async def one(id: str, group: str) -> None:
            """Changes of one client's group, one after the other, some cancelled."""
            for _ in range(30):
                lifetime = chance.choice(farm.lifetimes)
                into = chance.random() < 0.5
                change = lifetime.add_to_group if into else lifetime.remove_from_group
                scope = trio.CancelScope()
                if chance.random() < 0.2 and lifetime is farm.lifetimes[0]:
                    scope.cancel()
                with scope:
                    await change(id, group)
                    members[id, group] = into

        async with trio.open_nursery() as nursery:
            for client in clients:
                for group in groups:
                    nursery.start_soon(one, client.id, group)
        await farm.settle()
        expected = {
            group: [int(members.get((each.id, group), False)) for each in clients]
            for group in groups
        }
        backplane = engine_of(farm).backplanes[0]
        for group in groups:
            found = await farm.reached(Groups((group,)), clients)
            assert found == expected[group]
            assert backplane.wants(CHANNELS.group + group) == any(found)
        assert backplane.active == set(backplane.channels)


async def test_nothing_is_left_of_a_join_that_is_cancelled() -> None:
    async with open_farm(memory, 2) as farm:
        engine = engine_of(farm)
        engine.exchange.freeze()
        joining = [
            farm.nodes[0].service.open(user=None),
            farm.nodes[0].service.open(JSON),
        ]
        async with trio.open_nursery() as nursery:
            client = farm.nodes[0].service.open(nursery=nursery)
            for each in (*joining, client):
                each.shake_hands()
            await wait_all_tasks_blocked()
            backplane = engine.backplanes[0]
            assert len(set(backplane.channels)) == 7
            nursery.cancel_scope.cancel()
        assert len(set(backplane.channels)) == 6
        engine.exchange.thaw()
        for each in joining:
            await farm.gone(each)
        await farm.settle()
        assert len(set(backplane.channels)) == len(backplane.active) == 4


async def test_who_is_cancelled_while_joining_a_group_is_not_in_it() -> None:
    async with open_farm(memory, 2) as farm:
        ada, eve = [await farm.connect(node=0) for _ in range(2)]
        lifetime = farm.lifetimes[0]
        engine = engine_of(farm)
        backplane = engine.backplanes[0]

        async def add(id: str, scope: trio.CancelScope) -> None:
            with scope:
                await lifetime.add_to_group(id, "a")

        engine.exchange.freeze()
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(add, ada.id, scope)
            await wait_all_tasks_blocked()
            assert backplane.wants(CHANNELS.group + "a")
            scope.cancel()
        assert not backplane.wants(CHANNELS.group + "a")
        # Another that joins at the same time stays; so does the same, if two wanted it.
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(add, ada.id, scope)
            await wait_all_tasks_blocked()
            nursery.start_soon(lifetime.add_to_group, ada.id, "a")
            nursery.start_soon(lifetime.add_to_group, eve.id, "a")
            await wait_all_tasks_blocked()
            scope.cancel()
            await wait_all_tasks_blocked()
            engine.exchange.thaw()
        assert await farm.reached(Groups(("a",)), [ada, eve]) == [1, 1]


async def test_a_group_changes_from_elsewhere_while_its_client_joins() -> None:
    async with farm_and_outsider(1) as (farm, outsider):
        acks: list[int] = []
        channel = CHANNELS.ack + "other"
        outsider.subscribe([channel], lambda _, data: acks.append(wire.decode_ack(data)))
        await outsider.subscribed([channel])
        engine = engine_of(farm)
        engine.exchange.freeze()
        client = farm.nodes[0].service.open()
        client.shake_hands()
        assert await client.read_raw() == b"{}\x1e"
        await wait_all_tasks_blocked()
        command = wire.encode_command(GroupCommand(7, "other", ADD, "a", client.id))
        engine.backplanes[0].received(CHANNELS.groups, command)
        engine.exchange.thaw()
        await farm.settle()
        assert acks == [7]
        assert await farm.reached(Groups(("a",)), [client]) == [1]


async def test_a_change_of_a_group_is_acknowledged_once_it_is_subscribed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with farm_and_outsider(1) as (farm, outsider):
        client = await farm.connect()
        confirmed = trio.Event()
        acks: list[int] = []

        async def subscribed(channels: object) -> None:
            assert channels == (CHANNELS.group + "a",)
            await confirmed.wait()

        channel = CHANNELS.ack + "other"
        outsider.subscribe([channel], lambda _, data: acks.append(wire.decode_ack(data)))
        await outsider.subscribed([channel])
        monkeypatch.setattr(engine_of(farm).backplanes[0], "subscribed", subscribed)
        command = GroupCommand(7, "other", ADD, "a", client.id)
        outsider.publish(CHANNELS.groups, wire.encode_command(command))
        await wait_all_tasks_blocked()
        assert engine_of(farm).backplanes[0].wants(CHANNELS.group + "a")
        assert not acks
        confirmed.set()
        await wait_all_tasks_blocked()
        assert acks == [7]


async def test_who_leaves_while_its_group_changes_leaves_nobody_waiting() -> None:
    async with farm_and_outsider(1) as (farm, outsider):
        client = await farm.connect()
        engine = engine_of(farm)
        acks: list[int] = []
        channel = CHANNELS.ack + "other"
        outsider.subscribe([channel], lambda _, data: acks.append(wire.decode_ack(data)))
        await outsider.subscribed([channel])
        engine.exchange.freeze()
        command = wire.encode_command(GroupCommand(7, "other", ADD, "a", client.id))
        engine.backplanes[0].received(CHANNELS.groups, command)
        await wait_all_tasks_blocked()
        await farm.gone(client)
        engine.exchange.thaw()
        await farm.settle()
        assert acks == [7]
        assert len(engine.backplanes[0].active) == 4


# A slow engine


async def test_who_sends_waits_for_room_before_anybody_is_called() -> None:
    engine = MemoryEngine(1)
    backplane = MemoryBackplane(engine.exchange, capacity=4)
    engine.backplanes = [backplane]

    @asynccontextmanager
    async def opened(size: int) -> AsyncIterator[MemoryEngine]:
        async with trio.open_nursery() as nursery:
            await nursery.start(backplane.run)
            yield engine
            nursery.cancel_scope.cancel()

    async with open_farm(opened, 1) as farm:
        client = await farm.connect()
        (lifetime,) = farm.lifetimes
        engine.exchange.freeze()
        for number in range(3):
            await lifetime.send(All(), "Number", (number,))
            assert await client.called("Number") == [number]
        assert backplane.crowded
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lifetime.send, All(), "Number", (3,))
                await wait_all_tasks_blocked()
                scope.cancel()
        assert client.idle
        async with trio.open_nursery() as nursery:
            many = Users(tuple(map(str, range(50))))
            nursery.start_soon(lifetime.send, many, "Number", (4,))
            await wait_all_tasks_blocked()
            engine.exchange.thaw()
        await farm.settle()
        assert not backplane.metrics.lost


async def test_a_slow_engine_costs_messages_that_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = MemoryEngine(1)
    backplane = MemoryBackplane(engine.exchange, capacity=4, time_limit=0.01)
    caplog.set_level(logging.WARNING)
    async with trio.open_nursery() as nursery:
        await nursery.start(backplane.run)
        lifetime = ScaleoutLifetime(backplane, NAME)
        async with serving(Hub, lifetime=lifetime) as service:
            client = await service.connect()
            await wait_all_tasks_blocked()
            engine.exchange.freeze()
            send = partial(lifetime.send, All(), "Number")
            for number in range(10):
                await send((number,))
                assert await client.called("Number") == [number]
            assert backplane.metrics.lost == {"full": 6}
            assert caplog.text.count("the queue of the backplane is full") == 1
        nursery.cancel_scope.cancel()
