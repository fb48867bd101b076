"""The way to the server: connections, and one HTTP/1.1 exchange on each.

Every wait has a limit in seconds and every answer one in bytes, for the server may be broken or
hostile. What goes wrong before there is an answer is a `Trouble`, which knows its cause; an
answer of any status is a `Response` and for others to judge.
"""

from __future__ import annotations

import contextlib
import errno
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import h11
import trio

from echo.doctor.causes import connection as causes
from echo.doctor.report import Cause, shown
from echo.doctor.target import Target

Headers = Sequence[tuple[str, str]]

MAX_HEAD: Final = 64 * 1024
MAX_BODY: Final = 256 * 1024
_READ: Final = 16 * 1024


class Trouble(Exception):
    """There is no answer to judge; `cause` says why, `seen` what happened."""

    def __init__(self, cause: Cause, seen: str) -> None:
        super().__init__(seen)
        self.cause = cause
        self.seen = seen


@dataclass(slots=True)
class Response:
    """An answer; its body may be cut."""

    status: int
    headers: dict[str, str]
    """Names in lower case; several of one name are one list."""
    body: bytes = b""
    whole: bool = False
    """Whether the body came to its end in time, or to `MAX_BODY`."""
    arrivals: list[float] = field(default_factory=list)
    """When a part of the body came, in seconds after the head."""
    trailing: bytes = b""
    """What came after a 101."""

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


@dataclass(slots=True)
class Wire:
    """Opens connections to one server."""

    target: Target
    limit: float
    """Seconds that an answer may take."""
    address: str | None = None
    """Which of the host's addresses; once chosen all connections go there."""
    tls: ssl.SSLContext | None = None
    """None: no TLS."""
    own_address: str | None = None
    """From which the last connection came."""

    async def connect(self, *, source: str | None = None) -> trio.SocketStream:
        """A bare connection. `source`: the address of this machine to come from."""
        with self._in_time(causes.UNREACHABLE, "no connection"):
            try:
                if self.target.unix:
                    return await trio.open_unix_socket(self.target.unix)
                assert self.target.port is not None
                stream = await trio.open_tcp_stream(
                    self.address or self.target.host, self.target.port, local_address=source
                )
                self.own_address = stream.socket.getsockname()[0]
                return stream
            except OSError as error:
                raise _refused(error, self.target) from None
        raise AssertionError

    @asynccontextmanager
    async def open(
        self, *, source: str | None = None, alpn: Sequence[str] = ("http/1.1",)
    ) -> AsyncIterator[trio.abc.Stream]:
        """A connection that HTTP can be spoken on; dropped without ado after the block."""
        transport = await self.connect(source=source)
        try:
            if self.tls is None:
                yield transport
            else:
                try:
                    stream = await self.secure(transport, self.tls, alpn)
                except ssl.SSLError as error:
                    raise tls_trouble(error) from None
                yield stream
        finally:
            await trio.aclose_forcefully(transport)

    async def secure(
        self,
        transport: trio.SocketStream,
        context: ssl.SSLContext,
        alpn: Sequence[str] = ("http/1.1",),
    ) -> trio.SSLStream[trio.SocketStream]:
        """TLS on a connection.

        Raises:
            ssl.SSLError: the handshake fails; the certificate, for one, is not accepted.
        """
        context.set_alpn_protocols(list(alpn))
        stream = trio.SSLStream(
            transport, context, server_hostname=self.target.host, https_compatible=True
        )
        with self._in_time(causes.NO_ANSWER, "no answer to the TLS handshake"):
            try:
                await stream.do_handshake()
            except trio.BrokenResourceError as error:
                if isinstance(error.__cause__, ssl.SSLError):
                    raise error.__cause__ from None
                raise Trouble(
                    causes.TLS_FAILED, "the server ends the connection in the TLS handshake"
                ) from None
        return stream

    async def get(
        self, path: str, *headers: tuple[str, str], source: str | None = None
    ) -> Response:
        """The answer to a GET on a connection of its own."""
        async with self.open(source=source) as stream:
            return await self.exchange(stream, path, [*headers, ("Connection", "close")])

    async def exchange(
        self, stream: trio.abc.Stream, path: str, headers: Headers, *, body: bool = True
    ) -> Response:
        """Send a GET and read its answer; a 101 has no body, but may have trailing bytes."""
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        request = h11.Request(
            method="GET",
            target=path,
            headers=[
                ("Host", self.target.authority),
                ("User-Agent", f"echo-doctor/{_version()}"),
                *headers,
            ],
        )
        data = (http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b"")
        try:
            with self._in_time(causes.NO_ANSWER, "no answer"):
                await stream.send_all(data)
                response = await _head(http, stream)
        except trio.BrokenResourceError as error:
            raise _broken(error) from None
        if response.status == 101:
            response.trailing = http.trailing_data[0]
            return response
        if body:
            with trio.move_on_after(self.limit):
                await _body(http, stream, response)
        return response

    @contextlib.contextmanager
    def _in_time(self, cause: Cause, what: str) -> Iterator[None]:
        with trio.move_on_after(self.limit) as scope:
            yield
        if scope.cancelled_caught:
            raise Trouble(cause, f"{what} within {self.limit:g} s")


