"""Endpoints under test: a Quart-Trio app on Hypercorn's own server, on loopback, and its client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import h11
import httpx
import hypercorn.trio
import pytest
import trio
import trio_websocket
from hypercorn.config import Config
from quart_trio import QuartTrio

import echo.hosting.hypercorn  # noqa: F401  (the server as the service has it)
from echo.hubs.mapping import map_connection, map_links
from echo.hubs.transports.link import Link, LinkResumed, User
from echo.hubs.transports.options import ConnectionOptions

EVENTS = {"Accept": "text/event-stream"}


class Person:
    """A user."""

    def __init__(self, id: str | None) -> None:
        self.id = id


class Echo:
    """A server of links that sends back what comes, and remembers whom it served."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        self.resumed = 0
        self.left: list[Link] = []
        self.said_goodbye: list[float] = []
        self.last_words = True

    async def admits(self, user: User | None) -> bool:
        return True

    async def serve(self, link: Link) -> None:
        self.links.append(link)
        try:
            await self.talk(link)
        finally:
            self.left.append(link)

    async def talk(self, link: Link) -> None:
        while True:
            try:
                data = await link.receive()
            except LinkResumed:
                self.resumed += 1
                continue
            if not data:
                return
            link.send(data)

    async def shut_down(self, spread: float) -> None:
        self.said_goodbye.append(spread)
        async with trio.open_nursery() as nursery:
            for link in self.links:
                link.send(b"goodbye")
                nursery.start_soon(link.close)

    @property
    def link(self) -> Link:
        """The only one there was."""
        (link,) = self.links
        return link


class Site:
    """A served app."""

    def __init__(self, address: str, shut_down: Callable[[], None]) -> None:
        self.address = address
        self.port = int(address.rsplit(":", 1)[1])
        self.shut_down = shut_down

    @asynccontextmanager
    async def client(self, path: str = "/echo", **options: Any) -> AsyncIterator[Client]:
        async with httpx.AsyncClient(base_url=f"http://{self.address}", **options) as http:
            yield Client(self, http, path)

    async def tcp(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)


class Client:
    """A client of one endpoint, which says what it is told to."""

    def __init__(self, site: Site, http: httpx.AsyncClient, path: str) -> None:
        self.site = site
        self.http = http
        self.path = path
        self.url = path
        """Where the connection is, once negotiated."""

    async def negotiate(self, query: str = "negotiateVersion=1", **options: Any) -> Any:
        """The answer to a successful negotiation, which is used from now on."""
        response = await self.http.post(f"{self.path}/negotiate?{query}", **options)
        assert response.status_code == 200, response
        answer = response.json()
        self.url = f"{self.path}?id={answer.get('connectionToken', answer.get('connectionId'))}"
        return answer

    async def get(self, **options: Any) -> httpx.Response:
        return await self.http.get(self.url, **options)

    async def post(self, content: Any, **options: Any) -> httpx.Response:
        return await self.http.post(self.url, content=content, **options)

    async def delete(self, **options: Any) -> httpx.Response:
        return await self.http.delete(self.url, **options)

    async def poll(self) -> bytes:
        """What a poll brings; the first one brings nothing."""
        response = await self.get()
        assert response.status_code == 200, response
        return response.content

    async def start_polling(self) -> None:
        await self.negotiate()
        assert await self.poll() == b""

    @asynccontextmanager
    async def events(self, headers: Mapping[str, str] = EVENTS) -> AsyncIterator[Events]:
        async with await self.site.tcp() as stream:
            events = Events(stream)
            await events.request(self.url, headers)
            yield events

    @asynccontextmanager
    async def socket(self, **options: Any) -> AsyncIterator[trio_websocket.WebSocketConnection]:
        stream = await self.site.tcp()
        try:
            async with trio.open_nursery() as nursery:
                socket = await trio_websocket.wrap_client_stream(
                    nursery, stream, self.site.address, self.url, **options
                )
                async with socket:
                    yield socket
        finally:
            await trio.aclose_forcefully(stream)

    async def refused_socket(self, headers: Mapping[str, str] = {}) -> tuple[int, str]:
        """Status and text of the answer to a handshake that is not accepted."""
        upgrade = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        # The server ends the connection, so it must not be one that others use.
        async with httpx.AsyncClient(base_url=self.http.base_url) as http:
            response = await http.get(self.url, headers={**upgrade, **headers})
        return response.status_code, response.text


