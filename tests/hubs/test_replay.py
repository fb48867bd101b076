"""Stateful reconnect: nothing is lost, nothing comes twice."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from echo.hubs import Hub, HubOptions, ProtocolError
from echo.hubs.messages import (
    PING,
    Ack,
    CancelInvocation,
    Close,
    Completion,
    Invocation,
    Message,
    Ping,
    Sequence,
    StreamInvocation,
    StreamItem,
)
from echo.hubs.protocol import HubProtocol
from echo.hubs.replay import Replay
from tests.hubs.memory import Client, serving
from tests.hubs.support import PROTOCOLS

each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda each: each.name)

NUMBERED: list[Message] = [
    Invocation(target="t", arguments=()),
    StreamInvocation(invocation_id="1", target="t", arguments=()),
    StreamItem(invocation_id="1", item=None),
    Completion(invocation_id="1"),
    CancelInvocation(invocation_id="1"),
]
UNNUMBERED: list[Message] = [PING, Close(), Ack(sequence_id=1), Sequence(sequence_id=1)]


# Numbers


def test_what_is_sent_is_kept_until_it_is_acknowledged() -> None:
    replay = Replay()
    assert replay.resumed() == (1, [])
    for data in (b"one", b"two", b"three"):
        replay.sent(data)
    assert replay.size == 11
    assert replay.resumed() == (1, [b"one", b"two", b"three"])
    replay.acknowledged(2)
    assert replay.size == 5
    assert replay.resumed() == (3, [b"three"])
    replay.acknowledged(3)
    assert replay.size == 0
    assert replay.resumed() == (4, [])


def test_an_ack_that_comes_late_twice_or_from_the_future_does_no_harm() -> None:
    replay = Replay()
    for data in (b"one", b"two", b"three"):
        replay.sent(data)
    replay.acknowledged(2)
    for number in (2, 1, 0, -7):
        replay.acknowledged(number)
        assert replay.resumed() == (3, [b"three"])
    replay.acknowledged(1000)
    assert replay.resumed() == (4, [])
    replay.sent(b"four")
    assert replay.resumed() == (4, [b"four"])


def test_messages_that_come_again_are_not_new() -> None:
    replay = Replay()
    assert [replay.is_new(NUMBERED[0]) for _ in range(3)] == [True] * 3
    replay.sequence(2)
    assert [replay.is_new(NUMBERED[0]) for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("message", NUMBERED, ids=lambda each: type(each).__name__)
def test_what_belongs_to_calls_and_streams_has_a_number(message: Message) -> None:
    replay = Replay()
    assert replay.is_new(message)
    replay.sequence(1)
    assert not replay.is_new(message)


@pytest.mark.parametrize("message", UNNUMBERED, ids=lambda each: type(each).__name__)
def test_nothing_else_has_one(message: Message) -> None:
    replay = Replay()
    assert replay.is_new(message)
    replay.sequence(1)
    assert replay.is_new(message)
    assert replay.ack() is None


def test_a_sequence_that_would_leave_a_gap_is_an_error() -> None:
    replay = Replay()
    replay.is_new(NUMBERED[0])
    replay.sequence(2)
    with pytest.raises(ProtocolError, match="Sequence ID greater than amount of messages"):
        replay.sequence(3)


def test_a_link_that_breaks_while_messages_are_repeated_leaves_no_gap() -> None:
    replay = Replay()
    for _ in range(5):
        replay.is_new(NUMBERED[0])
    replay.sequence(1)
    assert not replay.is_new(NUMBERED[0])
    assert replay.ack() == 5
    replay.sequence(6)  # the ack has come, the other repetitions have not
    assert replay.is_new(NUMBERED[0])


def test_an_ack_is_due_once_for_what_is_new_and_again_for_what_came_again() -> None:
    replay = Replay()
    assert replay.ack() is None
    for _ in range(3):
        replay.is_new(NUMBERED[0])
    assert replay.ack() == 3
    assert replay.ack() is None
    replay.sequence(2)
    replay.is_new(NUMBERED[0])
    assert replay.ack() is None  # the last one has still to come
    replay.is_new(NUMBERED[0])
    assert replay.ack() == 3
    assert replay.ack() is None


def exchange(chance: random.Random) -> tuple[Replay, list[int]]:
    """Send some messages over links that break; returns the sender, and what has arrived."""
    sender, receiver = Replay(), Replay()
    wire: list[bytes] = []
    arrived: list[int] = []
    to_send = list(range(chance.randrange(60)))
    while to_send or wire:
        match chance.randrange(4):
            case 0 if to_send:
                wire.append(str(to_send.pop(0)).encode())
                sender.sent(wire[-1])
            case 1:
                for _ in range(chance.randrange(len(wire) + 1)):
                    data = wire.pop(0)
                    if receiver.is_new(NUMBERED[0]):
                        arrived.append(int(data))
            case 2:
                number = receiver.ack()
                if number is not None and chance.random() < 0.5:  # or it is lost
                    sender.acknowledged(number)
            case 3:  # the link breaks, and all that is under way with it
                number, wire = sender.resumed()
                receiver.sequence(number)
    return sender, arrived


@pytest.mark.parametrize("seed", range(20))
def test_over_links_that_break_each_message_arrives_once_and_in_order(seed: int) -> None:
    for part in range(20):
        sender, arrived = exchange(random.Random(20 * seed + part))
        number, _ = sender.resumed()
        assert arrived == list(range(len(arrived)))
        assert number <= len(arrived) + 1
        sender.acknowledged(len(arrived))
        assert sender.resumed() == (len(arrived) + 1, [])


# With a hub


class Counter(Hub):
    calls: list[int]

    async def count(self, number: int) -> int:
        self.calls.append(number)
        return number

    async def numbers(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            await trio.sleep(0.1)
            yield number

    async def letters(self, count: int) -> AsyncIterator[str]:
        for _ in range(count):
            yield "x" * 1000

    def tell(self, text: str) -> str:
        return text


@pytest.fixture
def counter() -> type[Counter]:
    class Fresh(Counter):
        calls = []  # noqa: RUF012

    return Fresh


async def resume(client: Client, number: int) -> int:
    """Reconnect, going on with this number; returns the number the server goes on with."""
    client._parser = client.protocol.parser(1 << 26)
    client._messages.clear()
    client.link.find_transport()
    while not client.link.connected:
        await wait_all_tasks_blocked()
    client.send(Sequence(sequence_id=number))
    return (await client.expect(Sequence)).sequence_id


@each_protocol
async def test_a_client_that_comes_back_gets_what_it_missed(
    protocol: HubProtocol, counter: type[Counter]
) -> None:
    async with serving(counter) as service:
        client = await service.connect(protocol, stateful=True)
        assert await client.result("tell", "one") == "one"
        client.send(Ack(sequence_id=1))
        assert await client.result("tell", "two") == "two"
        client.link.lose_transport()
        hub = service.server.context
        await hub.clients.all.send("Missed", 1)
        await hub.clients.all.send("Missed", 2)
        assert await resume(client, 3) == 2
        assert (await client.expect(Completion)).result == "two"  # again: not acknowledged
        assert await client.called("Missed") == [1]
        assert await client.called("Missed") == [2]
        assert await client.result("tell", "three") == "three"
        assert service.server.metrics.resumed == 1


async def test_a_client_that_acknowledged_everything_gets_the_next_number(
    counter: type[Counter],
) -> None:
    async with serving(counter) as service:
        client = await service.connect(stateful=True)
        assert await resume(client, 1) == 1
        assert await client.result("tell", "one") == "one"
        client.send(Ack(sequence_id=1))
        await wait_all_tasks_blocked()
        client.link.lose_transport()
        assert await resume(client, 2) == 2
        assert await client.result("tell", "two") == "two"


async def test_what_a_client_sends_again_is_not_done_again(counter: type[Counter]) -> None:
    async with serving(counter) as service:
        client = await service.connect(stateful=True)
        for number in range(3):
            await client.result("count", number)
        client.link.lose_transport()
        assert await resume(client, 2) == 1
        for number in range(3):
            assert (await client.expect(Completion)).result == number
        for number in (1, 2, 3):
            client.call("count", number)
        assert (await client.expect(Completion)).result == 3
        assert counter.calls == [0, 1, 2, 3]


async def test_half_a_message_of_the_old_transport_is_forgotten(counter: type[Counter]) -> None:
    async with serving(counter) as service:
        client = await service.connect(stateful=True)
        client.send_raw(b'{"type":1,"invocationId":"1","target":"cou')
        await wait_all_tasks_blocked()
        client.link.lose_transport()
        assert await resume(client, 1) == 1
        assert await client.result("count", 7) == 7


async def test_a_stream_goes_on_over_the_gap(
    counter: type[Counter], autojump_clock: MockClock
) -> None:
    async with serving(counter, seconds=1000) as service:
        client = await service.connect(stateful=True)
        id = client.call_stream("numbers", 20)
        items = [(await client.expect(StreamItem)).item for _ in range(5)]
        client.link.lose_transport()
        await trio.sleep(1)
        assert await resume(client, 2) == 1
        assert [(await client.expect(StreamItem)).item for _ in range(5)] == items
        while isinstance(message := await client.expect(object), StreamItem | Ack):
            if isinstance(message, StreamItem):
                items.append(message.item)
        assert items == list(range(20))
        assert isinstance(message, Completion)
        assert message.invocation_id == id


async def test_a_gap_in_what_the_client_sends_ends_the_connection(counter: type[Counter]) -> None:
    async with serving(counter, HubOptions(detailed_errors=True)) as service:
        client = await service.connect(stateful=True)
        client.link.lose_transport()
        await resume(client, 5)
        close = await client.closed()
        assert str(close.error).endswith(
            "InvalidDataException: Sequence ID greater than amount of messages we've received."
        )


async def test_what_came_is_acknowledged_every_second(
    counter: type[Counter], autojump_clock: MockClock
) -> None:
    options = HubOptions(keep_alive_interval=1000)
    async with serving(counter, options, seconds=1000) as service:
        client = await service.connect(stateful=True)
        start = trio.current_time()
        for number in range(3):
            assert await client.result("count", number) == number
        assert await client.next() == Ack(sequence_id=3)
        assert trio.current_time() - start == 1
        await trio.sleep(100)
        assert client.idle  # nothing came, nothing to acknowledge
        client.ping()
        assert await client.result("count", 3) == 3
        assert await client.next() == Ack(sequence_id=4)
        assert trio.current_time() - start == 102


async def test_a_client_of_an_old_version_is_not_followed(counter: type[Counter]) -> None:
    async with serving(counter) as service:
        client = service.open(stateful=True)
        client.shake_hands(1)
        await client.read_raw()
        assert not client.link.stateful
        (connection,) = service.server.connections
        assert connection.replay is None


async def test_a_stream_waits_for_acknowledgements_but_not_for_ever(
    counter: type[Counter], autojump_clock: MockClock
) -> None:
    options = HubOptions(replay_size=5000, keep_alive_interval=1000)
    async with serving(counter, options, seconds=1000) as service:
        client = await service.connect(stateful=True)
        client.call_stream("letters", 20)
        start = trio.current_time()
        read = itertools.count(1)

        async def take(count: int) -> None:
            for _ in range(count):
                assert isinstance(await client.expect(StreamItem), StreamItem)
                next(read)

        await take(5)
        await wait_all_tasks_blocked()
        assert client.idle
        assert trio.current_time() == start
        client.send(Ack(sequence_id=5))
        await take(5)
        assert trio.current_time() == start
        while isinstance(await client.next(), Ack | Ping):
            pass
        assert trio.current_time() - start == options.replay_timeout


async def test_a_client_that_never_acknowledges_is_dropped(
    counter: type[Counter], autojump_clock: MockClock
) -> None:
    options = HubOptions(replay_size=2000, outbox_size=10_000, keep_alive_interval=1000)
    async with serving(counter, options, seconds=1000) as service:
        client = await service.connect(stateful=True)
        for _ in range(20):
            await service.server.context.clients.all.send("Mail", "x" * 1000)
            if not client.link.ended:
                assert await client.called("Mail") == ["x" * 1000]
        await client.served.wait()
        assert service.server.metrics.ends == {"SlowClient": 1}


async def test_a_goodbye_is_the_end_of_a_stateful_link_too(counter: type[Counter]) -> None:
    async with serving(counter) as service:
        client = await service.connect(stateful=True)
        client.send(Close())
        assert await client.closed() == Close()
        assert client.link.ended


async def test_a_client_result_survives_the_gap(counter: type[Counter]) -> None:
    answers: list[Any] = []

    class Asking(Hub):
        async def ask(self) -> None:
            answers.append(await self.clients.caller.invoke("question", returns=str))

    async with serving(Asking) as service:
        client = await service.connect(stateful=True)
        client.call("ask")
        assert await client.called("question") == []
        client.link.lose_transport()
        assert await resume(client, 2) == 1
        assert await client.called("question") == []
        client.complete("s1", result="still here")
        assert (await client.expect(Completion)).error is None
        assert answers == ["still here"]
