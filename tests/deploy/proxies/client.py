"""A client of a proxy: any request from any address of this machine, and WebSockets."""

import json
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from typing import Any, Final

import h2.config
import h2.connection
import h2.events
import h2.settings
import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

from tests.deploy.proxies.proxy import Proxy

HERE: Final = "127.0.0.1"

ELSEWHERE: Final = "127.0.0.2"
"""An address that is not the one a rule for 127.0.0.1 means, but can be dialled from here."""

HANDSHAKE: Final = (
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: str

    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    proxy: Proxy,
    path: str,
    headers: Iterable[tuple[str, str]] = (),
    *,
    method: str = "GET",
    source: str = HERE,
    tls: bool = False,
    body: bytes = b"",
) -> Answer:
    """One request on a connection of its own. A name may stand among the headers twice."""
    connection = (
        HTTPSConnection(
            "localhost",
            proxy.https_port,
            context=proxy.client_context,
            source_address=(source, 0),
            timeout=20,
        )
        if tls
        else HTTPConnection(HERE, proxy.http_port, source_address=(source, 0), timeout=20)
    )
    try:
        given = list(headers)
        names = {name.lower() for name, _ in given}
        connection.putrequest(method, path, skip_host="host" in names, skip_accept_encoding=True)
        for name, value in given:
            connection.putheader(name, value)
        if body:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body or None)
        with connection.getresponse() as response:
            # An open socket has no end to read to.
            text = "" if response.status == 101 else response.read().decode()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, text)
    finally:
        connection.close()


@asynccontextmanager
async def dial(
    proxy: Proxy, path: str = "/ws", *, tls: bool = False
) -> AsyncIterator[WebSocketConnection]:
    """An open WebSocket through the proxy."""
    host = "localhost" if tls else HERE
    port = proxy.https_port if tls else proxy.http_port
    stream: Any = await trio.open_tcp_stream(HERE, port)
    if tls:
        stream = trio.SSLStream(
            stream, proxy.client_context, server_hostname=host, https_compatible=True
        )
    try:
        async with trio.open_nursery() as nursery:
            connection = await wrap_client_stream(
                nursery, stream, f"{host}:{port}", path, max_message_size=1 << 26
            )
            async with connection:
                yield connection
            nursery.cancel_scope.cancel()
    finally:
        await trio.aclose_forcefully(stream)


async def echoes(socket: WebSocketConnection, message: str | bytes = "héllo") -> bool:
    await socket.send_message(message)
    answer = await socket.get_message()
    return bool(answer == message)


@dataclass(frozen=True)
class Http2Answer:
    status: int | None
    """None if the stream was reset."""
    extended_connect: bool
    """Whether WebSockets over HTTP/2 (RFC 8441) are on offer."""


async def ask_over_http2(
    proxy: Proxy, path: str, headers: Iterable[tuple[str, str]]
) -> Http2Answer:
    """One request over HTTP/2, with headers that may be wrong there."""
    # A context of its own: the other one's clients speak HTTP/1.1.
    context = ssl.create_default_context(cafile=str(proxy.authority_file))
    context.set_alpn_protocols(["h2"])
    # As wrong as they are given.
    lenient = h2.config.H2Configuration(
        normalize_outbound_headers=False,
        validate_outbound_headers=False,
        validate_inbound_headers=False,
    )
    wire = h2.connection.H2Connection(lenient)
    stream = trio.SSLStream(
        await trio.open_tcp_stream(HERE, proxy.https_port), context, server_hostname="localhost"
    )
    try:
        wire.initiate_connection()
        fields = [(":method", "GET"), (":scheme", "https"), (":authority", "localhost")]
        fields += [(":path", path), *((name.lower(), value) for name, value in headers)]
        wire.send_headers(1, fields, end_stream=True)
        status = None
        ended = False
        while not ended:
            await stream.send_all(wire.data_to_send())
            for event in wire.receive_data(await stream.receive_some(65536)):
                match event:
                    case h2.events.ResponseReceived() | h2.events.InformationalResponseReceived():
                        status = int(dict(event.headers)[b":status"])
                        ended = True
                    case h2.events.StreamReset() | h2.events.ConnectionTerminated():
                        ended = True
        offered = wire.remote_settings.get(h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL)
        return Http2Answer(status, offered == 1)
    finally:
        await trio.aclose_forcefully(stream)