def _version() -> str:
    try:
        return version("echo-trio")
    except PackageNotFoundError:
        return "0"


async def _head(http: h11.Connection, stream: trio.abc.Stream) -> Response:
    received, first = 0, b""
    while True:
        try:
            event = http.next_event()
        except h11.RemoteProtocolError as error:
            if received >= MAX_HEAD:
                raise _endless(received) from None
            if not received:
                raise Trouble(causes.ENDED_EARLY, "the connection ends before the answer") from None
            raise Trouble(causes.NOT_HTTP, f"the answer breaks HTTP: {shown(str(error))}") from None
        if event is h11.NEED_DATA:
            # Answers before the answer (1xx) are bounded by this too, which h11 does not.
            if received > MAX_HEAD:
                raise _endless(received)
            data = bytes(await stream.receive_some(_READ))
            received += len(data)
            first += data[: 200 - len(first)]
            if not b"HTTP/".startswith(first[:5]):  # h11 would wait for a whole line, or more
                raise _not_http(first)
            http.receive_data(data)
        elif isinstance(event, h11.Response | h11.InformationalResponse):
            if event.status_code == 101 or isinstance(event, h11.Response):
                return Response(event.status_code, _headers(event.headers))
        else:
            raise Trouble(causes.ENDED_EARLY, "the connection ends before the answer")


async def _body(http: h11.Connection, stream: trio.abc.Stream, response: Response) -> None:
    begun = trio.current_time()
    body = bytearray()
    try:
        while len(body) < MAX_BODY:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(bytes(await stream.receive_some(_READ)))
            elif isinstance(event, h11.Data):
                body += event.data
                response.arrivals.append(trio.current_time() - begun)
            else:
                response.whole = isinstance(event, h11.EndOfMessage)
                return
        response.whole = True
    except (h11.RemoteProtocolError, trio.BrokenResourceError):
        pass  # the rest is missing, and `whole` says so
    finally:
        response.body = bytes(body)


def _headers(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip()
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def _refused(error: OSError, target: Target) -> Trouble:
    # trio gives one error for all addresses, with those of each address as its causes.
    number = error.errno
    cause = error.__cause__
    while number is None and cause is not None:
        if isinstance(cause, OSError):
            number = cause.errno
        cause = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else cause.__cause__
    if target.unix:
        if number in {errno.EACCES, errno.EPERM}:
            return Trouble(causes.SOCKET_FORBIDDEN, f"{target.unix}: permission denied")
        return Trouble(causes.SOCKET_MISSING, f"{target.unix}: {shown(error.strerror or '')}")
    where = f"port {target.port}"
    if number in {errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
        return Trouble(causes.NO_ROUTE, f"{where}: {errno.errorcode[number]}")
    if number == errno.ECONNREFUSED:
        return Trouble(causes.REFUSED, f"the connection to {where} is refused")
    reason = errno.errorcode.get(number, "") if number else ""
    return Trouble(causes.UNREACHABLE, f"no connection to {where} {reason}".rstrip())


def tls_trouble(error: ssl.SSLError) -> Trouble:
    """What a TLS error means, if it is not about the certificate."""
    reason = shown(error.reason or str(error))
    if error.reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"}:
        return Trouble(causes.TLS_MISSING, f"the answer to the TLS handshake is not TLS: {reason}")
    if error.reason in {"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"}:
        return Trouble(causes.TLS_OLD, f"the server refuses TLS 1.2 and 1.3: {reason}")
    return Trouble(causes.TLS_FAILED, f"the TLS handshake fails: {reason}")


def _broken(error: trio.BrokenResourceError) -> Trouble:
    if isinstance(error.__cause__, ssl.SSLError):
        return tls_trouble(error.__cause__)
    return Trouble(causes.ENDED_EARLY, "the connection is reset before the answer")


def _endless(received: int) -> Trouble:
    return Trouble(causes.ENDLESS, f"{received:,} bytes of headers without an end")


def _not_http(first: bytes) -> Trouble:
    if first[:1] in {b"\x15", b"\x16"}:
        return Trouble(causes.TLS_UNEXPECTED, "the answer is a TLS record, not HTTP")
    return Trouble(causes.NOT_HTTP, f"the answer begins with {shown(first, 40)!r}")
