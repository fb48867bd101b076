"""Floods: what a peer can make us keep, and what it can make others wait."""

from __future__ import annotations

import struct
import tracemalloc
from socket import SO_LINGER, SOL_SOCKET

import pytest
import trio
import trio.testing

from echo.websocket import (
    ConnectionClosedError,
    MessageType,
    State,
    WebSocket,
    WebSocketOptions,
)
from tests.harness import Peer, frame, serve

EMPTY = frame(0x82, b"")


async def echo_all(socket: WebSocket) -> None:
    async for message in socket:
        await socket.send(message)


async def test_a_flood_of_empty_messages_that_nobody_takes_is_held_back() -> None:
    async def handler(socket: WebSocket) -> None:
        await socket.wait_closed()

    async with serve(handler, lockstep=True) as service, service.peer() as peer:
        tracemalloc.start()
        try:
            with trio.move_on_after(1) as scope:
                for _ in range(2000):
                    await peer.send_raw(EMPTY * 1000)
            size = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert scope.cancelled_caught
        assert size < 8 << 20


async def test_who_pings_and_does_not_read_gets_the_newest_pong_only() -> None:
    sockets: list[WebSocket] = []

    async def handler(socket: WebSocket) -> None:
        sockets.append(socket)
        async for _ in socket:
            pass

    options = WebSocketOptions(send_buffer_size=1000)
    count = 5000
    async with (
        serve(handler, options=options, lockstep=True) as service,
        service.peer() as peer,
    ):
        for number in range(count):
            await peer.send(0x89, number.to_bytes(4, "big") * 25)
            if sockets:
                assert sockets[0].carrier.size <= 1000 + 2 * 102
        pongs = 0
        while True:
            first, payload = await peer.receive()
            assert first == 0x8A
            pongs += 1
            if payload == (count - 1).to_bytes(4, "big") * 25:
                break
        assert pongs < 1000


async def test_a_close_is_answered_at_once_even_if_a_pong_was_owed() -> None:
    states: list[State] = []

    async def handler(socket: WebSocket) -> None:
        await socket.wait_closed()
        states.append(socket.state)

    options = WebSocketOptions(send_buffer_size=1000, close_timeout=3)
    async with (
        serve(handler, options=options, lockstep=True) as service,
        service.peer() as peer,
    ):
        for _ in range(100):
            await peer.send(0x89, b"x" * 100)
        await peer.send(0x88, b"\x03\xe8")
        start = trio.current_time()
        assert await peer.receive_close() == (1000, "")
        await peer.receive_eof()
        assert trio.current_time() - start < 1
        await trio.testing.wait_all_tasks_blocked()
    assert states == [State.CLOSED]


@pytest.mark.parametrize("before", [b"", frame(0x81, b"subscribe")], ids=["", "one message"])
async def test_control_frames_do_not_fill_the_inbox_of_a_handler_that_does_not_receive(
    before: bytes,
) -> None:
    """A handler that only sends lives for days, with a ping every few seconds."""

    async def handler(socket: WebSocket) -> None:
        await socket.wait_closed()

    options = WebSocketOptions(inbox_size=1000)
    async with serve(handler, options=options) as service, service.peer() as peer:
        await peer.send_raw(before)
        for number in range(500):
            await peer.send(0x8A, b"unasked")
            await peer.send(0x89, number.to_bytes(4, "big"))
            with trio.fail_after(2):
                assert await peer.receive() == (0x8A, number.to_bytes(4, "big"))


@pytest.mark.parametrize("carrier", ["tcp", "portable", "memory"])
async def test_a_flooding_peer_does_not_keep_another_waiting(carrier: str) -> None:
    flood = frame(0x82, b"x" * 16) * 2000
    async with (
        serve(echo_all, carrier) as service,
        service.peer() as flooding,
        service.peer() as other,
    ):

        async def pour() -> None:
            while True:
                await flooding.send_raw(flood)

        async def swallow() -> None:
            while await flooding.stream.receive_some(65536):
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour)
            nursery.start_soon(swallow)
            await trio.sleep(0.1)
            start = trio.current_time()
            for number in range(10):
                await other.send(0x81, str(number).encode())
                assert await other.receive() == (0x81, str(number).encode())
            assert trio.current_time() - start < 5
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("carrier", ["tcp", "portable", "memory"])
async def test_sending_in_a_loop_to_a_quick_reader_lets_other_tasks_run(carrier: str) -> None:
    ticks = 0
    seen: list[int] = []

    async def tick() -> None:
        nonlocal ticks
        while True:
            await trio.lowlevel.checkpoint()
            ticks += 1

    async def handler(socket: WebSocket) -> None:
        socket.nursery.start_soon(tick)
        before = ticks
        for _ in range(100):
            await socket.send(b"x" * 16_384)
        seen.append(ticks - before)

    async with serve(handler, carrier) as service, service.peer() as peer:
        for _ in range(100):
            assert (await peer.receive())[0] == 0x82
    assert seen[0] >= 100 * 16_384 // 65_536 // 2


@pytest.mark.parametrize("carrier", ["tcp", "unix", "reused"])
async def test_a_flush_that_meets_a_reset_does_not_leave_the_handler_waiting(carrier: str) -> None:
    peers: list[Peer] = []
    raised = trio.Event()

    async def handler(socket: WebSocket) -> None:
        await socket.receive()
        connection = peers[0].stream.socket
        if carrier != "unix":
            connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        # No checkpoint since then: the flush before the wait is the first to learn of it.
        socket.send_nowait(b"into the void", MessageType.BINARY)
        try:
            await socket.receive()
        except ConnectionClosedError:
            raised.set()

    async with serve(handler, carrier) as service, service.peer() as peer:
        peers.append(peer)
        await peer.send(0x81, b"go")
        with trio.fail_after(2):  # close_timeout, 5 s, would let it go at last
            await raised.wait()
