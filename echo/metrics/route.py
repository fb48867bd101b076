"""`use_metrics()`: the route, and what has to run while the app is served."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry
from quart import Response, request
from quart_trio import QuartTrio

from echo.metrics.collector import AppCollector
from echo.metrics.exposition import Exposition
from echo.metrics.lag import observe_lag
from echo.metrics.process import ProcessCollector
from echo.websocket.errors import UsageError
from echo.websocket.worker import current_worker


def use_metrics(
    app: QuartTrio,
    path: str | None = "/metrics",
    *,
    registry: CollectorRegistry | None = None,
    allowed: Callable[[Any], bool] = lambda scope: True,
    node: str = "",
) -> Exposition:
    """Let the metrics of an app that went through `use_websockets()` be asked for.

    They tell much about a service: see to it that `path` is not public.

    Args:
        app: the app.
        path: of the route; None for none, for who answers elsewhere: see `listen()`.
        registry: gets the collectors, beside what the app puts there itself; None for a new one.
        allowed: tells from the scope of a request whether it is answered; if not, with 404.
        node: name of this process among several, if it has one.

    Returns: what answers, for other places than the route.
    """
    if registry is None:
        registry = CollectorRegistry()
    collector = AppCollector(app)
    registry.register(collector)
    registry.register(ProcessCollector(node))
    exposition = Exposition(registry)

    @app.before_serving
    async def start() -> None:
        worker = current_worker.get()
        if worker is None:
            raise UsageError("use_metrics() is for an app that went through use_websockets()")
        collector.worker = worker
        worker.nursery.start_soon(observe_lag, collector.lag)

    if path is not None:

        @app.get(path)
        async def metrics() -> Response:
            if not allowed(request.scope):
                return Response("There is nothing here.\n", 404, content_type="text/plain")
            body, content_type = exposition.answer(request.headers.get("Accept", ""))
            return Response(body, 200, {"Cache-Control": "no-store"}, content_type=content_type)

    return exposition
