"""What a WebSocket does, whatever carries it: one suite, run over every carrier."""

from __future__ import annotations

import logging
import zlib
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed as ClientClosed
from trio_websocket import WebSocketConnection

from echo.application import echo
from echo.websocket import (
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    MessageType,
    State,
    UsageError,
    WebSocket,
    WebSocketOptions,
)
from tests.harness import CARRIERS, Handler, frame, serve

WITH_FRAMES = tuple(name for name in CARRIERS if name != "asgi")

every_carrier = pytest.mark.parametrize("carrier", CARRIERS)
every_carrier_with_frames = pytest.mark.parametrize("carrier", WITH_FRAMES)


def close_of(client: WebSocketConnection) -> tuple[int, str | None]:
    """The code and the reason that a client saw."""
    assert client.closed is not None
    return client.closed.code, client.closed.reason


def close_code(client: WebSocketConnection) -> int:
    return close_of(client)[0]


async def iterate(socket: WebSocket) -> None:
    async for message in socket:
        await socket.send(message)


@every_carrier
@pytest.mark.parametrize("handler", [iterate, echo])
async def test_messages_come_back_as_they_were(carrier: str, handler: Handler) -> None:
    messages: list[str | bytes] = [
        "hello",
        b"\x00\xff",
        "",
        b"",
        "grüße 😀",
        b"x" * 300,
        "y" * 70_000,
    ]
    async with serve(handler, carrier) as service, service.connect() as client:
        for message in messages:
            await client.send_message(message)
            assert await client.get_message() == message


@every_carrier
async def test_a_large_message_comes_back_whole(carrier: str) -> None:
    message = bytes(range(256)) * 8192
    async with serve(iterate, carrier) as service, service.connect() as client:
        await client.send_message(message)
        assert await client.get_message() == message


@every_carrier_with_frames
async def test_a_buffer_larger_than_the_inbox_still_fills(carrier: str) -> None:
    options = WebSocketOptions(receive_buffer_size=400_000, inbox_size=1000)
    message = bytes(range(256)) * 2000
    async with serve(iterate, carrier, options=options) as service, service.connect() as client:
        await client.send_message(message)
        assert await client.get_message() == message


@every_carrier
async def test_messages_keep_their_order(carrier: str) -> None:
    async with serve(iterate, carrier) as service, service.connect() as client:

        async def send_all() -> None:
            for number in range(500):
                await client.send_message(str(number))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all)
            received = [await client.get_message() for _ in range(500)]
        assert received == [str(number) for number in range(500)]


@every_carrier_with_frames
async def test_the_peers_close_code_and_reason_reach_the_handler_and_are_echoed(
    carrier: str,
) -> None:
    seen: list[Any] = []

    async def handler(socket: WebSocket) -> None:
        async for _ in socket:
            pass
        await socket.wait_closed()
        seen.append((socket.close_code, socket.close_reason, socket.state))

    async with serve(handler, carrier) as service, service.connect() as client:
        await client.aclose(4001, "enough")
        assert close_of(client) == (4001, "enough")
        await trio.testing.wait_all_tasks_blocked(0.05)
    assert seen == [(4001, "enough", State.CLOSED)]


@every_carrier_with_frames
async def test_a_close_without_a_code_reads_as_1005(carrier: str) -> None:
    seen: list[Any] = []

    async def handler(socket: WebSocket) -> None:
        with pytest.raises(ConnectionClosedOK):
            await socket.receive()
        seen.append(socket.close_code)

    async with serve(handler, carrier) as service, service.peer() as peer:
        await peer.send(0x88, b"")
        assert await peer.receive_close() == (1005, "")
        await peer.receive_eof()
    assert seen == [1005]


@every_carrier
async def test_the_handlers_close_code_and_reason_reach_the_peer(carrier: str) -> None:
    async def handler(socket: WebSocket) -> None:
        await socket.close(4002, "go away")
        assert socket.state is State.CLOSED

    async with serve(handler, carrier) as service, service.connect() as client:
        with pytest.raises(ClientClosed):
            await client.get_message()
        assert close_of(client) == (4002, "go away")


