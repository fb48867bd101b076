"""Short ways to Prometheus's metric families, from numbers and tables of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

from echo.websocket.counters import Histogram

Labels = tuple[str, ...]
L = TypeVar("L", bound=Labels)
F = TypeVar("F", CounterMetricFamily, GaugeMetricFamily)


def counter(
    name: str, help: str, values: Mapping[L, float], labels: Sequence[str] = ()
) -> CounterMetricFamily:
    """A counter; `values` by the values of its labels."""
    return _filled(CounterMetricFamily(name, help, labels=labels), values)


def gauge(
    name: str, help: str, values: Mapping[L, float], labels: Sequence[str] = ()
) -> GaugeMetricFamily:
    """A gauge; `values` by the values of its labels."""
    return _filled(GaugeMetricFamily(name, help, labels=labels), values)


def _filled(family: F, values: Mapping[L, float]) -> F:
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def histogram(
    name: str, help: str, values: Mapping[L, Histogram], labels: Sequence[str] = ()
) -> HistogramMetricFamily:
    """A histogram; `values` by the values of its labels."""
    family = HistogramMetricFamily(name, help, labels=labels)
    for key, value in values.items():
        bounds = [*(f"{bound:g}" for bound in value.bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(value.counts), strict=True))
        family.add_metric(key, buckets, value.total)
    return family
