"""The test host of SignalR's functional tests, and more, served by our hub layer.

`python tests/hubs/host.py --port N [--tls-port N]` serves the same app on both ports until it is
told to end. Paths are found without regard to case, as in ASP.NET Core; any origin may use it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypercorn.trio
import trio
from hypercorn.config import Config
from quart import Response, redirect, request
from quart_trio import QuartTrio

if __package__ in (None, ""):  # run as a file: what it imports is found from above
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from echo.hubs import HubContext, HubOptions, map_connection, map_hub
from echo.hubs.transports.authentication import Unauthorized
from echo.hubs.transports.link import Link
from echo.hubs.transports.negotiate import Redirect, Refusal
from echo.hubs.transports.request import Request
from tests.hubs.testhub import AuthorizedHub, FailingHub, TestHub

KEY = secrets.token_bytes(32)

DETAILED = HubOptions(detailed_errors=True)
NO_WEBSOCKETS = HubOptions(detailed_errors=True, transports=("ServerSentEvents", "LongPolling"))
STATEFUL = HubOptions(detailed_errors=True, allow_stateful_reconnect=True)
# Not for MessagePack: Microsoft's client takes an empty poll for bytes there, which before the
# answer to its handshake, on a busy machine, is an error.
LIVELY = HubOptions(detailed_errors=True, keep_alive_interval=0.2, long_poll_timeout=0.2)
QUICK = HubOptions(keep_alive_interval=0.2, client_timeout=4.0, long_poll_timeout=0.5)

CORS_HUB = "/corshub"
"""Its own options say whose pages may use it."""

App = Callable[[Any, Any, Any], Awaitable[None]]


# Who may


@dataclass(frozen=True)
class User:
    id: str


def make_token(user: str, seconds: float) -> str:
    """A JSON web token of ours, for so many seconds."""
    header = encode(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    claims = encode(json.dumps({"sub": user, "exp": time.time() + seconds}).encode())
    return f"{header}.{claims}.{sign(f'{header}.{claims}')}"


async def authenticate(request: Request, token: str | None) -> User | None:
    """The user of a token, which must be ours and of now."""
    if token is None:
        return None
    signed, _, signature = token.rpartition(".")
    if not hmac.compare_digest(sign(signed).encode(), signature.encode()):
        raise Unauthorized
    claims = json.loads(base64.urlsafe_b64decode(signed.partition(".")[2] + "=="))
    if claims["exp"] < time.time():
        raise Unauthorized
    return User(claims["sub"])


def sign(text: str) -> str:
    return encode(hmac.digest(KEY, text.encode(), hashlib.sha256))


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


# What there is


def create_app(port: int) -> QuartTrio:
    app = QuartTrio("host")
    neighbours = HubOptions(allowed_origins=(f"http://localhost:{port}",))
    hub = map_hub(app, "/testhub", TestHub, DETAILED)
    map_hub(app, "/testhub-nowebsockets", TestHub, NO_WEBSOCKETS)
    map_hub(app, "/plainhub", TestHub)
    map_hub(app, "/statefulhub", TestHub, STATEFUL)
    map_hub(app, "/quickhub", TestHub, QUICK)
    map_hub(app, "/livelyhub", TestHub, LIVELY)
    map_hub(app, "/authorizedhub", AuthorizedHub, DETAILED, authenticate=authenticate)
    map_hub(app, "/livelyauthorizedhub", AuthorizedHub, LIVELY, authenticate=authenticate)
    map_hub(app, CORS_HUB, AuthorizedHub, neighbours, authenticate=authenticate)
    map_hub(app, "/failinghub", FailingHub)
    map_hub(app, "/failinghub-detailed", FailingHub, DETAILED)
    map_connection(app, "/echo", echo)
    map_redirects(app)
    map_routes(app, hub)
    return app


async def echo(link: Link) -> None:
    while data := await link.receive():
        link.send(data)
        await link.drain()


def map_redirects(app: QuartTrio) -> None:
    redirects = 0

    async def elsewhere(request: Request, user: object) -> Redirect:
        nonlocal redirects
        redirects += 1
        return Redirect(f"{request.query['baseUrl']}/testHub?numRedirects={redirects}")

    async def elsewhere_with_a_token(request: Request, user: object) -> Redirect:
        url = f"{request.query['baseUrl']}/authorizedhub"
        return Redirect(url, access_token=make_token("redirected", 60))

    async def nowhere(request: Request, user: object) -> Refusal:
        return Refusal("Not here, not today.")

    map_hub(app, "/redirect", TestHub, negotiate=elsewhere)
    map_hub(app, "/redirect-authorized", TestHub, negotiate=elsewhere_with_a_token)
    map_hub(app, "/error-negotiate", TestHub, negotiate=nowhere)

    @app.route("/bad-negotiate", defaults={"rest": ""}, methods=["GET", "POST"])
    @app.route("/bad-negotiate/<path:rest>", methods=["GET", "POST"])
    async def bad_negotiate(rest: str) -> tuple[str, int]:
        return "Some response from server", 400

    @app.route("/echoredirect", defaults={"rest": ""}, methods=["GET", "POST", "DELETE"])
    @app.route("/echoredirect/<path:rest>", methods=["GET", "POST", "DELETE"])
    async def echo_redirect(rest: str) -> Any:
        path = f"echo/{rest}".rstrip("/")  # absolute: not all clients resolve a Location
        target = f"{request.host_url}{path}?{request.query_string.decode()}"
        return redirect(target, 307)  # which keeps the method


def map_routes(app: QuartTrio, hub: HubContext) -> None:
    @app.get("/")
    async def page() -> str:
        return "<!doctype html><title>Test host</title>"

    @app.get("/generatejwttoken")
    async def generate_token() -> str:
        seconds = request.args.get("seconds", 60.0, type=float)
        return make_token(request.args.get("user", "testuser"), seconds)

    @app.get("/clientresult/<id>")
    async def client_result(id: str) -> str:
        try:
            return str(await hub.clients.client(id).invoke("Result", returns=int))
        except Exception as error:
            return str(error)

    @app.get("/announce/<text>")
    async def announce(text: str) -> str:
        await hub.clients.all.send("Message", text)
        return "sent"

    @app.after_request
    async def set_cookies(response: Response) -> Response:
        if "/negotiate" in request.path:
            # For a page of another site a browser takes no others.
            elsewhere = {"samesite": "None", "secure": True, "partitioned": True}
            site: dict[str, Any] = elsewhere if request.is_secure else {}
            response.set_cookie("testCookie", "testValue", **site)
            response.set_cookie("testCookie2", "testValue2", **site)
            response.set_cookie("expiredCookie", "doesntmatter", expires=time.time() - 3600, **site)
        return response


# How it is served


class Lenient:
    """Any path in any case, for pages of any origin. For a test host only."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        keeps_case = "/clientresult/", "/announce/"
        path = scope["path"]
        head = next((each for each in keeps_case if path.lower().startswith(each)), path)
        scope = {**scope, "path": head.lower() + path[len(head) :]}
        asked = {name: value for name, value in scope["headers"] if name in ASKS}
        has_rules = scope["path"].startswith(CORS_HUB)
        if scope["type"] == "websocket" or b"origin" not in asked or has_rules:
            await self._app(scope, receive, send)
            return
        allowed = [(ASKS[name], value) for name, value in asked.items()]
        allowed.append((b"access-control-allow-credentials", b"true"))
        if scope["method"] == "OPTIONS":
            await send({"type": "http.response.start", "status": 204, "headers": allowed})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return

        async def add(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *allowed]}
            await send(message)

        await self._app(scope, receive, add)


