"""What a hub bounds: each limit, its default, and what becomes of who goes beyond it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from echo.hubs import Hub, HubOptions, ProtocolError, SlowClient
from echo.hubs.messages import Completion, Invocation
from echo.hubs.protocol import HubProtocol
from tests.hubs.memory import serving
from tests.hubs.support import JSON, PROTOCOLS

each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda each: each.name)


class Echo(Hub):
    errors: list[Any]

    async def on_disconnected(self, error: Exception | None) -> None:
        self.errors.append(error)

    def echo(self, text: str) -> str:
        return text

    def repeat(self, text: str, times: int) -> str:
        return text * times

    async def collect(self, items: AsyncIterator[str]) -> int:
        await trio.sleep(1)
        return sum([len(item) async for item in items])


@pytest.fixture
def echo() -> type[Echo]:
    class Fresh(Echo):
        errors = []  # noqa: RUF012

    return Fresh


def test_the_defaults_are_signalrs() -> None:
    options = HubOptions()
    assert not options.detailed_errors
    assert options.protocols == ("json", "messagepack")
    assert options.handshake_timeout == 15
    assert options.keep_alive_interval == 15
    assert options.client_timeout == 30
    assert options.max_message_size == 32_768
    assert options.parallel_invocations == 1
    assert options.stream_capacity == 10
    assert options.replay_size == 100_000


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("handshake_timeout", 0, "must be a positive number of seconds, not 0"),
        ("keep_alive_interval", None, "must be a positive number of seconds, not None"),
        ("client_timeout", float("inf"), "must be a positive number of seconds, not inf"),
        ("replay_timeout", "5", "must be a positive number of seconds, not '5'"),
        ("client_result_timeout", -1, "a positive number of seconds, or None for no limit, not -1"),
        ("max_message_size", 0, "must be a whole number of at least 1 (bytes), not 0"),
        ("parallel_invocations", 1.5, "must be a whole number of at least 1 (calls), not 1.5"),
        ("max_streams", -1, "must be a whole number of at least 1 (calls), not -1"),
        ("max_client_results", 0, "must be a whole number of at least 1 (answers), not 0"),
        ("stream_capacity", True, "must be a whole number of at least 1 (items), not True"),
        ("outbox_size", "1", "must be a whole number of at least 1 (bytes), not '1'"),
        ("replay_size", 0, "must be a whole number of at least 1 (bytes), not 0"),
        ("protocols", (), "must be a tuple of one or both of 'json' and 'messagepack', not ()"),
        ("protocols", "json", "must be a tuple of one or both of"),
        ("protocols", ("yaml",), "must be a tuple of one or both of"),
        ("close_timeout", 0, "must be a positive number of seconds, not 0"),
    ],
)
def test_a_wrong_option_is_refused_at_once(option: str, value: object, says: str) -> None:
    arguments: dict[str, Any] = {option: value}
    with pytest.raises(ValueError) as refusal:
        HubOptions(**arguments)
    assert str(refusal.value).startswith(f"{option} ")
    assert says in str(refusal.value)


def test_no_limit_on_client_results_can_be_wanted() -> None:
    assert HubOptions(client_result_timeout=None).client_result_timeout is None


@each_protocol
async def test_a_message_that_is_too_large_ends_the_connection(
    protocol: HubProtocol, echo: type[Echo]
) -> None:
    async with serving(echo) as service:
        client = await service.connect(protocol)
        assert await client.result("echo", "x" * 32_000) == "x" * 32_000
        client.call("echo", "fits")
        client.call("echo", "x" * 33_000)
        client.call("echo", "never read")
        assert (await client.expect(Completion)).result == "fits"
        close = await client.closed()
        assert close.error == "Connection closed with an error."
        assert close.allow_reconnect
        (error,) = echo.errors
        assert type(error) is ProtocolError
        assert str(error) == "The maximum message size of 32768B was exceeded."


async def test_a_message_that_never_ends_is_not_held_beyond_the_limit(echo: type[Echo]) -> None:
    async with serving(echo, HubOptions(max_message_size=1000)) as service:
        client = await service.connect()
        for _ in range(10):
            client.send_raw(b"x" * 101)
        close = await client.closed()
        assert close.error == "Connection closed with an error."


@each_protocol
async def test_many_messages_together_may_be_larger_than_one(
    protocol: HubProtocol, echo: type[Echo]
) -> None:
    async with serving(echo, HubOptions(max_message_size=100)) as service:
        client = await service.connect(protocol)
        message = protocol.encode(Invocation(invocation_id="1", target="echo", arguments=["one"]))
        client.send_raw(message * 50)
        for _ in range(50):
            assert (await client.expect(Completion)).result == "one"


async def test_a_client_that_calls_and_does_not_read_has_to_wait(echo: type[Echo]) -> None:
    """Reading from it pauses: the answers that wait for it stay bounded, and it stays."""
    options = HubOptions(transport_buffer_size=10_000, outbox_size=50_000)
    async with serving(echo, options) as service:
        client = await service.connect()
        for _ in range(100):
            client.call("repeat", "x", 1000)
        await wait_all_tasks_blocked()
        assert 10_000 < client.link.unsent < 12_000
        assert len(client.link.to_server) > 80
        for _ in range(100):
            assert (await client.expect(Completion)).result == "x" * 1000


async def test_a_client_that_pauses_so_and_leaves_is_noticed(echo: type[Echo]) -> None:
    options = HubOptions(transport_buffer_size=10_000)
    async with serving(echo, options) as service:
        client = await service.connect()
        for _ in range(100):
            client.call("repeat", "x", 1000)
        await wait_all_tasks_blocked()
        client.leave()
        await client.served.wait()
        assert echo.errors == [None]


async def test_a_client_for_which_too_much_waits_is_dropped(echo: type[Echo]) -> None:
    options = HubOptions(outbox_size=10_000)
    async with serving(echo, options) as service:
        client = await service.connect()
        client.call("repeat", "x", 20_000)
        await client.served.wait()
        (error,) = echo.errors
        assert type(error) is SlowClient
        assert client.link.why == "the client is too slow: more than 10000 bytes wait for it"
        assert service.server.metrics.ends == {"SlowClient": 1}


async def test_an_upload_holds_no_more_than_its_capacity(
    echo: type[Echo], autojump_clock: MockClock
) -> None:
    async with serving(echo) as service:
        client = await service.connect()
        client.call("collect", streams=("x",))
        for _ in range(100):
            client.item("x", "y" * 100)
        client.complete("x")
        await wait_all_tasks_blocked()
        assert len(client.link.to_server) >= 88  # ten wait for the method, one for room
        assert (await client.expect(Completion)).result == 10_000


async def test_ids_and_names_of_any_length_are_bounded_by_the_message(echo: type[Echo]) -> None:
    async with serving(echo) as service:
        client = await service.connect()
        name = "x" * 30_000
        assert await client.error(name) == f"Unknown hub method '{name}'"
        client.cancel(name)
        client.complete(name)
        client.item(name, 1)
        assert await client.result("echo", "still here") == "still here"


async def test_clients_come_and_go_and_leave_nothing(echo: type[Echo]) -> None:
    async with serving(echo) as service:
        clients = [await service.connect() for _ in range(200)]
        await service.server.context.clients.all.send("Hello")
        for client in clients:
            assert await client.called("Hello") == []
            client.leave()
        for client in clients:
            await client.served.wait()
        assert service.server.metrics.connections == 0
        assert not service.server.connections
        assert len(echo.errors) == 200


async def test_the_protocols_do_not_share_anything_between_clients(echo: type[Echo]) -> None:
    async with serving(echo) as service:
        broken, well = await service.connect(JSON), await service.connect(JSON)
        broken.send_raw(b'{"type":1,')
        assert await well.result("echo", "x") == "x"
        broken.send_raw(b'"target":"echo","invocationId":"1","arguments":["y"]}\x1e')
        assert (await broken.expect(Completion)).result == "y"
