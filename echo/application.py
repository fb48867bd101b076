"""The composition root: `create_app` puts the service together from its settings.

Routes hold no logic of their own beyond the echo; what a WebSocket is, `echo.websocket` knows.
"""

from __future__ import annotations

import mimetypes
from pathlib import Path

from quart import Response, request, websocket
from quart_trio import QuartTrio

from echo.echohub import map_echo_hub
from echo.hosting.lifecycle import Lifecycle
from echo.hosting.proxies import TrustedProxies
from echo.hosting.responses import WholeResponses
from echo.hubs.backplane import Backplane
from echo.metrics import listen, use_metrics
from echo.probes import asked_from_here, use_probes
from echo.settings import Address, Settings
from echo.websocket import (
    MessageType,
    WebSocket,
    WebSocketMiddleware,
    WebSocketOptions,
    accept,
    use_websockets,
)
from echo.websocket.handshake import refusal

PAGE = Path(__file__).parent / "page"

# Nothing from elsewhere, nothing inline; the URL field may name any server to talk to.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


def create_app(settings: Settings, lifecycle: Lifecycle | None = None) -> QuartTrio:
    """The service: the page at `/`, the echo at `/ws`, the hub at `/hub`.

    Args:
        settings: of the service.
        lifecycle: of the process that serves it; None if that does not ask.
    """
    life = lifecycle or Lifecycle()
    app = QuartTrio("echo", static_folder=None)
    app.asgi_app = WholeResponses(app.asgi_app)  # type: ignore[method-assign,assignment]
    middleware = use_websockets(app, _options(settings), reactor=settings.reactor)

    @app.before_serving
    async def start() -> None:
        life.worker = middleware.worker
        life.worker.shutdown_spread = settings.shutdown_spread

    @app.websocket("/ws")
    async def ws() -> None:
        # Browsers fail a connection whose server picks none of the subprotocols they offer.
        subprotocol = next(iter(websocket.requested_subprotocols), None)
        async with accept(subprotocol=subprotocol) as socket:
            await echo(socket)

    @app.route("/ws", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    async def not_a_websocket() -> Response:
        wrong = refusal(request.method, request.http_version, request.scope["headers"])
        assert wrong is not None, "a valid handshake arrives as a WebSocket"
        middleware.worker.counters.refused["invalid"] += 1
        return Response(
            f"{wrong.sentence}\n",
            wrong.status,
            {name.decode(): value.decode() for name, value in wrong.headers},
            content_type="text/plain; charset=utf-8",
        )

    alone = settings.workers == 1  # else the kernel chooses the process of each connection
    backplane = _backplane(settings)
    map_echo_hub(
        app,
        allowed_origins=settings.allowed_origins,
        node=settings.node if alone else "",
        sticky=alone,
        backplane=backplane,
    )
    use_probes(app, life, backplane)
    _serve_metrics(app, middleware, settings)
    _serve_page(app)
    if settings.trusted_proxies:
        app.asgi_app = TrustedProxies(app.asgi_app, settings.trusted_proxies)  # type: ignore[method-assign,assignment]
    return app


async def echo(socket: WebSocket) -> None:
    """Send every chunk back as it came, until the peer closes; its close is answered in kind.

    As the sample's second app does, the text `ServerClose` closes and `ServerAbort` aborts.
    """
    text = MessageType.TEXT
    receive, send = socket.receive_chunk, socket.send_chunk
    begins = True
    while True:
        data, kind, end = await receive()
        if kind is text and begins and end and data in COMMANDS:
            await COMMANDS[data](socket)
        else:
            # Not within a message: a client that writes all of it before it reads would wait
            # for us while we wait for it. So max_message_size bounds what piles up here.
            await send(data, kind, end, wait=end)
        begins = end


async def _close(socket: WebSocket) -> None:
    await socket.close(1000, "Closing from Server")


async def _abort(socket: WebSocket) -> None:
    socket.abort()


COMMANDS = {b"ServerClose": _close, b"ServerAbort": _abort}


def _serve_metrics(app: QuartTrio, middleware: WebSocketMiddleware, settings: Settings) -> None:
    place = settings.metrics
    if isinstance(place, Address):
        host, ports = place.host, place.ports
        exposition = use_metrics(app, None, node=settings.node)

        @app.before_serving
        async def start() -> None:
            middleware.worker.nursery.start_soon(listen, exposition, host, ports)

    elif place == "all":
        use_metrics(app, node=settings.node)
    elif place == "local":
        use_metrics(app, node=settings.node, allowed=asked_from_here)


def _options(settings: Settings) -> WebSocketOptions:
    return WebSocketOptions(
        keep_alive_interval=settings.keep_alive_interval,
        keep_alive_timeout=settings.keep_alive_timeout,
        receive_buffer_size=settings.receive_buffer_size,
        max_message_size=settings.max_message_size,
        send_buffer_size=settings.send_buffer_size,
        send_timeout=settings.send_timeout,
        close_timeout=settings.close_timeout,
        shutdown_code=settings.shutdown_code,
        allowed_origins=settings.allowed_origins,
        compression=settings.compression,
    )


def _backplane(settings: Settings) -> Backplane | None:
    if not settings.backplane:
        return None
    # Only now: who needs none need not load what speaks to it.
    from echo.hubs.backplane.redis import RedisBackplane

    return RedisBackplane(settings.backplane)


def _serve_page(app: QuartTrio) -> None:
    """Serve the page's files from memory: they are few and small."""
    files = {path.name: path.read_bytes() for path in PAGE.iterdir() if path.is_file()}

    def respond(name: str) -> Response:
        if name not in files:
            return Response("There is nothing here.\n", 404, content_type="text/plain")
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        if kind.startswith("text/"):
            kind += "; charset=utf-8"
        response = Response(files[name], content_type=kind)
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        if name.endswith(".html"):
            response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
            response.headers["Referrer-Policy"] = "no-referrer"
        return response

    @app.get("/")
    async def index() -> Response:
        return respond("index.html")

    @app.get("/page/<name>")
    async def page(name: str) -> Response:
        return respond(name)
