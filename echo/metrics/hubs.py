"""What hubs, their endpoints and their backplanes have counted. A hub is known by its path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

from prometheus_client.core import Metric, SummaryMetricFamily

from echo.hubs.backplane.backplane import LOSSES, Backplane
from echo.hubs.metrics import Metrics
from echo.hubs.server import HubServer
from echo.hubs.transports.endpoint import Endpoint
from echo.hubs.transports.options import TRANSPORTS
from echo.metrics.families import Labels, counter, gauge, histogram

_ENDS = {
    "closed": "closed",
    "ClientTimeout": "client_timeout",
    "ProtocolError": "protocol_error",
    "SlowClient": "slow_client",
}
_RESULTS = ("result", "error", "timeout", "disconnected")


def hubs(endpoints: Mapping[str, Endpoint]) -> Iterator[Metric]:
    """The metrics of hubs, and of raw connections as far as they have them.

    Args:
        endpoints: by path.
    """
    tables = {path: each.table for path, each in endpoints.items() if each.table is not None}
    if tables:
        yield gauge(
            "echo_hub_connections",
            "Clients that are connected.",
            {
                (path, each): table.transports[each]
                for path, table in tables.items()
                for each in TRANSPORTS
            },
            ("hub", "transport"),
        )
        yield gauge(
            "echo_hub_negotiations_pending",
            "Clients that have negotiated and not connected yet.",
            {(path,): table.pending for path, table in tables.items()},
            ("hub",),
        )
        yield counter(
            "echo_hub_negotiations_refused",
            "Negotiations refused because too many were pending.",
            {(path,): table.refused for path, table in tables.items()},
            ("hub",),
        )
        yield counter(
            "echo_hub_negotiations_expired",
            "Negotiations for which no client came.",
            {(path,): table.expired for path, table in tables.items()},
            ("hub",),
        )
    counted = {
        path: each.server.metrics
        for path, each in endpoints.items()
        if isinstance(each.server, HubServer)
    }
    if counted:
        yield from _counted(counted)


def _counted(hubs: Mapping[str, Metrics]) -> Iterator[Metric]:
    def values(get: Callable[[Metrics], float]) -> dict[Labels, float]:
        return {(path,): get(metrics) for path, metrics in hubs.items()}

    for name, help, attribute in (
        ("connected", "Clients that have ever connected.", "connections_total"),
        ("handshakes_refused", "Clients whose hub handshake failed.", "handshakes_refused"),
        ("resumed", "Times that a client came back to its connection.", "resumed"),
        ("invocations", "Calls of clients, those with streams included.", "invocations"),
        ("invocations_failed", "Calls that ended in an error.", "failed_invocations"),
    ):
        yield counter(f"echo_hub_{name}", help, values(attrgetter(attribute)), ("hub",))
    yield gauge("echo_hub_streams", "Calls with streams.", values(attrgetter("streams")), ("hub",))
    yield histogram(
        "echo_hub_invocation_seconds",
        "How long calls with one result took.",
        {(path,): metrics.invocation_seconds for path, metrics in hubs.items()},
        ("hub",),
    )
    yield counter(
        "echo_hub_disconnects",
        "Clients that have left or had to.",
        _named({path: metrics.ends for path, metrics in hubs.items()}, _ENDS),
        ("hub", "reason"),
    )
    yield counter(
        "echo_hub_client_results",
        "Questions to clients, by how they ended.",
        {
            (path, each): metrics.client_results[each]
            for path, metrics in hubs.items()
            for each in _RESULTS
        },
        ("hub", "outcome"),
    )


def _named(counters: Mapping[str, Counter[str]], names: Mapping[str, str]) -> dict[Labels, float]:
    """Counters by type of error, under names of ours: an app may raise what it likes."""
    values: Counter[Labels] = Counter()
    for path, ends in counters.items():
        for name in (*names.values(), "error"):
            values[path, name] = 0
        for kind, number in ends.items():
            values[path, names.get(kind, "error")] += number
    return dict(values)


def backplanes(all: Sequence[Backplane]) -> Iterator[Metric]:
    """The metrics of backplanes, which are known by their numbers, from 1."""
    if not all:
        return
    numbered = [(str(number), each) for number, each in enumerate(all, 1)]

    def values(name: str) -> dict[Labels, Any]:
        return {(number,): attrgetter(name)(each) for number, each in numbered}

    label = ("backplane",)
    yield gauge(
        "echo_backplane_connected",
        "Whether the engine is there: 1 or 0.",
        values("connected"),
        label,
    )
    for name, help in (
        ("outages", "Times that the engine went away."),
        ("published", "Messages that the engine has taken."),
        ("published_bytes", "Their bytes."),
        ("received", "Messages from other nodes, and our own that came back."),
        ("received_bytes", "Their bytes."),
        ("malformed", "Messages received that no node would send."),
    ):
        yield counter(f"echo_backplane_{name}", help, values(f"metrics.{name}"), label)
    yield counter(
        "echo_backplane_lost",
        "Messages that were not published, or maybe not.",
        {
            (number, reason): each.metrics.lost[reason]
            for number, each in numbered
            for reason in LOSSES
        },
        ("backplane", "reason"),
    )
    yield gauge(
        "echo_backplane_queued_bytes",
        "Bytes that wait for the engine's answer.",
        values("queued"),
        label,
    )
    answers = SummaryMetricFamily(
        "echo_backplane_answer_seconds",
        "From a publication to the engine's answer, for those that were timed.",
        labels=label,
    )
    for number, each in numbered:
        answers.add_metric((number,), each.metrics.answers, each.metrics.answer_seconds)
    yield answers
