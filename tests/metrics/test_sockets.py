"""What clients do with sockets, and what the metrics say of it, on each carrier."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

import pytest
import trio
from prometheus_client import CollectorRegistry
from trio.testing import memory_stream_one_way_pair

from echo.metrics import AppCollector, Exposition
from echo.websocket import WebSocket, WebSocketOptions
from echo.websocket.carriers.stream import StreamCarrier
from echo.websocket.codec import is_close_code
from echo.websocket.counters import Counters, Histogram
from tests.harness import Peer, Service, frame, serve
from tests.metrics.scraped import Scraped

KINDS = {"tcp": "reactor", "portable": "stream", "memory": "stream", "http2": "stream"}


class Metered:
    """A service whose metrics can be asked for."""

    def __init__(self, service: Service) -> None:
        self.service = service
        collector = AppCollector(service.app)
        collector.worker = service.middleware.worker
        registry = CollectorRegistry()
        registry.register(collector)
        self._exposition = Exposition(registry)

    def scrape_bytes(self) -> bytes:
        return self._exposition.answer()[0]

    def scrape(self) -> Scraped:
        return Scraped(self.scrape_bytes())

    async def until(self, holds: Callable[[Scraped], bool]) -> Scraped:
        """The first scrape for which this holds."""
        while not holds(scraped := self.scrape()):  # noqa: ASYNC110  (nobody tells)
            await trio.sleep(0.01)
        return scraped


async def echo(socket: WebSocket) -> None:
    async for message in socket:
        await socket.send(message)


@asynccontextmanager
async def metered(
    handler: Any = echo, carrier: str = "tcp", **options: Any
) -> AsyncIterator[Metered]:
    with trio.fail_after(20):
        async with serve(handler, carrier, options=WebSocketOptions(**options)) as service:
            yield Metered(service)


@pytest.mark.parametrize("carrier", ["tcp", "portable"])
async def test_messages_and_bytes_are_those_of_the_client(carrier: str) -> None:
    sent = [
        frame(0x81, b"hello"),
        frame(0x82, b"x" * 200),  # with a long header
        frame(0x82, b"y" * 70_000),
        *(frame(0x01, b"in "), frame(0x00, b"three "), frame(0x80, b"parts")),
        frame(0x89, b"ping"),
        frame(0x81, b"at once") * 50,
    ]
    # Of the answer: the headers have no mask.
    answered = [2 + 5, 4 + 200, 10 + 70_000, 2 + 14, 2 + 4, (2 + 7) * 50]
    async with metered(carrier=carrier) as service, service.service.peer() as peer:
        before = await service.until(  # the answer to the handshake is written
            lambda now: now.value("echo_websocket_bytes_total", direction="sent") > 0
        )
        kind = KINDS[carrier]
        assert before.value("echo_websockets", carrier=kind, state="open") == 1
        assert before.value("echo_websockets_opened_total") == 1
        await peer.send_raw(b"".join(sent))
        for _ in range(4 + 1 + 50):
            await peer.receive()
        after = await service.until(
            lambda now: (
                now.value("echo_websocket_bytes_total", direction="sent")
                == before.value("echo_websocket_bytes_total", direction="sent") + sum(answered)
            )
        )

        def added(name: str, direction: str) -> float:
            return after.value(name, direction=direction) - before.value(name, direction=direction)

        assert added("echo_websocket_messages_total", "received") == 54
        assert added("echo_websocket_bytes_total", "received") == len(b"".join(sent))
        assert added("echo_websocket_messages_total", "sent") == 54
        assert after.value("echo_websocket_unsent_bytes") == 0

        await peer.send(0x88, b"\x03\xe8")
        assert await peer.receive_close() == (1000, "")
        over = await service.until(
            lambda now: not now.value("echo_websockets", carrier=kind, state="open")
        )
        assert over.value("echo_websocket_closes_total", by="client", code="1000") == 1
        assert over.value("echo_websocket_messages_total", direction="sent") == 54
        assert sum(dropped(over).values()) == 0


@pytest.mark.parametrize("carrier", ["tcp", "portable", "memory", "http2", "asgi"])
async def test_every_carrier_is_counted(carrier: str) -> None:
    kind = KINDS.get(carrier, "asgi")
    async with metered(carrier=carrier) as service:
        async with service.service.connect() as client:
            for number in range(3):
                await client.send_message(f"message {number}")
                assert await client.get_message() == f"message {number}"
            scraped = service.scrape()
            assert scraped.value("echo_websockets", carrier=kind, state="open") == 1
            for direction in ("received", "sent"):
                assert scraped.value("echo_websocket_messages_total", direction=direction) == 3
                assert scraped.value("echo_websocket_bytes_total", direction=direction) > 3 * 9
        # Hypercorn does not tell who closed, nor the code.
        by, code = ("nobody", "1006") if carrier == "asgi" else ("client", "1000")
        await service.until(
            lambda now: now.value("echo_websocket_closes_total", by=by, code=code) == 1
        )


def dropped(scraped: Scraped) -> dict[str, float]:
    """Drops by reason, those that never happened left out."""
    return {
        dict(labels)["reason"]: value
        for (name, labels), value in scraped.values.items()
        if name == "echo_websocket_drops_total" and value
    }


async def wait_for_it(peer: Peer) -> None:
    """Do nothing."""


async def ends(service: Metered, act: Callable[[Peer], Any]) -> dict[str, float]:
    """How a client is dropped that does this."""
    async with service.service.peer() as peer:
        await act(peer)
        await peer.receive_eof()
    return dropped(await service.until(lambda now: bool(dropped(now))))


@pytest.mark.parametrize(
    ("reason", "data", "code"),
    [
        ("protocol_error", frame(0x81, b"no mask", None), 1002),
        ("invalid_data", frame(0x81, b"\xff"), 1007),
        ("message_too_big", frame(0x82, bytes(1001)), 1009),
    ],
)
async def test_who_breaks_the_rules_is_counted_by_the_rule(
    reason: str, data: bytes, code: int
) -> None:
    async with metered(max_message_size=1000, close_timeout=0.2) as service:
        assert await ends(service, lambda peer: peer.send_raw(data)) == {reason: 1}
        closed = service.scrape().value("echo_websocket_closes_total", by="server", code=str(code))
        assert closed == 1


async def test_who_is_silent_is_dropped_by_keep_alive() -> None:
    async with metered(keep_alive_interval=0.05, keep_alive_timeout=0.05) as service:
        assert await ends(service, wait_for_it) == {"keep_alive": 1}
        closed = service.scrape().value("echo_websocket_closes_total", by="nobody", code="1006")
        assert closed == 1


async def test_who_does_not_read_is_dropped_as_slow() -> None:
    async def flood(socket: WebSocket) -> None:
        while True:
            await socket.send(bytes(1 << 20))

    async with metered(flood, send_timeout=0.2) as service, service.service.peer():
        scraped = await service.until(lambda now: bool(dropped(now)))
        assert dropped(scraped) == {"slow_client": 1}


async def test_who_vanishes_is_lost() -> None:
    async def vanish(peer: Peer) -> None:
        await trio.aclose_forcefully(peer.stream)

    async with metered() as service:
        assert await ends(service, vanish) == {"lost": 1}


async def test_what_the_application_ends_is_its_own() -> None:
    async def abort(socket: WebSocket) -> None:
        await socket.receive()
        socket.abort()

    async with metered(abort) as service:
        assert await ends(service, lambda peer: peer.send(0x81, b"go")) == {"aborted": 1}


async def test_who_does_not_answer_a_close_frame_is_told_apart() -> None:
    async def close(socket: WebSocket) -> None:
        await socket.close(1000)

    async with metered(close, close_timeout=0.1) as service:
        assert await ends(service, wait_for_it) == {"unanswered_close": 1}
        closed = service.scrape().value("echo_websocket_closes_total", by="server", code="1000")
        assert closed == 1


async def test_what_waits_for_a_slow_client_is_shown() -> None:
    async def burst(socket: WebSocket) -> None:
        for _ in range(64):
            socket.send_nowait(bytes(1 << 20), 2)  # type: ignore[arg-type]
        await socket.wait_closed()

    async with metered(burst) as service, service.service.peer():
        await service.until(lambda now: now.value("echo_websocket_unsent_bytes") > 1 << 20)


async def test_no_client_can_add_labels_without_end() -> None:
    async with metered() as service:
        for code in range(3000, 3040):
            async with service.service.connect() as client:
                await client.aclose(code)
        scraped = await service.until(
            lambda now: now.value("echo_websocket_closes_total", by="client", code="3xxx") == 40
        )
        codes = [key for key in scraped.values if key[0] == "echo_websocket_closes_total"]
        assert len(codes) == 1


def test_all_codes_that_a_client_may_send_are_few_labels() -> None:
    counters = Counters()
    for code in filter(is_close_code, range(65_536)):
        counters.note_close("client", code)
    assert len(counters.closes) < 16
    assert counters.closes["client", "3xxx"] == counters.closes["client", "4xxx"] == 1000


def test_a_histogram_puts_each_value_where_it_belongs() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.5, 100.0):
        histogram.observe(value)
    assert histogram.counts == [2, 1, 2]
    assert histogram.total == 105.5


async def test_a_scrape_of_a_thousand_sockets_takes_no_time() -> None:
    async with metered() as service:
        worker = service.service.middleware.worker
        sockets = [WebSocket(worker, WebSocketOptions()) for _ in range(1000)]
        for socket in sockets:
            StreamCarrier(socket, memory_stream_one_way_pair()[0])
            socket.opened()
        seconds = []
        for _ in range(5):
            begun = perf_counter()
            body = service.scrape_bytes()
            seconds.append(perf_counter() - begun)
        found = Scraped(body).value("echo_websockets", carrier="stream", state="open")
        assert found == 1000
        assert min(seconds) < 0.05
        for socket in sockets:
            socket.abort()
