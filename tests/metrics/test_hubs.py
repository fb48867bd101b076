"""What clients of a hub do, and what the metrics say of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import hypercorn.trio
import trio
import trio_websocket
from hypercorn.config import Config
from prometheus_client import CollectorRegistry
from quart_trio import QuartTrio

import echo.hosting.hypercorn  # noqa: F401  (the server as the service has it)
from echo.hubs import Hub, HubError, HubOptions, map_hub
from echo.hubs.backplane.memory import Exchange, MemoryBackplane
from echo.metrics import Exposition, use_metrics
from tests.metrics.scraped import Scraped

END = "\x1e"


class Sample(Hub):
    async def answer(self) -> str:
        return "here"

    async def slow(self) -> None:
        await trio.sleep(0.03)

    async def fail(self) -> None:
        raise HubError("no")

    async def ask(self, question: str) -> str:
        asked: str = await self.clients.caller.invoke("Question", question, returns=str)
        return asked

    async def stream(self) -> AsyncIterator[int]:
        yield 1
        await trio.sleep_forever()


class Client:
    """A client of the hub that does as it is told."""

    def __init__(self, connection: trio_websocket.WebSocketConnection) -> None:
        self._connection = connection
        self._number = 0

    async def say(self, **message: object) -> None:
        await self._connection.send_message(json.dumps(message) + END)

    async def hear(self) -> dict[str, object]:
        """The next message that is no ping."""
        while True:
            text = str(await self._connection.get_message())
            message: dict[str, object] = json.loads(text.removesuffix(END))
            if message.get("type") != 6:
                return message

    async def begin(self, target: str, *arguments: object, type: int = 1) -> str:
        self._number += 1
        id = str(self._number)
        await self.say(type=type, invocationId=id, target=target, arguments=arguments)
        return id

    async def call(self, target: str, *arguments: object) -> dict[str, object]:
        await self.begin(target, *arguments)
        return await self.hear()


class Served:
    def __init__(self, port: int, exposition: Exposition) -> None:
        self.port = port
        self._exposition = exposition

    def scrape(self) -> Scraped:
        return Scraped(self._exposition.answer()[0])

    async def until(self, name: str, value: float, **labels: str) -> Scraped:
        """The first scrape in which this has that value."""
        while (scraped := self.scrape()).value(name, **labels) != value:  # noqa: ASYNC110  (nobody tells)
            await trio.sleep(0.01)
        return scraped

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        async with trio_websocket.open_websocket(
            "127.0.0.1", self.port, "/hub", use_ssl=False
        ) as connection:
            client = Client(connection)
            await client.say(protocol="json", version=1)
            assert await client.hear() == {}
            yield client

    async def negotiate(self) -> int:
        """The status of a negotiation."""
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            await stream.send_all(
                b"POST /hub/negotiate?negotiateVersion=1 HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Length: 0\r\nConnection: close\r\n\r\n"
            )
            answer = b""
            async for data in stream:
                answer += data
        return int(answer.split()[1])


@asynccontextmanager
async def served(
    options: HubOptions | None = None, backplane: MemoryBackplane | None = None
) -> AsyncIterator[Served]:
    app = QuartTrio("test")
    map_hub(app, "/hub", Sample, options, backplane=backplane)
    exposition = use_metrics(app, registry=CollectorRegistry())
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    config.graceful_timeout = 1
    ended = trio.Event()

    async def serve(task_status: trio.TaskStatus[list[str]]) -> None:
        await hypercorn.trio.serve(
            app,
            config,
            shutdown_trigger=ended.wait,
            task_status=task_status,
        )

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            binds = await nursery.start(serve)
            yield Served(int(binds[0].rpartition(":")[2]), exposition)
            ended.set()


async def test_calls_are_counted_and_timed() -> None:
    async with served() as service:
        async with service.client() as client:
            for _ in range(3):
                assert (await client.call("answer"))["result"] == "here"
            await client.call("slow")
            assert "error" in await client.call("fail")
            assert "error" in await client.call("nobody")
            id = await client.begin("stream", type=4)
            assert (await client.hear())["item"] == 1
            scraped = service.scrape()
            assert scraped.value("echo_hub_invocations_total", hub="/hub") == 7
            assert scraped.value("echo_hub_invocations_failed_total", hub="/hub") == 2
            assert scraped.value("echo_hub_streams", hub="/hub") == 1
            assert scraped.value("echo_hub_connections", hub="/hub", transport="WebSockets") == 1
            # Of those with one result, and one never ran.
            assert scraped.value("echo_hub_invocation_seconds_count", hub="/hub") == 5
            assert 0.03 < scraped.value("echo_hub_invocation_seconds_sum", hub="/hub") < 5
            slow = scraped.value("echo_hub_invocation_seconds_bucket", hub="/hub", le="0.025")
            assert slow <= 4
            await client.say(type=5, invocationId=id)
            await client.hear()
            assert service.scrape().value("echo_hub_streams", hub="/hub") == 0
        scraped = await service.until("echo_hub_disconnects_total", 1, hub="/hub", reason="closed")
        await service.until("echo_hub_connections", 0, hub="/hub", transport="WebSockets")
        assert scraped.value("echo_hub_connected_total", hub="/hub") == 1


async def test_questions_to_clients_are_counted_by_how_they_end() -> None:
    name = "echo_hub_client_results_total"
    async with served(HubOptions(client_result_timeout=1)) as service, service.client() as client:
        for outcome, answer in (
            ("result", {"result": "yes"}),
            ("error", {"error": "no"}),
            ("timeout", None),
        ):
            await client.begin("ask", "?")
            asked = await client.hear()
            assert asked["target"] == "Question"
            if answer is not None:
                await client.say(type=3, invocationId=asked["invocationId"], **answer)
            await client.hear()
            assert service.scrape().value(name, hub="/hub", outcome=outcome) == 1
    async with served() as service:
        async with service.client() as client:
            await client.begin("ask", "?")
            await client.hear()
        await service.until(name, 1, hub="/hub", outcome="disconnected")


async def test_negotiations_are_counted_while_they_wait_and_when_nobody_comes() -> None:
    options = HubOptions(max_negotiations=2, disconnect_timeout=0.3)
    async with served(options) as service:
        assert [await service.negotiate() for _ in range(3)] == [200, 200, 429]
        scraped = service.scrape()
        assert scraped.value("echo_hub_negotiations_pending", hub="/hub") == 2
        assert scraped.value("echo_hub_negotiations_refused_total", hub="/hub") == 1
        scraped = await service.until("echo_hub_negotiations_expired_total", 2, hub="/hub")
        assert scraped.value("echo_hub_negotiations_pending", hub="/hub") == 0


async def test_names_that_clients_make_up_add_no_labels() -> None:
    async with served() as service, service.client() as client:
        await client.call("nobody")
        before = len(service.scrape())
        for number in range(500):
            await client.call(f"nobody{number}")
        assert len(service.scrape()) == before


async def test_a_backplane_tells_how_it_is() -> None:
    exchange = Exchange()
    backplane = MemoryBackplane(exchange)
    async with served(backplane=backplane) as service, service.client():
        assert (await service.until("echo_backplane_connected", 1, backplane="1")) is not None
        backplane.publish("somewhere", b"12345")
        scraped = await service.until("echo_backplane_published_bytes_total", 5, backplane="1")
        assert scraped.value("echo_backplane_published_total", backplane="1") >= 1
        exchange.stop()
        await service.until("echo_backplane_connected", 0, backplane="1")
        backplane.publish("somewhere", b"12345")
        scraped = await service.until("echo_backplane_outages_total", 1, backplane="1")
        assert scraped.value("echo_backplane_lost_total", backplane="1", reason="away") == 1
