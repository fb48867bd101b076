"""Who may ask for the metrics, in what format, and what an app of one's own gets."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest
import trio
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from quart_trio import QuartTrio

from echo.application import create_app
from echo.metrics import use_metrics
from echo.metrics.lag import INTERVAL
from echo.settings import Address, Settings
from echo.websocket import UsageError, use_websockets
from tests.metrics.scraped import Scraped

parse: Any = text_string_to_metric_families

PROMETHEUS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


async def ask(
    app: Any, peer: str | None, headers: Mapping[str, str] = {}, path: str = "/metrics"
) -> tuple[int, str, str]:
    """Status, content type and body for who asks from there; None is a unix socket."""
    base = {"client": None if peer is None else (peer, 1234)}
    response = await app.test_client().get(path, headers=headers, scope_base=base)
    return response.status_code, response.content_type, await response.get_data(as_text=True)


PROXIED = {"X-Forwarded-For": "203.0.113.7"}
PROXIED_FROM_HERE = {"X-Forwarded-For": "127.0.0.1"}


@pytest.mark.parametrize(
    ("settings", "peer", "headers", "status"),
    [
        ({}, "127.0.0.1", {}, 200),
        ({}, "127.8.0.1", {}, 200),
        ({}, "::1", {}, 200),
        ({}, "::ffff:127.0.0.1", {}, 200),
        ({}, None, {}, 200),
        ({}, None, PROXIED_FROM_HERE, 200),  # by nginx, which is trusted
        ({}, None, PROXIED, 404),
        ({}, "192.0.2.1", {}, 404),
        ({}, "192.0.2.1", PROXIED_FROM_HERE, 404),
        # A proxy on this machine whose word is not taken: nobody knows who asks.
        ({}, "127.0.0.1", PROXIED, 404),
        ({}, "127.0.0.1", PROXIED_FROM_HERE, 404),
        ({}, "127.0.0.1", {"Forwarded": "for=127.0.0.1"}, 404),
        ({"trusted_proxies": ("127.0.0.1/32",)}, "127.0.0.1", PROXIED, 404),
        ({"trusted_proxies": ("127.0.0.1/32",)}, "127.0.0.1", PROXIED_FROM_HERE, 200),
        ({"metrics": "all"}, "192.0.2.1", PROXIED, 200),
        ({"metrics": "off"}, "127.0.0.1", {}, 404),
        ({"metrics": Address("127.0.0.1", range(1))}, "127.0.0.1", {}, 404),
    ],
)
async def test_who_may_ask(
    settings: dict[str, Any], peer: str | None, headers: dict[str, str], status: int
) -> None:
    async with create_app(Settings(**settings)).test_app() as app:
        assert (await ask(app, peer, headers))[0] == status


async def test_it_is_the_text_format_or_openmetrics_for_who_asks_for_that() -> None:
    async with create_app(Settings(node="2")).test_app() as app:
        _, kind, body = await ask(app, "127.0.0.1")
        assert kind.startswith("text/plain; version=")
        scraped = Scraped(body)
        assert scraped.label("echo_process_info", "node") == "2"
        assert scraped.label("echo_build_info", "version")
        assert scraped.value("process_resident_memory_bytes") > 1 << 20
        assert scraped.value("process_open_fds") > 3
        assert scraped.value("echo_draining") == 0
        _, kind, body = await ask(app, "127.0.0.1", {"Accept": PROMETHEUS})
        assert kind.startswith("application/openmetrics-text")
        names = {family.name for family in parse(body)}
        assert {"echo_websockets", "echo_websocket_drops", "process_cpu_seconds"} <= names


async def test_handshakes_that_are_refused_are_counted() -> None:
    async with create_app(Settings()).test_app() as app:
        for _ in range(2):
            await ask(app, "192.0.2.1", path="/ws")
        refused = Scraped((await ask(app, None))[2])
        assert refused.value("echo_websocket_handshakes_refused_total", reason="invalid") == 2
        assert refused.value("echo_websocket_handshakes_refused_total", reason="origin") == 0


async def test_an_app_of_ones_own_has_its_own_metrics_there() -> None:
    registry = CollectorRegistry()
    Gauge("orders", "Orders that are open.", registry=registry).set(3)
    app = QuartTrio("mine")
    use_websockets(app)
    use_metrics(app, "/internal/metrics", registry=registry)
    async with app.test_app() as running:
        status, _, body = await ask(running, "192.0.2.1", path="/internal/metrics")
        assert status == 200
        assert Scraped(body).value("orders") == 3
        assert Scraped(body).value("echo_websockets_opened_total") == 0
        assert Scraped(body).types["echo_event_loop_lag_seconds"] == "histogram"


async def test_an_app_without_our_sockets_is_told_so() -> None:
    app = QuartTrio("mine")
    use_metrics(app)
    with pytest.raises(UsageError, match="use_websockets"):
        await app.startup()


async def test_a_blocked_event_loop_is_seen() -> None:
    import time

    app = QuartTrio("mine")
    use_websockets(app)
    exposition = use_metrics(app)
    threads = threading.active_count()
    async with app.test_app():

        def observed() -> Scraped:
            return Scraped(exposition.answer()[0])

        await trio.sleep(INTERVAL / 2)
        time.sleep(INTERVAL)  # noqa: ASYNC251
        with trio.fail_after(10):
            while not observed().value("echo_event_loop_lag_seconds_count"):  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert observed().value("echo_event_loop_lag_seconds_sum") > INTERVAL / 4
        assert observed().value("echo_event_loop_lag_seconds_bucket", le="0.1") == 0
        assert threading.active_count() == threads
