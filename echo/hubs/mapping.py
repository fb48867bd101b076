"""Hubs and raw connections at a path of a Quart-Trio app.

The only module of the hub layer, beside the stream of events, that knows Quart. The app's own
hooks (`before_request`, sessions, error handlers) work for these paths as for all others.
"""

from __future__ import annotations

from typing import Any

from quart import Response, request, websocket
from quart_trio import QuartTrio

from echo.hubs.backplane.backplane import Backplane
from echo.hubs.backplane.lifetime import ScaleoutLifetime
from echo.hubs.clients import HubContext
from echo.hubs.hub import Hub
from echo.hubs.lifetime import Lifetime
from echo.hubs.options import HubOptions
from echo.hubs.server import HubServer
from echo.hubs.transports.answer import Answer
from echo.hubs.transports.authentication import Authenticate
from echo.hubs.transports.body import HeldBodies, body_of
from echo.hubs.transports.endpoint import Endpoint
from echo.hubs.transports.negotiate import NegotiateHook
from echo.hubs.transports.options import ConnectionOptions
from echo.hubs.transports.request import Headers, Request
from echo.hubs.transports.server import Authorize, Handler, LinkServer, RawServer
from echo.hubs.transports.sse import EventStream
from echo.websocket import WebSocketMiddleware, use_websockets

_METHODS = ["GET", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"]


def map_hub(
    app: QuartTrio,
    path: str,
    hub: type[Hub],
    options: HubOptions | None = None,
    *,
    authenticate: Authenticate | None = None,
    negotiate: NegotiateHook | None = None,
    lifetime: Lifetime | None = None,
    backplane: Backplane | None = None,
    name: str | None = None,
) -> HubContext:
    """Let clients call a hub at a path.

    Args:
        app: the app; it gets `use_websockets()` with the defaults unless it has it already.
        path: of the hub, such as "/chat"; "/chat/" is the same.
        hub: its class.
        options: of the hub and its connections; None for the defaults.
        authenticate: tells who sends a request; None: nobody is known.
        negotiate: may redirect or refuse a client that negotiates.
        lifetime: who is connected; None: the clients of this process.
        backplane: makes the hub one with those of the same name on other nodes. The app runs it;
            several hubs may share it.
        name: of the hub on the backplane; None for that of its class, with its module.

    Returns: the hub for the rest of the app, to send from anywhere.

    Raises:
        ValueError: the path does not begin with "/", or has variables; there is a lifetime as
            well as a backplane; another hub has the same name on the backplane.
        TypeError: the class cannot serve as a hub; the message says why.
    """
    websockets = _websockets(app)
    if backplane is not None:
        if lifetime is not None:
            raise ValueError("a hub has a lifetime or a backplane, not both")
        name = name or f"{hub.__module__}.{hub.__qualname__}"
        lifetime = ScaleoutLifetime(backplane, name, options)
        _run_while_served(app, websockets, backplane)
    server = HubServer(hub, options, clock=lambda: websockets.worker.clock, lifetime=lifetime)
    map_links(app, path, server, server.options, authenticate=authenticate, negotiate=negotiate)
    return server.context


def map_connection(
    app: QuartTrio,
    path: str,
    handler: Handler,
    options: ConnectionOptions | None = None,
    *,
    authenticate: Authenticate | None = None,
    authorize: Authorize | None = None,
    negotiate: NegotiateHook | None = None,
) -> None:
    """Let clients of the hub protocol's transports connect at a path, without a hub.

    Args:
        app: the app; it gets `use_websockets()` with the defaults unless it has it already.
        path: of the connection, such as "/echo"; "/echo/" is the same.
        handler: is called with the `Link` of each client. When it returns, the link is closed;
            if it fails, with an error. Who sends much waits in `link.drain()` now and then.
        options: of the connections; None for the defaults.
        authenticate: tells who sends a request; None: nobody is known.
        authorize: tells whether a user may connect (None: is not known); None: all may.
        negotiate: may redirect or refuse a client that negotiates.

    Raises:
        ValueError: the path does not begin with "/", or has variables.
    """
    options = options or ConnectionOptions()
    server = RawServer(handler, authorize, options)
    map_links(app, path, server, options, authenticate=authenticate, negotiate=negotiate)


def map_links(
    app: QuartTrio,
    path: str,
    server: LinkServer,
    options: ConnectionOptions,
    *,
    authenticate: Authenticate | None = None,
    negotiate: NegotiateHook | None = None,
) -> None:
    """Do what `map_connection()` does, with any server of links."""
    if not path.startswith("/") or "<" in path:
        raise ValueError(f"a hub's path begins with '/' and has no variables, unlike {path!r}")
    base = path.rstrip("/")
    endpoint = Endpoint(
        server, options, _websockets(app), authenticate=authenticate, negotiate=negotiate
    )

    async def negotiation() -> Response:
        return _response(app, await endpoint.answer_negotiate(_request(request.scope)))

    async def connection() -> Response:
        scope = request.scope
        return _response(app, await endpoint.answer(_request(scope), body_of(scope)))

    async def socket() -> Response | None:
        answer = await endpoint.serve_websocket(_request(websocket.scope))
        return None if answer is None else _response(app, answer)

    paths = {f"{base}/", f"{base}/negotiate", f"{base}/negotiate/", base} - {""}
    for each in paths:
        handler = negotiation if "/negotiate" in each.removeprefix(base) else connection
        app.add_url_rule(
            each, f"{each} over HTTP", handler, methods=_METHODS, provide_automatic_options=False
        )
        if handler is connection:
            app.add_websocket(each, f"{each} over WebSockets", socket)
    app.before_serving(endpoint.start)
    app.extensions.setdefault("echo.hubs.endpoints", {})[base or "/"] = endpoint
    app.asgi_app = HeldBodies(app.asgi_app, paths)  # type: ignore[method-assign,assignment]


def _run_while_served(
    app: QuartTrio, websockets: WebSocketMiddleware, backplane: Backplane
) -> None:
    """Run the backplane with the app, once, however many hubs share it.

    In the nursery of the sockets: what the app sends when it ends still leaves.
    """
    backplanes = app.extensions.setdefault("echo.hubs.backplanes", [])
    if backplane not in backplanes:
        backplanes.append(backplane)

        async def start() -> None:
            await websockets.worker.nursery.start(backplane.run)

        app.before_serving(start)


def _websockets(app: QuartTrio) -> WebSocketMiddleware:
    """The app's socket layer."""
    layer: Any = app.asgi_app
    while layer is not None:
        if isinstance(layer, WebSocketMiddleware):
            return layer
        layer = getattr(layer, "app", None) or getattr(layer, "_app", None)
    return use_websockets(app)


def _request(scope: Any) -> Request:
    client = scope.get("client")
    return Request(
        method=scope.get("method", "GET"),
        path=scope["path"],
        query_string=scope["query_string"].decode("latin-1"),
        headers=Headers(scope["headers"]),
        client=client[0] if client else None,
        scheme=scope["scheme"],
        http_version=scope.get("http_version", "1.1"),
    )


def _response(app: QuartTrio, answer: Answer) -> Response:
    response = app.response_class(answer.body, answer.status, content_type=answer.content_type)
    response.headers.extend(answer.headers)
    if isinstance(answer.body, EventStream):
        response.timeout = None
    if answer.status == 204:
        del response.headers["Content-Length"]
    return response
