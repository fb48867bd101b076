"""Metrics of a Quart-Trio app in Prometheus's text format: `use_metrics(app)` adds `/metrics`.

The layers below count in plain integers and know nothing of Prometheus. Here they are read,
when somebody asks, and at no other time; each process answers for itself.
"""

from __future__ import annotations

from echo.metrics.collector import AppCollector
from echo.metrics.exposition import Exposition
from echo.metrics.listener import listen
from echo.metrics.process import ProcessCollector
from echo.metrics.route import use_metrics

__all__ = ["AppCollector", "Exposition", "ProcessCollector", "listen", "use_metrics"]
