"""permessage-deflate: what is agreed on, that both ends understand each other, and bombs."""

from __future__ import annotations

import time
import tracemalloc
import zlib
from collections import deque

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from echo.websocket import ConnectionClosedError, WebSocket, WebSocketOptions
from echo.websocket.codec import BINARY, Chunk, Decoder, Event, Ping, Violation
from echo.websocket.deflate import Agreement, Deflater, Inflater, negotiate
from tests.harness import frame, serve

PLAIN = Agreement(True, True, 15, 15, "")


# What is agreed on


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("permessage-deflate", "permessage-deflate"),
        ("Permessage-Deflate", "permessage-deflate"),
        (
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; client_max_window_bits=15",
        ),
        (
            "permessage-deflate; client_max_window_bits=10",
            "permessage-deflate; client_max_window_bits=10",
        ),
        (
            'permessage-deflate; server_max_window_bits="12"',
            "permessage-deflate; server_max_window_bits=12",
        ),
        (
            "permessage-deflate ; server_no_context_takeover ;client_no_context_takeover",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        ),
        ("x-webkit-deflate-frame, permessage-deflate", "permessage-deflate"),
        ('foo; bar="a, permessage-deflate, b"', None),
        (
            "permessage-deflate; server_max_window_bits=8, permessage-deflate",
            "permessage-deflate",
        ),
        (
            "permessage-deflate; server_no_context_takeover, permessage-deflate",
            "permessage-deflate; server_no_context_takeover",
        ),
        ("", None),
        ("permessage-bzip2", None),
        ("permessage-deflate; unknown", None),
        ("permessage-deflate; unknown=1", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; server_max_window_bits=", None),
        ('permessage-deflate; server_max_window_bits=""', None),
        ('permessage-deflate; server_max_window_bits="10', None),
        ("permessage-deflate; server_max_window_bits=10 11", None),
        ("permessage-deflate; server_max_window_bits=8", None),
        ("permessage-deflate; server_max_window_bits=16", None),
        ("permessage-deflate; server_max_window_bits=010", None),
        ("permessage-deflate; client_max_window_bits=8", None),
        ("permessage-deflate; client_max_window_bits=7", None),
        ("permessage-deflate; client_max_window_bits=", None),
        ("permessage-deflate; client_max_window_bits=-9", None),
        ("permessage-deflate; server_no_context_takeover=1", None),
        ("permessage-deflate; client_no_context_takeover=true", None),
        ("permessage-deflate; client_max_window_bits; client_max_window_bits=10", None),
        ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
        ("permessage-deflate;", None),
        ("permessage-deflate; ; server_no_context_takeover", None),
    ],
)
def test_the_first_acceptable_offer_is_answered_and_any_other_declined(
    offer: str, answer: str | None
) -> None:
    agreement = negotiate(offer)
    assert (agreement.response if agreement else None) == answer


def test_our_own_wishes_are_part_of_the_answer() -> None:
    agreement = negotiate(
        "permessage-deflate; server_max_window_bits=14",
        server_context_takeover=False,
        server_max_window_bits=11,
    )
    assert agreement is not None
    assert not agreement.server_context_takeover
    assert agreement.client_context_takeover
    assert agreement.server_max_window_bits == 11
    assert agreement.response == (
        "permessage-deflate; server_no_context_takeover; server_max_window_bits=11"
    )


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("," * 16_000, id="commas"),
        pytest.param('",' * 8_000, id="quotes"),
        pytest.param("a;" * 8_000, id="semicolons"),
        pytest.param("a" + " " * 15_000 + "b", id="spaces"),
        # Exponential if the space belongs to both sides of the semicolon: keep it short.
        pytest.param("a" + " ; b" * 18 + ' ="', id="spaces about semicolons"),
    ],
)
def test_a_hostile_offer_is_read_in_no_time(header: str) -> None:
    start = time.perf_counter()
    assert negotiate(header) is None
    assert time.perf_counter() - start < 0.1


# Both directions, against websockets and zlib


messages = st.lists(
    st.one_of(st.binary(max_size=300), st.integers(0, 5000).map(lambda size: b"abc " * size)),
    max_size=6,
)
bits = st.integers(9, 15)


@settings(max_examples=100, deadline=None)
@given(messages, st.booleans(), bits)
def test_websockets_inflates_what_we_deflate(
    contents: list[bytes], takeover: bool, window: int
) -> None:
    deflater = Deflater(Agreement(takeover, True, window, 15, ""))
    theirs = PerMessageDeflate(not takeover, False, window, 15)
    for content in contents:
        data = deflater.deflate(content, ends=True)
        sent = Frame(Opcode.BINARY, data, rsv1=True)
        assert bytes(theirs.decode(sent).data) == content


