"""AppCollector: reads what the layers of one app have counted, when Prometheus asks.

The values of every label come from short lists of ours or from the app's own paths: no client
can add one.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from quart_trio import QuartTrio

from echo.metrics.families import counter, gauge, histogram
from echo.metrics.hubs import backplanes, hubs
from echo.websocket.counters import Histogram
from echo.websocket.socket import State
from echo.websocket.worker import Worker

_CARRIERS = ("reactor", "stream", "asgi")
_STATES = (State.OPEN, State.CLOSE_SENT, State.CLOSE_RECEIVED)


class AppCollector(Collector):
    """Collects the sockets, hubs and backplanes of an app in this process."""

    def __init__(self, app: QuartTrio) -> None:
        self._app = app
        self.worker: Worker | None = None
        """Of the app, once it is being served."""
        self.lag = Histogram()
        """How late the event loop was."""
        self._sent = 0  # messages, at the last scrape
        self._build = {"version": _version(), "python": platform.python_version()}

    def describe(self) -> list[Metric]:
        """Nothing, so that to register it is not to collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("echo_build", "What runs here.", self._build)
        yield histogram(
            "echo_event_loop_lag_seconds", "How late a task woke that slept.", {(): self.lag}
        )
        if self.worker is not None:
            yield from self._sockets(self.worker)
        yield from hubs(self._app.extensions.get("echo.hubs.endpoints", {}))
        yield from backplanes(self._app.extensions.get("echo.hubs.backplanes", []))

    def _sockets(self, worker: Worker) -> Iterator[Metric]:
        counters = worker.counters
        now = Counter((socket.carrier.kind, socket.state) for socket in worker.sockets)
        yield gauge(
            "echo_websockets",
            "WebSockets that are not closed.",
            {(kind, state.value): now[kind, state] for kind in _CARRIERS for state in _STATES},
            ("carrier", "state"),
        )
        yield counter(
            "echo_websockets_opened", "WebSockets that were opened.", {(): counters.opened}
        )
        received, sent, unsent = counters.bytes_received, counters.bytes_sent, 0
        messages_sent = counters.pieces - counters.surplus
        for socket in worker.sockets:
            carrier = socket.carrier
            received += socket.received
            sent += carrier.written
            unsent += carrier.size
            messages_sent += len(carrier.pieces)
        # What waits for a socket that is just being accepted is not seen. A counter never falls.
        self._sent = max(self._sent, messages_sent)
        yield counter(
            "echo_websocket_messages",
            "Whole messages, received or put out to be sent.",
            {("received",): counters.messages_received, ("sent",): self._sent},
            ("direction",),
        )
        yield counter(
            "echo_websocket_bytes",
            "Bytes read and written, frames and all.",
            {("received",): received, ("sent",): sent},
            ("direction",),
        )
        yield gauge(
            "echo_websocket_unsent_bytes",
            "Bytes that wait for clients to read them.",
            {(): unsent},
        )
        yield counter(
            "echo_websocket_closes",
            "WebSockets that began to end, by who closed and by the close code.",
            counters.closes,
            ("by", "code"),
        )
        yield counter(
            "echo_websocket_drops",
            "WebSockets that ended without a closing handshake.",
            {(reason,): number for reason, number in counters.drops.items()},
            ("reason",),
        )
        yield counter(
            "echo_websocket_handshakes_refused",
            "Handshakes that were not accepted.",
            {(reason,): number for reason, number in counters.refused.items()},
            ("reason",),
        )
        yield gauge(
            "echo_draining",
            "Whether the process sends its clients away: 1 or 0.",
            {(): worker.shutting_down.is_set()},
        )


def _version() -> str:
    try:
        return version("echo-trio")
    except PackageNotFoundError:  # a clone that is not installed
        return "unknown"
