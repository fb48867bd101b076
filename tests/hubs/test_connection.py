"""A connection from its handshake to its end: who says what, and what the hub sees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from echo.hubs import ClientDisconnected, ClientTimeout, Hub, HubError, HubOptions, ProtocolError
from echo.hubs.lifetime import LocalLifetime
from echo.hubs.messages import Ack, Close, Completion, Ping, Sequence
from echo.hubs.protocol import HubProtocol
from echo.hubs.transports.link import User
from echo.hubs.transports.request import Headers, Request
from tests.hubs.memory import EventsLink, LongPollingLink, Person, serving
from tests.hubs.support import JSON, MESSAGEPACK, PROTOCOLS

each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda each: each.name)

DETAILED = HubOptions(detailed_errors=True)


class Diary(Hub):
    """Writes down what happens to it."""

    pages: list[Any]

    async def on_connected(self) -> None:
        self.pages.append("connected")

    async def on_disconnected(self, error: Exception | None) -> None:
        await trio.lowlevel.checkpoint()
        self.pages.append(error)

    def echo(self, text: str) -> str:
        return text

    async def stay(self, seconds: float) -> None:
        self.pages.append("stays")
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            self.pages.append("cancelled")
            raise
        self.pages.append("stayed")

    async def wait_for_the_end(self) -> None:
        await self.context.aborted.wait()
        self.pages.append("saw the end")

    async def abort(self) -> None:
        await trio.lowlevel.checkpoint()  # from here on another task reads
        self.context.abort()

    def begin(self, seconds: float) -> None:
        self.context.nursery.start_soon(self.stay, seconds)

    def break_down(self) -> None:
        async def fail() -> None:
            raise LookupError("in the background")

        self.context.nursery.start_soon(fail)


@pytest.fixture
def diary() -> type[Diary]:
    class Fresh(Diary):
        pages = []  # noqa: RUF012

    return Fresh


def types(pages: list[Any]) -> list[Any]:
    return [page if isinstance(page, str) or page is None else type(page) for page in pages]


# The handshake


@each_protocol
async def test_a_handshake_in_pieces_or_with_calls_behind_it(
    protocol: HubProtocol, diary: type[Diary]
) -> None:
    async with serving(diary) as service:
        client = service.open(protocol)
        for part in (b'{"protocol":"', protocol.name.encode(), b'","version"', b":1}", b"\x1e"):
            assert client.idle
            client.send_raw(part)
            await wait_all_tasks_blocked()
        assert await client.read_raw() == b"{}\x1e"
        assert client.link.transfer_format == protocol.transfer_format
        client = service.open(protocol)
        client.shake_hands()
        id = client.call("echo", "early")
        client.link.to_server = type(client.link.to_server)([b"".join(client.link.to_server)])
        assert await client.read_raw() == b"{}\x1e"
        done = await client.expect(Completion)
        assert (done.invocation_id, done.result) == (id, "early")


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (b'{"protocol":"odd","version":1}', "The protocol 'odd' is not supported."),
        (
            b'{"protocol":"json","version":9001}',
            "The server does not support version 9001 of the 'json' protocol.",
        ),
        (b"{", "An unexpected error occurred during connection handshake."),
        (b"x" * 40_000, "Handshake was canceled."),
    ],
)
async def test_a_handshake_that_is_refused(request_: bytes, error: str, diary: type[Diary]) -> None:
    async with serving(diary) as service:
        client = service.open()
        client.send_raw(request_ + b"\x1e")
        assert await client.read_raw() == b'{"error":"%b"}\x1e' % error.encode()
        await client.served.wait()
        assert client.link.closed_with is None
        assert service.server.metrics.handshakes_refused == 1
        assert not diary.pages


async def test_a_handshake_without_an_end_is_refused_when_it_is_too_long(
    diary: type[Diary],
) -> None:
    async with serving(diary, HubOptions(max_message_size=100)) as service:
        client = service.open()
        for _ in range(11):
            client.send_raw(b"x" * 10)
        assert await client.read_raw() == b'{"error":"Handshake was canceled."}\x1e'
        await client.served.wait()


async def test_details_of_a_broken_handshake_are_told_if_wanted(diary: type[Diary]) -> None:
    async with serving(diary, DETAILED) as service:
        client = service.open()
        client.send_raw(b"[]\x1e")
        assert b"InvalidDataException: Unexpected JSON Token" in await client.read_raw()


async def test_a_binary_protocol_needs_a_transport_for_it(diary: type[Diary]) -> None:
    async with serving(diary) as service:
        client = service.open(MESSAGEPACK, kind=EventsLink)
        client.shake_hands()
        assert (
            b"Cannot use the 'messagepack' protocol on the current transport. The transport does "
            b"not support 'Binary' transfer format."
        ) in await client.read_raw()
        assert client.link.transfer_format == "Text"


async def test_a_protocol_may_be_switched_off(diary: type[Diary]) -> None:
    async with serving(diary, HubOptions(protocols=("json",))) as service:
        client = service.open(MESSAGEPACK)
        client.shake_hands()
        assert b"The protocol 'messagepack' is not supported." in await client.read_raw()


async def test_a_client_that_says_nothing_is_sent_away(
    diary: type[Diary], autojump_clock: MockClock
) -> None:
    async with serving(diary) as service:
        start = trio.current_time()
        client = service.open()
        client.send_raw(b"{")
        assert await client.read_raw() == b'{"error":"Handshake was canceled."}\x1e'
        assert trio.current_time() - start == 15
        await client.served.wait()


async def test_a_client_that_leaves_in_its_handshake_is_forgotten(diary: type[Diary]) -> None:
    async with serving(diary) as service:
        client = service.open()
        client.send_raw(b'{"protocol"')
        client.leave()
        await client.served.wait()
        assert client.idle
        assert not diary.pages


# Connecting


async def test_what_the_hub_knows_of_its_client() -> None:
    class Curious(Hub):
        def about(self) -> list[Any]:
            context = self.context
            return [
                *(context.connection_id, context.user_identifier, context.transport),
                *(context.request.path, context.request.headers["x-mood"]),
                context.user is not None and context.user.id,
            ]

    request = Request(path="/hub", headers=Headers([(b"X-Mood", b"fine")]))
    async with serving(Curious) as service:
        client = await service.connect(user=Person("ada"), request=request, kind=EventsLink)
        assert await client.result("about") == [
            *(client.id, "ada", "ServerSentEvents", "/hub", "fine", "ada")
        ]
        client = await service.connect(request=request)
        assert (await client.result("about"))[1] is None


async def test_a_provider_may_name_the_user_otherwise() -> None:
    class Who(Hub):
        def who(self) -> str | None:
            return self.context.user_identifier

    def name(user: User | None, request: Request) -> str | None:
        return f"{user.id if user else 'nobody'} of {request.path}"

    async with serving(Who, HubOptions(user_id=name)) as service:
        client = await service.connect(user=Person("ada"), request=Request(path="/x"))
        assert await client.result("who") == "ada of /x"


async def test_a_provider_that_fails_fails_the_handshake() -> None:
    def name(user: User | None, request: Request) -> str | None:
        raise LookupError("no such user")

    async with serving(Hub, HubOptions(user_id=name)) as service:
        client = service.open()
        client.shake_hands()
        answer = await client.read_raw()
        assert answer == (
            b'{"error":"An unexpected error occurred during connection handshake."}\x1e'
        )
        await client.served.wait()


async def test_calls_wait_until_the_hub_has_greeted() -> None:
    go_on = trio.Event()

    class Slow(Hub):
        async def on_connected(self) -> None:
            await self.clients.caller.send("Hello")
            await go_on.wait()
            self.context.items["greeted"] = True

        def greeted(self) -> bool:
            return "greeted" in self.context.items

    async with serving(Slow) as service:
        client = await service.connect()
        client.call("greeted")
        assert await client.called("Hello") == []
        await wait_all_tasks_blocked()
        assert client.idle
        go_on.set()
        assert (await client.expect(Completion)).result is True


@pytest.mark.parametrize("detailed", [False, True])
async def test_an_error_in_on_connected_ends_the_connection_for_good(
    detailed: bool, diary: type[Diary], caplog: pytest.LogCaptureFixture
) -> None:
    class Unfriendly(diary):  # type: ignore[misc,valid-type]
        async def on_connected(self) -> None:
            raise LookupError("not you")

    async with serving(Unfriendly, HubOptions(detailed_errors=detailed)) as service:
        client = await service.connect()
        client.call("echo", "never answered")
        details = " LookupError: not you" if detailed else ""
        assert await client.closed() == Close(error=f"Connection closed with an error.{details}")
        assert not diary.pages  # no on_disconnected either
        assert not service.server.connections
        assert client.link.ended
    assert "not you" in caplog.text


async def test_a_hub_error_in_on_connected_is_told_to_the_client() -> None:
    class Choosy(Hub):
        async def on_connected(self) -> None:
            raise HubError("Come back tomorrow.")

    async with serving(Choosy) as service:
        client = await service.connect()
        error = "Connection closed with an error. HubException: Come back tomorrow."
        assert await client.closed() == Close(error=error)


async def test_a_hub_that_cannot_be_made_ends_the_connection() -> None:
    class Uncreatable(Hub):
        def __init__(self) -> None:
            raise LookupError("parts missing")

    async with serving(Uncreatable, DETAILED) as service:
        client = await service.connect()
        error = "Connection closed with an error. LookupError: parts missing"
        assert await client.closed() == Close(error=error)


async def test_nobody_watches_over_a_client_that_is_read_from() -> None:
    class Slow(Hub):
        async def on_connected(self) -> None:
            await trio.lowlevel.checkpoint()

    async with serving(Slow) as service:
        await service.connect()
        await wait_all_tasks_blocked()
        (connection,) = service.server.connections
        assert not connection.nursery.child_tasks


async def test_a_client_that_leaves_while_it_is_greeted_is_noticed() -> None:
    notes = []

    class Slow(Hub):
        async def on_connected(self) -> None:
            await self.context.aborted.wait()
            notes.append("aborted")

        async def on_disconnected(self, error: Exception | None) -> None:
            notes.append("disconnected")

    async with serving(Slow) as service:
        client = await service.connect()
        await wait_all_tasks_blocked()
        client.leave()
        await client.served.wait()
    assert notes == ["aborted", "disconnected"]


async def test_a_lifetime_that_fails_is_left_all_the_same(
    diary: type[Diary], caplog: pytest.LogCaptureFixture
) -> None:
    left = []

    class Failing(LocalLifetime):
        async def join(self, connection: Any) -> None:
            raise LookupError("the engine is away")

        async def leave(self, connection: Any) -> None:
            left.append(connection.id)

    async with serving(diary, lifetime=Failing()) as service:
        client = await service.connect()
        close = await client.closed()
        assert close == Close(error="Connection closed with an error.", allow_reconnect=True)
        assert left == [client.id]
        assert not diary.pages
    assert "the engine is away" in caplog.text


# Ends


async def test_a_client_that_leaves_is_said_goodbye(diary: type[Diary]) -> None:
    async with serving(diary) as service:
        client = await service.connect()
        assert service.server.metrics.connections == 1
        client.leave()
        await client.served.wait()
        assert diary.pages == ["connected", None]
        metrics = service.server.metrics
        assert (metrics.connections, metrics.connections_total) == (0, 1)
        assert metrics.ends == {"closed": 1}


async def test_a_client_that_says_goodbye_is_answered(diary: type[Diary]) -> None:
    async with serving(diary) as service:
        client = await service.connect()
        client.send(Close())
        assert await client.closed() == Close()
        assert diary.pages == ["connected", None]


async def test_a_client_that_leaves_with_an_error_tells_the_hub(diary: type[Diary]) -> None:
    async with serving(diary) as service:
        client = await service.connect()
        client.send(Close(error="custom client error"))
        assert await client.closed() == Close()
        error = diary.pages[1]
        assert isinstance(error, HubError)
        assert str(error) == "custom client error"


async def test_a_method_may_end_the_connection_as_soon_as_it_ends(
    diary: type[Diary], autojump_clock: MockClock
) -> None:
    async with serving(diary) as service:
        client = await service.connect()
        start = trio.current_time()
        client.call("abort")
        assert await client.closed() == Close()  # and no completion
        assert trio.current_time() == start
        assert diary.pages == ["connected", None]


async def test_a_server_that_shuts_down_invites_its_clients_back(diary: type[Diary]) -> None:
    async with serving(diary) as service:
        clients = [await service.connect() for _ in range(3)]
        service.server.metrics.ends.clear()
        await service.server.shut_down(0)
        for client in clients:
            assert await client.closed() == Close(allow_reconnect=True)
            assert client.link.closed_with is None
        assert not service.server.connections
        late = await service.connect()
        assert await late.closed() == Close(allow_reconnect=True)
        assert service.server.metrics.ends == {"closed": 4}


async def test_the_goodbyes_of_a_shutdown_are_spread(
    diary: type[Diary], autojump_clock: MockClock
) -> None:
    async with serving(diary, HubOptions(keep_alive_interval=1000)) as service:
        clients = [await service.connect() for _ in range(4)]
        start = trio.current_time()
        await service.server.shut_down(8)
        ends = []

        async def watch(client: Any) -> None:
            await client.closed()
            ends.append(round(trio.current_time() - start, 3))

        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(watch, client)
        assert sorted(ends) == [0, 2, 4, 6]


@each_protocol
@pytest.mark.parametrize("detailed", [False, True])
async def test_a_client_that_breaks_the_protocol_is_told_and_invited_back(
    protocol: HubProtocol, detailed: bool, diary: type[Diary]
) -> None:
    async with serving(diary, HubOptions(detailed_errors=detailed)) as service:
        client = await service.connect(protocol)
        before = client.call("echo", "before")
        client.send_raw(b"[]\x1e" if protocol is JSON else b"\x01\x90")
        client.call("echo", "after")
        done = await client.expect(Completion)
        assert done.invocation_id == before
        close = await client.closed()
        assert close.allow_reconnect
        assert close.error is not None
        assert close.error.startswith("Connection closed with an error.")
        assert ("InvalidDataException: " in close.error) is detailed
        assert types(diary.pages) == ["connected", ProtocolError]


async def test_an_error_in_on_disconnected_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Hub):
        async def on_disconnected(self, error: Exception | None) -> None:
            raise LookupError("BOOM!")

    async with serving(Failing) as service:
        client = await service.connect()
        client.leave()
        await client.served.wait()
        assert not service.server.connections
        assert not isinstance(service.server.lifetime, LocalLifetime) or not (
            service.server.lifetime.connections
        )
    assert "BOOM!" in caplog.text


async def test_an_on_disconnected_that_takes_too_long_is_cancelled(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Slow(Hub):
        async def on_disconnected(self, error: Exception | None) -> None:
            await trio.sleep(100)

    async with serving(Slow) as service:
        client = await service.connect()
        start = trio.current_time()
        client.leave()
        await client.served.wait()
        assert trio.current_time() - start == 5
    assert "took longer than 5 s" in caplog.text


async def test_on_disconnected_cannot_ask_the_client() -> None:
    errors = []

    class Asking(Hub):
        async def on_disconnected(self, error: Exception | None) -> None:
            try:
                await self.clients.caller.invoke("question")
            except ClientDisconnected as failure:
                errors.append(str(failure))

    async with serving(Asking) as service:
        client = await service.connect()
        client.leave()
        await client.served.wait()
    assert errors == [f"Connection '{client.id}' disconnected."]


async def test_a_method_has_some_time_to_end_when_its_client_is_gone(
    diary: type[Diary], autojump_clock: MockClock
) -> None:
    async with serving(diary) as service:
        client = await service.connect()
        client.call("stay", 3)
        await wait_all_tasks_blocked()
        start = trio.current_time()
        client.leave()
        await client.served.wait()
        assert trio.current_time() - start == 3
        assert diary.pages == ["connected", "stays", "stayed", None]


async def test_a_method_that_takes_longer_is_cancelled(
    diary: type[Diary], autojump_clock: MockClock
) -> None:
    async with serving(diary) as service:
        client = await service.connect()
        client.call("stay", 100)
        await wait_all_tasks_blocked()
        start = trio.current_time()
        client.leave()
        await client.served.wait()
        assert trio.current_time() - start == 5
        assert diary.pages == ["connected", "stays", "cancelled", None]


async def test_a_method_can_see_that_its_client_is_gone(diary: type[Diary]) -> None:
    async with serving(diary) as service:
        client = await service.connect()
        client.call("wait_for_the_end")
        await wait_all_tasks_blocked()
        client.leave()
        await client.served.wait()
        assert diary.pages == ["connected", "saw the end", None]


async def test_background_tasks_end_with_the_connection(diary: type[Diary]) -> None:
    async with serving(diary) as service:
        client = await service.connect()
        await client.invoke("begin", 1000)
        assert await client.result("echo", "at once") == "at once"
        client.leave()
        await client.served.wait()
        assert diary.pages == ["connected", "stays", "cancelled", None]


async def test_a_background_task_that_fails_ends_the_connection(
    diary: type[Diary], caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(diary, DETAILED) as service:
        client = await service.connect()
        client.call("break_down")
        close = await client.closed()
        assert close.error == "Connection closed with an error. LookupError: in the background"
        assert types(diary.pages) == ["connected", LookupError]
    assert "in the background" in caplog.text


async def test_a_connection_that_is_cancelled_from_outside_still_says_goodbye(
    diary: type[Diary],
) -> None:
    async with serving(diary) as service:
        async with trio.open_nursery() as nursery:
            client = await service.connect(nursery=nursery)
            client.call("stay", 1000)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert diary.pages == ["connected", "stays", "cancelled", None]
        assert client.link.ended
        assert not service.server.connections


# By the clock


@each_protocol
async def test_pings_go_out_at_a_fixed_interval_whatever_else_is_sent(
    protocol: HubProtocol, diary: type[Diary], autojump_clock: MockClock
) -> None:
    async with serving(diary, seconds=1000) as service:
        client = await service.connect(protocol)
        start = trio.current_time()
        for beat in range(1, 4):
            assert await client.result("echo", "x") == "x"
            assert isinstance(await client.next(), Ping)
            assert trio.current_time() - start == 15 * beat


async def test_a_transport_that_keeps_itself_alive_gets_no_pings_and_is_expected_to_send_none(
    diary: type[Diary], autojump_clock: MockClock
) -> None:
    async with serving(diary, seconds=1000) as service:
        client = await service.connect(kind=LongPollingLink)
        client.ping()
        await trio.sleep(500)
        assert client.idle
        assert await client.result("echo", "x") == "x"


async def test_a_client_that_never_pings_may_be_silent(
    diary: type[Diary], autojump_clock: MockClock
) -> None:
    async with serving(diary, seconds=1000) as service:
        client = await service.connect()
        await trio.sleep(500)
        client.call("echo", "x")
        assert (await client.expect(Completion)).result == "x"


@pytest.mark.parametrize("detailed", [False, True])
async def test_a_client_that_has_pinged_and_falls_silent_is_lost(
    detailed: bool, diary: type[Diary], autojump_clock: MockClock
) -> None:
    options = HubOptions(detailed_errors=detailed)
    async with serving(diary, options, seconds=1000) as service:
        client = await service.connect()
        await trio.sleep(20)
        client.ping()
        await trio.sleep(20)
        client.ping()
        start = trio.current_time()
        close = await client.closed()
        assert round(trio.current_time() - start, 6) == 30
        assert close.allow_reconnect
        assert close.error is not None
        assert ("OperationCanceledException: Client hasn't sent" in close.error) is detailed
        assert types(diary.pages) == ["connected", ClientTimeout]
        assert service.server.metrics.ends == {"ClientTimeout": 1}


async def test_any_whole_message_is_a_sign_of_life(
    diary: type[Diary], autojump_clock: MockClock
) -> None:
    async with serving(diary, seconds=1000) as service:
        client = await service.connect()
        client.ping()
        for _ in range(4):
            await trio.sleep(29)
            client.call_without_answer("echo", "x")
        for _ in range(3):
            await trio.sleep(9)
            client.send_raw(b" ")  # of a message that never ends
        start = trio.current_time()
        await client.closed()
        assert round(trio.current_time() - start, 6) == 3


async def test_while_the_server_keeps_the_client_waiting_it_is_not_expected_to_speak(
    diary: type[Diary], autojump_clock: MockClock
) -> None:
    async with serving(diary, seconds=1000) as service:
        client = await service.connect()
        client.ping()
        client.call("stay", 100)
        client.call("echo", "behind it")
        client.ping()
        await client.expect(Completion)
        assert (await client.expect(Completion)).result == "behind it"
        start = trio.current_time()
        await client.closed()
        assert 30 <= trio.current_time() - start <= 60


async def test_a_call_that_has_to_wait_is_a_sign_of_life_when_it_comes(
    diary: type[Diary], autojump_clock: MockClock
) -> None:
    async with serving(diary, seconds=1000) as service:
        client = await service.connect()
        client.ping()
        await trio.sleep(20)
        client.call("stay", 100)
        start = trio.current_time()
        await client.closed()
        assert round(trio.current_time() - start, 6) == 35  # the method had 5 more


async def test_a_call_that_runs_alone_does_not_count_as_a_sign_of_life(
    diary: type[Diary], autojump_clock: MockClock
) -> None:
    async with serving(diary, seconds=1000) as service:
        client = await service.connect()
        client.ping()
        client.call("stay", 100)
        await trio.sleep(29)
        assert service.server.connections
        await client.closed()
        assert "cancelled" in diary.pages


async def test_acks_and_sequences_that_nobody_asked_for_do_nothing(diary: type[Diary]) -> None:
    async with serving(diary, DETAILED) as service:
        client = await service.connect()
        client.send(Sequence(sequence_id=10), Ack(sequence_id=234))
        assert await client.result("echo", "still here") == "still here"


async def test_a_stream_on_a_connection_that_is_over_is_not_begun(diary: type[Diary]) -> None:
    begun = []

    class Streaming(diary):  # type: ignore[misc,valid-type]
        async def numbers(self) -> AsyncIterator[int]:
            begun.append(True)
            yield 1

    async with serving(Streaming) as service:
        client = await service.connect()
        client.send(Close())
        client.call_stream("numbers")
        await client.closed()
    assert not begun