@settings(max_examples=100, deadline=None)
@given(messages, st.booleans(), bits, st.lists(st.integers(1, 40), max_size=100))
def test_we_inflate_what_websockets_deflates_however_it_is_cut(
    contents: list[bytes], takeover: bool, window: int, sizes: list[int]
) -> None:
    agreement = Agreement(True, takeover, 15, window, "")
    decoder, inbox = _make(agreement, 1 << 20, 1000)
    theirs = PerMessageDeflate(False, not takeover, 15, window)
    stream = b""
    for content in contents:
        made = theirs.encode(Frame(Opcode.BINARY, content))
        stream += frame(0xC2, bytes(made.data))
    for size in sizes:
        assert not decoder.feed(stream[:size]) or decoder.stalled
        stream = stream[size:]
    assert not decoder.feed(stream)
    received: list[Chunk] = []
    while True:
        received += inbox
        inbox.clear()
        if not decoder.stalled:
            break
        assert not decoder.feed(b"")
    assert all(len(data) <= 1000 for data, _, _ in received)
    assert _messages(received) == contents


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5), st.booleans())
def test_a_message_deflated_in_parts_is_one_message(parts: list[bytes], takeover: bool) -> None:
    agreement = Agreement(takeover, takeover, 15, 15, "")
    deflater = Deflater(agreement)
    decoder, inbox = _make(agreement, 1 << 20, 1 << 16)
    for _ in range(2):
        for index, part in enumerate(parts):
            end = index == len(parts) - 1
            first = (0x80 if end else 0) | (0x42 if index == 0 else 0)
            assert not decoder.feed(frame(first, deflater.deflate(part, ends=end)))
        assert _messages(list(inbox)) == [b"".join(parts)]
        inbox.clear()


def test_a_block_marked_final_ends_no_message() -> None:
    deflater = zlib.compressobj(wbits=-15)
    final = deflater.compress(b"hello ") + deflater.flush(zlib.Z_FINISH)
    decoder, inbox = _make(PLAIN, 1000, 1000)
    assert not decoder.feed(frame(0xC2, final + b"\0"))
    assert not decoder.feed(frame(0xC2, Deflater(PLAIN).deflate(b"again", ends=True)))
    assert _messages(list(inbox)) == [b"hello ", b"again"]


def test_uncompressed_messages_pass_between_compressed_ones() -> None:
    deflater = Deflater(PLAIN)
    decoder, inbox = _make(PLAIN, 1000, 1000)
    stream = (
        frame(0xC2, deflater.deflate(b"one", ends=True))
        + frame(0x82, b"two")
        + frame(0xC2, deflater.deflate(b"one", ends=True))
    )
    assert not decoder.feed(stream)
    assert _messages(list(inbox)) == [b"one", b"two", b"one"]


# What is refused


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x06", b"\x00\x01\x00\x00\x00x"])
def test_data_that_is_no_deflate_stream_is_refused_with_1007(data: bytes) -> None:
    decoder, _ = _make(PLAIN, 1000, 1000)
    events = decoder.feed(frame(0xC2, data) + frame(0xC2, data))
    assert [event.code for event in events if isinstance(event, Violation)] == [1007]


@pytest.mark.parametrize("first", [0xC0, 0xC8, 0xC9, 0xE2, 0x40])
def test_the_compression_bit_belongs_on_the_first_frame_of_a_message_alone(first: int) -> None:
    decoder, _ = _make(PLAIN, 1000, 1000)
    decoder.feed(frame(0x42, b""))
    (violation,) = decoder.feed(bytes([first]))
    assert isinstance(violation, Violation)
    assert violation.code == 1002


def test_compressed_text_that_is_not_utf8_is_refused_with_1007() -> None:
    decoder, _ = _make(PLAIN, 1000, 1000)
    (violation,) = decoder.feed(frame(0xC1, Deflater(PLAIN).deflate(b"\xff", ends=True)))
    assert isinstance(violation, Violation)
    assert violation.code == 1007


