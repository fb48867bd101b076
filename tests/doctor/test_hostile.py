"""Whatever a server does, the doctor ends in time, in little memory, and says what it saw."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from echo.doctor.case import Case, Options
from echo.doctor.session import Closed, Session
from echo.doctor.wire import Trouble, Wire
from tests.doctor.servers import (
    Handler,
    accept_of,
    cause,
    examined,
    finding,
    opening,
    printed,
    request,
    respond,
    served,
)

MIB = 1024 * 1024

# Seconds for an answer: SHORT where none comes, LONG where one does, also from a busy machine.
SHORT, LONG = 0.5, 10.0


async def silent(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def leaving(stream: trio.SocketStream) -> None:
    await request(stream)


async def at_once_gone(stream: trio.SocketStream) -> None:
    pass


async def babbling(stream: trio.SocketStream) -> None:
    await stream.send_all(b"SSH-2.0-OpenSSH_9.2\r\n\x00\xff\x1b[31m")
    await trio.sleep_forever()


async def with_endless_headers(stream: trio.SocketStream) -> None:
    await request(stream)
    await stream.send_all(b"HTTP/1.1 200 OK\r\n")
    while True:
        await stream.send_all(b"X-More: and more\r\n" * 100)


async def with_an_endless_line(stream: trio.SocketStream) -> None:
    await request(stream)
    await stream.send_all(b"HTTP/1.1 200 OK\r\nX-More: ")
    while True:
        await stream.send_all(b"m" * 4096)


async def never_quite_answering(stream: trio.SocketStream) -> None:
    await request(stream)
    while True:
        await stream.send_all(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)


async def dripping(stream: trio.SocketStream) -> None:
    await request(stream)
    await stream.send_all(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        await stream.send_all(b"z")
        await trio.sleep(0.05)


async def with_a_tls_alert(stream: trio.SocketStream) -> None:
    await request(stream)
    await stream.send_all(b"\x15\x03\x03\x00\x02\x02\x46")


async def with_two_lengths(stream: trio.SocketStream) -> None:
    await request(stream)
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx")


@pytest.mark.parametrize(
    ("handler", "expected", "limit"),
    [
        (silent, "no-answer", SHORT),
        (dripping, "no-answer", SHORT),
        (leaving, "ended-early", LONG),
        (at_once_gone, "ended-early", LONG),
        (babbling, "not-http", LONG),
        (with_endless_headers, "endless-answer", LONG),
        (with_an_endless_line, "endless-answer", LONG),
        (never_quite_answering, "endless-answer", LONG),
        (with_a_tls_alert, "tls-unexpected", LONG),
        (with_two_lengths, "not-http", LONG),
    ],
)
async def test_what_is_no_answer_is_named(handler: Handler, expected: str, limit: float) -> None:
    async with served(handler) as target:
        report = await examined(target, limit=limit)
    assert cause(report, "server") == expected, printed(report)
    assert report.first is finding(report, "server")
    assert not report.healthy
    assert finding(report, "handshake").state == "skipped"


@pytest.mark.parametrize(
    ("handler", "expected", "limit"),
    [
        (silent, "no-answer", SHORT),
        (at_once_gone, "tls-failed", LONG),
        (babbling, "tls-missing", LONG),
        (with_endless_headers, "no-answer", SHORT),  # it waits for the end of a request
    ],
)
async def test_what_is_no_tls_is_named(handler: Handler, expected: str, limit: float) -> None:
    async with served(handler, scheme="https") as target:
        report = await examined(target, limit=limit)
    assert cause(report, "tls") == expected, printed(report)
    assert finding(report, "server").state == "skipped"


async def test_without_a_scheme_what_does_not_speak_tls_is_asked_in_plain_http() -> None:
    async def handler(stream: trio.SocketStream) -> None:
        data = await stream.receive_some(1)
        if data == b"G":
            await request(stream)
            await respond(stream, "200 OK", b"hello", "Content-Type: text/plain")

    async with served(handler, scheme="") as target:
        report = await examined(target)
    assert finding(report, "tls").state == "skipped"
    assert finding(report, "page").state == "ok", printed(report)
    assert report.url.startswith("http://")


# In an open WebSocket


async def pinging(stream: trio.SocketStream) -> None:
    while True:
        await stream.send_all(b"\x89\x00" * 1000)


async def never_ending_a_message(stream: trio.SocketStream) -> None:
    await stream.send_all(b"\x02\x00")
    while True:
        await stream.send_all(b"\x00\x00" * 1000)


async def pouring(stream: trio.SocketStream) -> None:
    await stream.send_all(b"\x02\x7f" + (1 << 40).to_bytes(8, "big"))
    while True:
        await stream.send_all(bytes(65536))


async def breaking_the_protocol(stream: trio.SocketStream) -> None:
    await stream.send_all(b"\xf2\x85\xff\xff\xff\xff\xff")
    await trio.sleep_forever()


async def with_bad_text(stream: trio.SocketStream) -> None:
    await stream.send_all(b"\x81\x02\xc3\x28")
    await trio.sleep_forever()


async def with_a_bad_close(stream: trio.SocketStream) -> None:
    await stream.send_all(b"\x88\x02\x03\xed")  # 1005, which is for no frame
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("talk", "expected", "limit"),
    [
        (silent, {"ping": "ping-unanswered", "close": "close-lost"}, SHORT),
        (pinging, {"ping": "ping-unanswered"}, SHORT),
        (never_ending_a_message, {"close": "close-lost"}, SHORT),
        (pouring, {"close": "close-lost"}, SHORT),
        (breaking_the_protocol, {"echo": "protocol-broken", "ping": "protocol-broken"}, LONG),
        (with_bad_text, {"echo": "protocol-broken", "close": "protocol-broken"}, LONG),
        (with_a_bad_close, {"echo": "protocol-broken", "ping": "protocol-broken"}, LONG),
        (at_once_gone, {"echo": "message-cut", "close": "close-lost"}, LONG),
    ],
)
async def test_what_breaks_an_open_websocket_is_named(
    talk: Handler, expected: dict[str, str], limit: float
) -> None:
    tracemalloc.start()
    try:
        async with served(opening(talk)) as target:
            report = await examined(target, *expected, limit=limit)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert finding(report, "handshake").state == "ok", printed(report)
    assert {name: cause(report, name) for name in expected} == expected, printed(report)
    assert peak < 40 * MIB


@asynccontextmanager
async def session(talk: Handler, *headers: str, deflate: bool = False) -> AsyncIterator[Session]:
    """With a server that talks like this."""
    async with (
        served(opening(talk, *headers)) as target,
        Case(target, Options(limit=LONG)).dial(deflate=deflate) as dial,
    ):
        assert dial.session is not None
        yield dial.session


@pytest.mark.parametrize("talk", [never_ending_a_message, pouring])
async def test_a_message_without_an_end_is_not_collected(talk: Handler) -> None:
    async with session(talk) as one:
        with pytest.raises(Trouble, match="nobody asked for"):
            await one.message()


async def test_a_compressed_bomb_is_not_inflated() -> None:
    packer = zlib.compressobj(wbits=-15)
    block = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_SYNC_FLUSH)

    async def bomb(stream: trio.SocketStream) -> None:
        await stream.send_all(b"\x42\x7f" + (1 << 40).to_bytes(8, "big"))
        while True:
            await stream.send_all(block)

    taken = "Sec-WebSocket-Extensions: permessage-deflate"
    tracemalloc.start()
    try:
        async with session(bomb, taken, deflate=True) as one:
            with pytest.raises(Trouble, match="nobody asked for"):
                await one.message()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 30 * MIB


async def test_a_close_frame_ends_the_session_for_good() -> None:
    async def closing(stream: trio.SocketStream) -> None:
        await stream.send_all(b"\x88\x04\x0f\xa1no")
        await trio.sleep_forever()

    async with session(closing) as one:
        for _ in range(2):
            with pytest.raises(Closed, match="4001 no"):
                await one.message()
        with pytest.raises(Closed, match="4001 no"):
            await one.text("too late")


async def test_a_socket_that_the_service_closes_when_idle_is_not_one_that_is_cut() -> None:
    async def closing(stream: trio.SocketStream) -> None:
        await trio.sleep(0.2)
        await stream.send_all(b"\x88\x06\x03\xe9idle")

    async def cutting(stream: trio.SocketStream) -> None:
        await trio.sleep(0.2)

    for talk, expected in ((closing, "idle-closed"), (cutting, "idle-cut")):
        async with served(opening(talk)) as target:
            report = await examined(target, "idle", idle=LONG)
        assert cause(report, "idle") == expected, printed(report)
        assert "no ping came from the service" in finding(report, "idle").seen


# In the answer to the handshake


def answering(*headers: str, right: bool = True) -> Handler:
    """A server whose 101 has these headers, after the right ones if `right`."""
    if right:
        return opening(silent, *headers)

    async def handler(stream: trio.SocketStream) -> None:
        asked = await request(stream)
        if "sec-websocket-key" not in asked:
            await respond(stream, "404 Not Found")
            return
        accept = accept_of(asked["sec-websocket-key"])
        lines = ["HTTP/1.1 101 Yes", f"Sec-WebSocket-Accept: {accept}", *headers, "", ""]
        await stream.send_all("\r\n".join(lines).encode())
        await silent(stream)

    return handler


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (answering("Sec-WebSocket-Protocol: chat"), "answer-unasked"),
        (answering("Sec-WebSocket-Extensions: permessage-deflate"), "answer-unasked"),
        (answering("Sec-WebSocket-Accept: other"), "accept-wrong"),
        (answering(right=False), "answer-wrong"),
        (answering("Upgrade: websocket", right=False), "answer-wrong"),
    ],
)
async def test_an_answer_that_no_client_takes_is_named(handler: Handler, expected: str) -> None:
    async with served(handler) as target:
        report = await examined(target, limit=LONG)
    assert cause(report, "answer") == expected
    assert finding(report, "echo").state == "skipped"


async def test_odd_compression_is_named() -> None:
    odd = "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99"
    async with served(opening(silent, odd)) as target:
        with pytest.raises(Trouble, match="compression is answered with") as trouble:
            async with Case(target, Options()).dial(deflate=True):
                pass
    assert trouble.value.cause.id == "protocol-broken"


# The report


async def test_words_of_a_server_cannot_write_on_the_terminal() -> None:
    evil = b"\x1b]0;owned\x07\x1b[2J\r\nAll is well.\x9b31m" * 50

    async def handler(stream: trio.SocketStream) -> None:
        await request(stream)
        await respond(stream, "400 Bad Request", evil, "Content-Type: text/plain")

    async with served(handler) as target:
        report = await examined(target)
    text = printed(report)
    assert cause(report, "handshake") == "bad-request"
    assert all(line.isprintable() for line in text.splitlines())
    assert "\nAll is well." not in text
    assert len(text) < 6000


async def test_the_deadline_ends_it_with_a_report() -> None:
    async def slow(stream: trio.SocketStream) -> None:
        await request(stream)
        await trio.sleep(0.3)
        await respond(stream, "200 OK", b"hello", "Content-Type: text/plain")

    async with served(slow) as target:
        report = await examined(target, deadline=0.7)
    first = report.first
    assert first is not None and first.cause is not None
    assert first.cause.id == "deadline"
    later = report.findings[report.findings.index(first) + 1 :]
    assert later and {each.seen for each in later} == {"the time is over"}
    assert 0.6 < report.seconds < 5


async def test_an_error_of_the_doctor_costs_one_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(Wire, "get", broken)
    async with served(opening(silent)) as target:
        report = await examined(target)
    assert cause(report, "server") == "doctor-error"
    assert "ZeroDivisionError" in printed(report)