ASKS = {
    b"origin": b"access-control-allow-origin",
    b"access-control-request-method": b"access-control-allow-methods",
    b"access-control-request-headers": b"access-control-allow-headers",
}


def configure(port: int, tls_port: int | None, folder: Path) -> Config:
    config = Config()
    config.graceful_timeout = 3
    # Over HTTP/2 Hypercorn breaks off the requests under way when a connection has had its number.
    config.keep_alive_max_requests = 1_000_000
    config.bind = [f"127.0.0.1:{port}"]
    if tls_port is not None:
        import trustme

        certificate = trustme.CA().issue_cert("localhost", "127.0.0.1")
        config.certfile = str(folder / "certificate.pem")
        config.keyfile = str(folder / "key.pem")
        certificate.private_key_pem.write_to_path(config.keyfile)
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(config.certfile, append=True)
        config.insecure_bind = config.bind
        config.bind = [f"127.0.0.1:{tls_port}"]
    return config


async def serve(port: int, config: Config) -> None:
    async def until_told() -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            await anext(signals)

    app: Any = Lenient(create_app(port))
    await hypercorn.trio.serve(app, config, shutdown_trigger=until_told, mode="asgi")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="where to serve HTTP")
    parser.add_argument("--tls-port", type=int, help="where to serve the same over TLS")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = configure(arguments.port, arguments.tls_port, Path(folder))
        trio.run(serve, arguments.port, config)


if __name__ == "__main__":
    main()