def _bomb(size: int) -> bytes:
    deflater = zlib.compressobj(9, wbits=-15)
    data = b"".join(deflater.compress(bytes(1 << 20)) for _ in range(size >> 20))
    return (data + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def test_a_bomb_is_refused_with_1009_before_it_costs_memory() -> None:
    bomb = frame(0xC2, _bomb(64 << 20))
    tracemalloc.start()
    try:
        decoder, inbox = _make(PLAIN, 256 * 1024, 65_536)
        events = list(decoder.feed(bomb))
        for _ in range(10):
            inbox.clear()
            events += decoder.feed(b"")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [event.code for event in events if isinstance(event, Violation)] == [1009]
    assert not decoder.stalled  # or who waits for its end would wait for ever
    assert peak < 2 << 20


async def test_a_bomb_closes_its_socket_with_1009_and_costs_less_than_two_megabytes() -> None:
    bomb = frame(0xC2, _bomb(64 << 20))
    raised: list[BaseException] = []

    async def handler(socket: WebSocket) -> None:
        with pytest.raises(ConnectionClosedError) as info:
            await socket.receive()
        raised.append(info.value)

    options = WebSocketOptions(compression=True, max_message_size=256 * 1024, close_timeout=0.3)
    async with (
        serve(handler, options=options) as service,
        service.peer("Sec-WebSocket-Extensions: permessage-deflate") as peer,
    ):
        tracemalloc.start()
        try:
            await peer.send_raw(bomb)
            assert (await peer.receive_close())[0] == 1009
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert raised
    assert peak < 2 << 20


# Stalls


def test_inflating_stops_when_it_has_put_enough_and_goes_on_when_asked() -> None:
    content = bytes(range(256)) * 40
    stream = (
        frame(0xC2, Deflater(PLAIN).deflate(content, ends=True))
        + frame(0x89, b"after")
        + frame(0x82, b"last")
    )
    decoder, inbox = _make(PLAIN, 1 << 20, 1000)
    assert not decoder.feed(stream[:-3])
    assert decoder.stalled
    assert len(inbox) <= 2
    assert not decoder.feed(stream[-3:])  # what comes in a stall waits its turn
    received: list[Chunk] = []
    events: list[Event] = []
    while True:
        assert len(inbox) <= 2 + 2  # and what comes after
        received += inbox
        inbox.clear()
        if not decoder.stalled:
            break
        events += decoder.feed(b"")
    assert events == [Ping(b"after")]
    assert _messages(received) == [content, b"last"]


@pytest.mark.parametrize("size", [999, 1000, 1001, 2000, 3000])
def test_a_message_that_inflates_to_whole_chunks_ends_once(size: int) -> None:
    decoder, inbox = _make(PLAIN, 1 << 20, 1000)
    assert not decoder.feed(frame(0xC2, Deflater(PLAIN).deflate(bytes(size), ends=True)))
    received: list[Chunk] = []
    while True:
        received += inbox
        inbox.clear()
        if not decoder.stalled:
            break
        assert not decoder.feed(b"")
    assert [end for _, _, end in received].count(True) == 1
    assert received[-1][2]
    assert {kind for _, kind, _ in received} == {BINARY}
    assert sum(len(data) for data, _, _ in received) == size


async def test_a_handler_that_takes_its_time_gets_all_of_a_message_that_inflates_much() -> None:
    content = bytes(5 << 20)
    sizes: list[int] = []

    async def handler(socket: WebSocket) -> None:
        await trio.testing.wait_all_tasks_blocked()
        assert socket.full
        sizes.append(len(await socket.receive()))
        await socket.send("done")

    options = WebSocketOptions(compression=True)
    async with (
        serve(handler, options=options) as service,
        service.peer("Sec-WebSocket-Extensions: permessage-deflate") as peer,
    ):
        await peer.send_raw(frame(0xC2, _bomb(5 << 20)) + frame(0x89, b"behind"))
        answers = {await peer.receive(), await peer.receive()}
    assert sizes == [len(content)]
    assert (0x8A, b"behind") in answers


def _make(
    agreement: Agreement, max_message_size: int, chunk_size: int
) -> tuple[Decoder, deque[Chunk]]:
    inbox: deque[Chunk] = deque()
    return (
        Decoder(
            inbox,
            max_message_size=max_message_size,
            chunk_size=chunk_size,
            inflater=Inflater(agreement),
        ),
        inbox,
    )


def _messages(chunks: list[Chunk]) -> list[bytes]:
    messages: list[bytes] = []
    parts: list[bytes] = []
    for data, _, end in chunks:
        parts.append(data)
        if end:
            messages.append(b"".join(parts))
            parts = []
    return messages
