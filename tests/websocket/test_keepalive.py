"""Keep-alive, on a clock that jumps."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from echo.websocket import ConnectionClosedError, State, WebSocket, WebSocketOptions
from tests.harness import Peer, serve

# A test lasts at most 20 seconds of its clock.
INTERVAL, DEADLINE = 2.0, 1.0


def options(**others: Any) -> WebSocketOptions:
    given = {"keep_alive_interval": INTERVAL, "keep_alive_timeout": DEADLINE, **others}
    return WebSocketOptions(**given)


async def receive_all(socket: WebSocket) -> None:
    async for message in socket:
        await socket.send(message)


async def nothing_comes(peer: Peer, seconds: float) -> bool:
    with trio.move_on_after(seconds) as scope:
        await peer.receive()
    return scope.cancelled_caught


async def test_without_an_interval_nothing_is_sent_and_nobody_dropped(
    autojump_clock: MockClock,
) -> None:
    async with (
        serve(receive_all, options=options(keep_alive_interval=None)) as service,
        service.peer() as peer,
    ):
        assert await nothing_comes(peer, 15)
        await peer.send(0x81, b"still here")
        assert await peer.receive() == (0x81, b"still here")


async def test_without_a_deadline_pongs_come_unasked_and_nobody_is_dropped(
    autojump_clock: MockClock,
) -> None:
    async with (
        serve(receive_all, options=options(keep_alive_timeout=None)) as service,
        service.peer() as peer,
    ):
        start = trio.current_time()
        for beat in range(1, 6):
            assert await peer.receive() == (0x8A, b"")
            assert trio.current_time() - start == pytest.approx(beat * INTERVAL)


async def test_a_peer_that_answers_pings_lives_and_is_pinged_at_the_interval(
    autojump_clock: MockClock,
) -> None:
    async with serve(receive_all, options=options()) as service, service.peer() as peer:
        start = trio.current_time()
        for beat in range(1, 6):
            first, payload = await peer.receive()
            assert first == 0x89
            assert trio.current_time() - start == pytest.approx(beat * INTERVAL)
            await peer.send(0x8A, payload)


async def test_a_peer_that_does_not_answer_a_ping_is_dropped_after_the_deadline(
    autojump_clock: MockClock,
) -> None:
    raised: list[tuple[float, ConnectionClosedError]] = []

    async def handler(socket: WebSocket) -> None:
        with pytest.raises(ConnectionClosedError, match="keep_alive_timeout") as info:
            await socket.receive()
        assert socket.state is State.ABORTED
        raised.append((trio.current_time(), info.value))

    async with serve(handler, options=options()) as service, service.peer() as peer:
        start = trio.current_time()
        assert await peer.receive() == (0x89, b"")
        await peer.receive_eof()
    ((when, error),) = raised
    assert when - start == pytest.approx(INTERVAL + DEADLINE)
    assert error.code == 1006


@pytest.mark.parametrize(
    "sign",
    [
        pytest.param(b"\x8a\x81\0\0\0\0x", id="another pong"),
        pytest.param(b"\x89\x80\0\0\0\0", id="ping"),
        pytest.param(b"\x82", id="the first byte of a frame"),
    ],
)
async def test_any_bytes_are_a_sign_of_life(autojump_clock: MockClock, sign: bytes) -> None:
    async with serve(receive_all, options=options()) as service, service.peer() as peer:
        assert await peer.receive() == (0x89, b"")
        start = trio.current_time()
        await peer.send_raw(sign)
        while (await peer.receive())[0] != 0x89:
            pass
        assert trio.current_time() - start == pytest.approx(INTERVAL)


async def test_bytes_from_before_the_ping_are_no_sign_of_life(autojump_clock: MockClock) -> None:
    async with serve(receive_all, options=options()) as service, service.peer() as peer:
        await trio.sleep(INTERVAL / 2)
        await peer.send(0x8A, b"")
        start = trio.current_time()
        assert await peer.receive() == (0x89, b"")
        await peer.receive_eof()
        assert trio.current_time() - start == pytest.approx(INTERVAL / 2 + DEADLINE)


async def test_while_we_do_not_read_nobody_is_dropped_for_silence(
    autojump_clock: MockClock,
) -> None:
    async def handler(socket: WebSocket) -> None:
        await trio.sleep(INTERVAL * 3 + DEADLINE / 2)
        assert socket.full
        await receive_all(socket)

    async with (
        serve(handler, options=options(inbox_size=1000)) as service,
        service.peer() as peer,
    ):
        for _ in range(2):
            await peer.send(0x82, b"x" * 1000)
        messages = 0
        while messages < 2:
            first, _ = await peer.receive()
            if first == 0x82:
                messages += 1
            else:
                assert first == 0x89
                await peer.send(0x8A, b"")


async def test_a_peer_is_not_blamed_for_what_we_had_not_read_when_its_time_ended(
    autojump_clock: MockClock,
) -> None:
    """The handler makes room in the moment of the deadline: the pong lies in the stream."""

    async def handler(socket: WebSocket) -> None:
        socket.worker.clock.call_in(INTERVAL + DEADLINE, take.set)
        await take.wait()
        await receive_all(socket)

    take = trio.Event()
    early = options(inbox_size=1000)
    async with serve(handler, options=early) as service, service.peer() as peer:
        await peer.send(0x82, b"x" * 1000)
        assert await peer.receive() == (0x89, b"")
        await peer.send(0x8A, b"")
        while (await peer.receive())[0] != 0x82:
            pass
        await peer.send(0x81, b"alive")
        while (await peer.receive()) != (0x81, b"alive"):
            pass


async def test_keep_alive_does_not_outlive_its_socket(autojump_clock: MockClock) -> None:
    sockets: list[WebSocket] = []

    async def handler(socket: WebSocket) -> None:
        sockets.append(socket)

    async with serve(handler, options=options()) as service, service.peer() as peer:
        assert await peer.receive_close() == (1000, "")
        await peer.send(0x88, b"\x03\xe8")
        await peer.receive_eof()
        await trio.sleep(INTERVAL * 2)
        assert sockets[0].state is State.CLOSED
        assert not service.middleware.worker.sockets