@every_carrier
async def test_a_handler_that_ends_closes_with_1000(carrier: str) -> None:
    async def handler(socket: WebSocket) -> None:
        await socket.send("bye")

    async with serve(handler, carrier) as service, service.connect() as client:
        assert await client.get_message() == "bye"
        with pytest.raises(ClientClosed):
            await client.get_message()
        assert close_code(client) == 1000


@every_carrier
async def test_a_handler_that_fails_closes_its_socket_with_1011_and_no_other(
    carrier: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(socket: WebSocket) -> None:
        async for message in socket:
            if message == "fail":
                raise LookupError("on purpose")
            await socket.send(message)

    async with (
        serve(handler, carrier) as service,
        service.connect() as healthy,
        service.connect() as failing,
    ):
        await failing.send_message("fail")
        with pytest.raises(ClientClosed):
            await failing.get_message()
        assert close_code(failing) == 1011
        await healthy.send_message("still here")
        assert await healthy.get_message() == "still here"
    logged = [record for record in caplog.records if record.exc_info]
    assert len(logged) == 1
    assert "on purpose" in str(logged[0].exc_info)


@every_carrier
async def test_abort_drops_the_connection_without_a_close_frame(carrier: str) -> None:
    async def handler(socket: WebSocket) -> None:
        await socket.receive()
        socket.abort()
        assert socket.state is State.ABORTED
        with pytest.raises(ConnectionClosedError):
            await socket.send("too late")

    async with serve(handler, carrier) as service, service.connect() as client:
        await client.send_message("go")
        with pytest.raises(ClientClosed):
            await client.get_message()
        assert close_code(client) == (1006 if carrier != "asgi" else 1011)


@every_carrier
async def test_a_peer_that_vanishes_ends_receiving_with_an_error(
    carrier: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []

    async def handler(socket: WebSocket) -> None:
        try:
            async for message in socket:
                await socket.send(message)
        except ConnectionClosed as error:
            seen.append((type(error), error.code, socket.close_code))
            raise

    async with serve(handler, carrier) as service:
        async with service.peer() as peer:
            await peer.send(0x82, b"hello")
            assert await peer.receive() == (0x82, b"hello")
        await trio.testing.wait_all_tasks_blocked(0.05)
    assert seen == [(ConnectionClosedError, 1006, 1006)]
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


@every_carrier
async def test_a_vanished_peer_ends_a_handler_that_does_not_receive(carrier: str) -> None:
    ended = trio.Event()

    async def handler(socket: WebSocket) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    options = WebSocketOptions(close_timeout=0.2)
    async with serve(handler, carrier, options=options) as service:
        async with service.peer():
            pass
        await ended.wait()


@every_carrier_with_frames
async def test_close_and_ping_are_answered_while_the_handler_does_not_receive(
    carrier: str,
) -> None:
    async def handler(socket: WebSocket) -> None:
        await socket.wait_closed()

    async with serve(handler, carrier) as service, service.peer() as peer:
        await peer.send(0x89, b"are you there")
        assert await peer.receive() == (0x8A, b"are you there")
        await peer.send(0x88, b"\x03\xe8")
        assert await peer.receive_close() == (1000, "")


@every_carrier_with_frames
async def test_a_close_is_answered_after_what_came_before_it(carrier: str) -> None:
    async def handler(socket: WebSocket) -> None:
        async for message in socket:
            await trio.sleep(0.01)
            await socket.send(message)

    async with serve(handler, carrier) as service, service.peer() as peer:
        await peer.send_raw(b"".join((frame(0x82, b"1"), frame(0x82, b"2"), frame(0x88, b""))))
        assert await peer.receive() == (0x82, b"1")
        assert await peer.receive() == (0x82, b"2")
        assert await peer.receive() == (0x88, b"")


@every_carrier_with_frames
async def test_ping_returns_the_round_trip_time(carrier: str) -> None:
    times: list[float] = []

    async def handler(socket: WebSocket) -> None:
        times.append(await socket.ping())
        await socket.send("done")

    async with serve(handler, carrier) as service, service.connect() as client:
        assert await client.get_message() == "done"
    assert 0 < times[0] < 5


@every_carrier_with_frames
async def test_the_slowness_of_a_handler_pauses_the_peer_and_loses_nothing(carrier: str) -> None:
    options = WebSocketOptions(inbox_size=65536)
    go = trio.Event()
    sockets: list[WebSocket] = []
    count = 600

    async def handler(socket: WebSocket) -> None:
        sockets.append(socket)
        await go.wait()
        for number in range(count):
            assert await socket.receive() == number.to_bytes(4, "big") * 4096
        await socket.send("all")

    async with serve(handler, carrier, options=options) as service, service.peer() as peer:

        async def send() -> None:
            for number in range(count):
                await peer.send(0x82, number.to_bytes(4, "big") * 4096, b"\0\0\0\0")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.sleep(0.3)
            assert sockets[0].full
            held = sum(len(chunk[0]) for chunk in sockets[0]._inbox + sockets[0]._batch)
            assert held < 65536 + 2 * 65536
            go.set()
            assert await peer.receive() == (0x81, b"all")


@every_carrier
async def test_sending_to_a_peer_that_does_not_read_waits_and_can_be_cancelled(
    carrier: str,
) -> None:
    done = trio.Event()

    async def handler(socket: WebSocket) -> None:
        with trio.move_on_after(0.3) as scope:
            while True:
                await socket.send(b"x" * 16384)
        assert scope.cancelled_caught
        assert socket.carrier.size <= socket.options.send_buffer_size + 16384 + 100
        done.set()
        socket.abort()

    async with serve(handler, carrier, lockstep=True) as service, service.peer():
        await done.wait()


@every_carrier
async def test_a_peer_that_does_not_read_is_dropped_after_the_send_timeout(carrier: str) -> None:
    done = trio.Event()
    options = WebSocketOptions(send_timeout=0.4)

    async def handler(socket: WebSocket) -> None:
        with pytest.raises(ConnectionClosedError, match="send_timeout"):
            while True:
                await socket.send(b"x" * 16384)
        done.set()

    async with (
        serve(handler, carrier, options=options, lockstep=True) as service,
        service.peer(),
    ):
        await done.wait()


@every_carrier_with_frames
async def test_a_peer_that_does_not_answer_a_close_is_dropped_after_the_close_timeout(
    carrier: str,
) -> None:
    options = WebSocketOptions(close_timeout=0.3)
    took: list[float] = []

    async def handler(socket: WebSocket) -> None:
        start = trio.current_time()
        await socket.close()
        took.append(trio.current_time() - start)
        assert socket.state is State.ABORTED

    async with serve(handler, carrier, options=options) as service, service.peer() as peer:
        assert await peer.receive_close() == (1000, "")
        await peer.receive_eof()
        await trio.testing.wait_all_tasks_blocked(0.05)
    assert 0.25 < took[0] < 2


@every_carrier_with_frames
@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(b"\x82\x01x", 1002, id="unmasked frame"),
        pytest.param(b"\xc2\x80\0\0\0\0", 1002, id="reserved bit"),
        pytest.param(b"\x83", 1002, id="undefined opcode"),
        pytest.param(b"\x89\xfe", 1002, id="oversized control frame"),
        pytest.param(b"\x09\x80", 1002, id="fragmented control frame"),
        pytest.param(b"\x80", 1002, id="continuation of nothing"),
        pytest.param(b"\x88\x81\0\0\0\0\x03", 1002, id="half a close code"),
        pytest.param(b"\x88\x82\0\0\0\0\x03\xed", 1002, id="close code 1005"),
        pytest.param(b"\x81\x82\0\0\0\0\xc3\x28", 1007, id="bad UTF-8"),
        pytest.param(b"\x88\x83\0\0\0\0\x03\xe8\xff", 1007, id="bad UTF-8 in a close reason"),
        pytest.param(b"\x82\xff\0\0\0\0\x7f\xff\xff\xff\0\0\0\0", 1009, id="too large"),
    ],
)
async def test_bad_input_gets_its_close_code_at_the_first_offending_byte(
    carrier: str, sent: bytes, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    options = WebSocketOptions(close_timeout=0.3)
    async with serve(iterate, carrier, options=options) as service, service.peer() as peer:
        await peer.send(0x82, b"first")
        await peer.send_raw(sent)
        assert await peer.receive() == (0x82, b"first")
        assert (await peer.receive_close())[0] == code
        await peer.receive_eof()
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


@every_carrier
async def test_a_message_that_is_too_large_is_refused_with_1009(carrier: str) -> None:
    options = WebSocketOptions(max_message_size=1000, close_timeout=0.3)
    async with serve(iterate, carrier, options=options) as service, service.connect() as client:
        await client.send_message(b"x" * 1000)
        assert await client.get_message() == b"x" * 1000
        await client.send_message(b"x" * 1001)
        with pytest.raises(ClientClosed):
            await client.get_message()
        assert close_code(client) == 1009


@every_carrier
async def test_tasks_of_the_sockets_nursery_end_with_the_handler(carrier: str) -> None:
    cancelled = trio.Event()

    async def ticker() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async def handler(socket: WebSocket) -> None:
        socket.nursery.start_soon(ticker)
        await socket.receive()

    async with serve(handler, carrier) as service, service.connect() as client:
        await client.send_message("end")
        await cancelled.wait()


@every_carrier
async def test_a_task_of_the_sockets_nursery_that_fails_closes_with_1011(
    carrier: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise LookupError("on purpose")

    async def handler(socket: WebSocket) -> None:
        socket.nursery.start_soon(fail)
        await trio.sleep_forever()

    async with serve(handler, carrier) as service, service.connect() as client:
        with pytest.raises(ClientClosed):
            await client.get_message()
        assert close_code(client) == 1011
    assert "on purpose" in caplog.text


@every_carrier
async def test_a_subprotocol_is_agreed_on(carrier: str) -> None:
    async with (
        serve(iterate, carrier, accept_options={"subprotocol": "b"}) as service,
        service.connect(subprotocols=["a", "b"]) as client,
    ):
        assert client.subprotocol == "b"
        await client.send_message("hello")
        assert await client.get_message() == "hello"


@every_carrier
async def test_a_message_is_sent_in_parts(carrier: str) -> None:
    async def handler(socket: WebSocket) -> None:
        await socket.send_chunk(b"one ", MessageType.TEXT, False)
        with pytest.raises(UsageError):
            await socket.send("another")
        with pytest.raises(UsageError):
            await socket.send_chunk(b"", MessageType.BINARY, True)
        await socket.send_chunk(b"message", MessageType.TEXT, True)
        await socket.send("another")

    async with serve(handler, carrier) as service, service.connect() as client:
        assert await client.get_message() == "one message"
        assert await client.get_message() == "another"


@every_carrier_with_frames
async def test_parts_come_before_their_message_has_wholly_arrived(carrier: str) -> None:
    options = WebSocketOptions(receive_buffer_size=1000)

    async with serve(echo, carrier, options=options) as service, service.peer() as peer:
        await peer.send_raw(b"\x82\xfe\x0b\xb8" + bytes(4) + b"a" * 1500)  # 1,500 of 3,000
        assert await peer.receive() == (0x02, b"a" * 1000)
        await peer.send_raw(b"a" * 1500)
        assert await peer.receive() == (0x00, b"a" * 1000)
        assert await peer.receive() == (0x80, b"a" * 1000)
        await peer.send(0x01, b"frag")
        assert await peer.receive() == (0x01, b"frag")
        await peer.send(0x89, b"")
        assert await peer.receive() == (0x8A, b"")
        await peer.send(0x80, b"ment")
        assert await peer.receive() == (0x80, b"ment")


@every_carrier
async def test_a_cancelled_receive_loses_no_part_of_a_message(carrier: str) -> None:
    options = WebSocketOptions(receive_buffer_size=1000)

    async def handler(socket: WebSocket) -> None:
        with trio.move_on_after(0.2) as scope:
            await socket.receive()
        assert scope.cancelled_caught
        await socket.send("cancelled")
        message = await socket.receive()
        await socket.send(str(len(message)))

    async with serve(handler, carrier, options=options) as service, service.peer() as peer:
        await peer.send(0x02, b"a" * 1500)
        assert await peer.receive() == (0x81, b"cancelled")
        await peer.send(0x80, b"b" * 500)
        assert await peer.receive() == (0x81, b"2000")


@every_carrier
async def test_two_tasks_may_not_receive_at_once(carrier: str) -> None:
    async def handler(socket: WebSocket) -> None:
        socket.nursery.start_soon(socket.receive)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await socket.receive()
        await socket.send("checked")

    async with serve(handler, carrier) as service, service.connect() as client:
        assert await client.get_message() == "checked"


@every_carrier
async def test_a_shutdown_closes_open_sockets_with_1001(carrier: str) -> None:
    async def handler(socket: WebSocket) -> None:
        await iterate(socket)

    async with (
        serve(handler, carrier) as service,
        service.connect() as one,
        service.connect() as two,
    ):
        await one.send_message("hello")
        assert await one.get_message() == "hello"
        await two.send_message("hello")
        assert await two.get_message() == "hello"
        if carrier == "asgi":
            pytest.skip("without a seam a server does not tell that it shuts down")
        service.shut_down()
        for client in (one, two):
            with pytest.raises(ClientClosed):
                await client.get_message()
            assert close_code(client) == 1001


@every_carrier_with_frames
async def test_who_awaits_the_shutdown_has_time_for_last_words(carrier: str) -> None:
    async def handler(socket: WebSocket) -> None:
        await socket.send("ready")
        await socket.shutting_down()
        await trio.sleep(0.2)
        await socket.send("last words")
        await socket.close(1012)

    async with serve(handler, carrier) as service, service.connect() as client:
        assert await client.get_message() == "ready"
        service.shut_down()
        assert await client.get_message() == "last words"
        with pytest.raises(ClientClosed):
            await client.get_message()
        assert close_code(client) == 1012


@pytest.mark.parametrize("carrier", ["tcp", "portable", "unix", "tls"])
async def test_a_shutdown_ends_in_its_grace_whatever_the_peers_do(carrier: str) -> None:
    async def handler(socket: WebSocket) -> None:
        if await socket.receive() == "pour":
            while True:
                await socket.send(b"x" * 16384)
        await trio.sleep_forever()

    async with (
        serve(handler, carrier, grace=1.0) as service,
        service.peer() as deaf,
        service.peer() as silent,
        service.connect() as good,
    ):
        await deaf.send(0x81, b"pour")
        await silent.send(0x81, b"sleep")
        await trio.sleep(0.2)
        start = trio.current_time()
        service.shut_down()
        with pytest.raises(ClientClosed):
            await good.get_message()
        assert close_code(good) == 1001
        await service.over.wait()
        assert trio.current_time() - start < 2.0


@every_carrier_with_frames
async def test_compressed_messages_come_back(carrier: str) -> None:
    options = WebSocketOptions(compression=True)
    async with (
        serve(iterate, carrier, options=options) as service,
        service.peer("Sec-WebSocket-Extensions: permessage-deflate") as peer,
    ):
        assert "permessage-deflate" in peer.response
        deflater = zlib.compressobj(wbits=-15)
        inflater = zlib.decompressobj(-15)
        for text in (b"hello " * 100, b"hello " * 100, b""):
            data = deflater.compress(text) + deflater.flush(zlib.Z_SYNC_FLUSH)
            await peer.send(0xC1, data[:-4])
            first, payload = await peer.receive()
            assert first == 0xC1
            assert inflater.decompress(payload + b"\0\0\xff\xff") == text


@every_carrier
async def test_messages_sent_without_waiting_come_in_order_and_are_counted(carrier: str) -> None:
    counted: list[int] = []

    async def handler(socket: WebSocket) -> None:
        for number in range(100):
            socket.send_nowait(b"%03d" % number, MessageType.TEXT)
        counted.append(socket.unsent)
        await socket.drained()
        await socket.receive()

    async with serve(handler, carrier) as service, service.connect() as client:
        assert [await client.get_message() for _ in range(100)] == [f"{n:03}" for n in range(100)]
        await client.send_message("done")
    assert counted[0] >= 500


@every_carrier
async def test_who_waits_for_a_peer_that_leaves_is_let_go(carrier: str) -> None:
    gone = trio.Event()

    async def handler(socket: WebSocket) -> None:
        socket.send_nowait(bytes(32 << 20), MessageType.BINARY)
        await socket.drained()
        with pytest.raises(ConnectionClosed):
            socket.send_nowait(b"", MessageType.BINARY)
        gone.set()

    async with serve(handler, carrier, lockstep=True) as service:
        async with service.peer():
            await trio.sleep(0.05)
        await gone.wait()