class Events:
    """A stream of events as its bytes. (What httpx streams cannot be left before its end.)"""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._connection = h11.Connection(h11.CLIENT)
        self._held = b""
        self.status = 0
        self.headers: dict[str, str] = {}

    async def request(self, url: str, headers: Mapping[str, str]) -> None:
        head = h11.Request(
            method="GET", target=url, headers=[("Host", "localhost"), *headers.items()]
        )
        await self._stream.send_all(self._connection.send(head) or b"")
        self._connection.send(h11.EndOfMessage())
        response = await self._next()
        assert isinstance(response, h11.Response)
        self.status = response.status_code
        self.headers = {name.decode(): value.decode() for name, value in response.headers}

    async def opened(self) -> None:
        """The stream has begun as it has to."""
        assert self.status == 200
        while len(self._held) < 3:
            assert await self._more()
        assert self._held[:3] == b":\r\n"
        self._held = self._held[3:]

    async def next(self) -> bytes:
        """The next event with the empty line that ends it; b"" at the end of the stream."""
        while b"\r\n\r\n" not in self._held:
            if not await self._more():
                assert not self._held
                return b""
        event, _, self._held = self._held.partition(b"\r\n\r\n")
        return event + b"\r\n\r\n"

    async def _more(self) -> bool:
        part = await self._next()
        if isinstance(part, h11.Data):
            self._held += bytes(part.data)
            return True
        assert isinstance(part, h11.EndOfMessage)
        return False

    async def _next(self) -> object:
        while (part := self._connection.next_event()) is h11.NEED_DATA:
            self._connection.receive_data(await self._stream.receive_some(65536))
        return part


def app_with(server: Any, options: ConnectionOptions | None = None, **hooks: Any) -> QuartTrio:
    """An app with a server of links at /echo, or a handler of raw connections."""
    app = QuartTrio("test")
    if hasattr(server, "serve"):
        map_links(app, "/echo", server, options or ConnectionOptions(), **hooks)
    else:
        map_connection(app, "/echo", server, options, **hooks)
    return app


@asynccontextmanager
async def serve(app: Any, *, grace: float = 3.0, root_path: str = "") -> AsyncIterator[Site]:
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.graceful_timeout = grace
    config.errorlog = None
    config.root_path = root_path
    end = trio.Event()

    async def run(task_status: Any) -> None:
        await hypercorn.trio.serve(app, config, shutdown_trigger=end.wait, task_status=task_status)

    with trio.fail_after(20):  # a test that hangs has failed
        async with trio.open_nursery() as nursery:
            binds = await nursery.start(run)
            yield Site(binds[0].removeprefix("http://"), end.set)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving(
    server: Any, *, grace: float = 3.0, **options: Any
) -> AsyncIterator[tuple[Site, Client]]:
    """A server of links at /echo with these options, and a client of it."""
    hooks = {name: options.pop(name) for name in ("authenticate", "negotiate") if name in options}
    app = app_with(server, ConnectionOptions(**options), **hooks)
    async with serve(app, grace=grace) as site, site.client() as client:
        yield site, client


async def close_code(socket: trio_websocket.WebSocketConnection) -> int:
    """What the server closes with, when there is nothing more to receive."""
    with pytest.raises(trio_websocket.ConnectionClosed) as caught:
        await socket.get_message()
    assert caught.value.reason is not None
    return int(caught.value.reason.code)


async def until(condition: Callable[[], object]) -> None:
    """Wait until something holds; whoever asks bounds the wait."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.002)
