"""An engine's URL, and a connection to it: opened, with the password said, speaking RESP.

The only module that knows hiredis, which parses. RESP2 is all that publish and subscribe need, so
any Redis or Valkey will do.
"""

from __future__ import annotations

import dataclasses
import math
import os
import socket
import ssl
from collections.abc import Iterable
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote, urlsplit

import hiredis
import trio

_SCHEMES = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}  # with TLS?
_PORT = 6379
_READ_SIZE = 65536
# Errors whose `errno` is none of the system's.
_OTHER_NUMBERS = (socket.gaierror, ssl.SSLError)
# More of one reply than this is not what a hub has sent.
_MOST_BUFFERED = 64 * 1024 * 1024


class EngineAway(Exception):
    """There is no connection to the engine, and why, in one line."""


class EngineRefusal(Exception):
    """The engine's answer is an error."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions:
    """Options of a backplane on Redis or Valkey. Times are in seconds, sizes in bytes.

    Raises:
        ValueError: a value is out of its range; the message names the option and the range.
    """

    # The engine
    prefix: str = ""
    """What the names of all channels begin with, if others use the same engine."""
    sharded: bool = False
    """Use sharded pub/sub on a cluster: each channel lives on one shard only, instead of going to
    all of them. Every node must do so, and .NET's cannot."""
    ca_file: str | None = None
    """Whose certificates a TLS engine may have (PEM); None for those the system trusts."""
    cert_file: str | None = None
    """Our certificate for a TLS engine that asks for one (PEM)."""
    key_file: str | None = None
    """Its key, unless it is in `cert_file`."""

    # Limits
    queue_size: int = 8 * 1024 * 1024
    """Bytes of messages that the engine has not taken yet; more are dropped."""
    connect_timeout: float = 5.0
    """Seconds until a connection must be there, TLS and password included."""
    answer_timeout: float = 5.0
    """Seconds the engine may take for an answer; then it counts as away."""
    keep_alive_interval: float = 5.0
    """Seconds of silence after which the engine is asked for a sign of life."""
    retry_least: float = 0.1
    """Seconds until the first attempt to connect anew, about; doubles from one to the next."""
    retry_most: float = 5.0
    """Seconds between two attempts to connect, at most."""

    _SECONDS: ClassVar[tuple[str, ...]] = (
        *("connect_timeout", "answer_timeout", "keep_alive_interval"),
        *("retry_least", "retry_most"),
    )

    def __post_init__(self) -> None:
        for name in self._SECONDS:
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"{name} must be a positive number of seconds, not {value!r}")
        if type(self.queue_size) is not int or self.queue_size < 1:
            raise ValueError(
                f"queue_size must be a whole number of at least 1 (bytes), not {self.queue_size!r}"
            )

    def ssl_context(self) -> ssl.SSLContext:
        """Raises ValueError if one of the files cannot be used."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except OSError as error:
            files = ", ".join(filter(None, (self.ca_file, self.cert_file, self.key_file)))
            raise ValueError(f"cannot use {files} for TLS: {error}") from error
        return context


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an engine listens."""

    host: str = "localhost"
    port: int = _PORT
    path: str = ""
    """Of a unix socket, instead of host and port."""

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclasses.dataclass(frozen=True, slots=True)
class Engine:
    """Where the engine listens, and how it lets us in."""

    endpoints: tuple[Endpoint, ...]
    """To be tried in turn."""
    tls: ssl.SSLContext | None = dataclasses.field(default=None, repr=False)
    username: str | None = dataclasses.field(default=None, repr=False)
    password: str | None = dataclasses.field(default=None, repr=False)

    def __str__(self) -> str:
        return ", ".join(map(str, self.endpoints))

    async def connect(self, endpoint: Endpoint) -> Session:
        """Raises `EngineAway`. Takes as long as it takes."""
        try:
            stream = await self._open(endpoint)
            session = Session(stream)
            try:
                if self.password is not None:
                    names = [self.username] if self.username else []
                    await session.ask("AUTH", *names, self.password)
                if await session.ask("PING") != b"PONG":
                    # Such as we ourselves: TCP may connect a port that nobody has to itself.
                    raise EngineAway("this is no Redis or Valkey")
            except BaseException:
                await session.close()
                raise
        except EngineRefusal as refusal:
            hint = (
                ": give it in the URL, redis://:password@host" if "NOAUTH" in str(refusal) else ""
            )
            raise EngineAway(f"{refusal}{hint}") from refusal
        except (OSError, trio.BrokenResourceError, EngineAway) as error:
            raise EngineAway(_why(error)) from error
        return session

    async def _open(self, endpoint: Endpoint) -> trio.abc.Stream:
        if endpoint.path:
            return await trio.open_unix_socket(endpoint.path)
        stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
        if self.tls is None:
            return stream
        secure = trio.SSLStream(stream, self.tls, server_hostname=endpoint.host)
        try:
            await secure.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return secure


class Session:
    """A connection to an engine: commands out, replies in."""

    __slots__ = ("_reader", "_stream")

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._reader = hiredis.Reader()

    async def send(self, data: bytes) -> None:
        """Raises `EngineAway`."""
        try:
            await self._stream.send_all(data)
        except (OSError, trio.BrokenResourceError) as error:
            raise EngineAway(_why(error)) from error

    async def receive(self) -> list[Any]:
        """What has come, in order; empty if that is no whole reply. Raises `EngineAway`."""
        try:
            data = await self._stream.receive_some(_READ_SIZE)
        except (OSError, trio.BrokenResourceError) as error:
            raise EngineAway(_why(error)) from error
        if not data:
            raise EngineAway("the engine has closed the connection")
        replies = []
        reader = self._reader
        try:
            reader.feed(bytes(data))
            while (reply := reader.gets()) is not False:
                replies.append(reply)
        except (hiredis.HiredisError, TypeError, ValueError) as error:
            raise EngineAway(f"this is no Redis or Valkey: {error}") from error
        if reader.len() > _MOST_BUFFERED:
            raise EngineAway(f"a message is larger than {_MOST_BUFFERED} bytes")
        return replies

    async def ask(self, *command: str) -> Any:
        """Send a command and wait for the answer. Raises `EngineRefusal`, `EngineAway`."""
        await self.send(pack(*command))
        while not (replies := await self.receive()):
            pass
        return answer(replies[0])

    async def close(self) -> None:
        """At once."""
        await trio.aclose_forcefully(self._stream)


def pack(*command: str | bytes) -> bytes:
    """A command as it goes out."""
    data: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]
    return data


def answer(reply: Any) -> Any:
    """The reply itself. Raises `EngineRefusal` if it is an error."""
    if isinstance(reply, hiredis.ReplyError):
        raise EngineRefusal(str(reply))
    return reply


def parse_url(url: str, options: RedisOptions | None = None) -> tuple[Engine, RedisOptions]:
    """The engine of a URL, and the options with what the URL says of them.

    `redis://[user]:password@host:6379`, `rediss://` with TLS, `unix:///path`; several hosts are
    separated by commas; a database is ignored. `?prefix=`, `?sharded=on`, `?ca=`, `?cert=` and
    `?key=` set options. Raises ValueError, without the password.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _senseless() from None
    options = _with_query(options or RedisOptions(), parts.query)
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    tls = None
    if parts.scheme == "unix":
        if not parts.path or hosts:
            raise ValueError("a unix socket is written unix:///path/to/socket")
        if options.sharded:
            raise ValueError("a cluster has no unix socket: give the host of one of its engines")
        endpoints: Iterable[Endpoint] = (Endpoint(path=unquote(parts.path)),)
    elif parts.scheme in _SCHEMES:
        endpoints = [_endpoint(host) for host in hosts.split(",")]
        if _SCHEMES[parts.scheme]:
            tls = options.ssl_context()
    else:
        raise ValueError(
            f"a backplane's URL begins with redis://, rediss:// or unix://, not {parts.scheme!r}"
        )
    return (
        Engine(
            tuple(endpoints),
            tls,
            unquote(username) or None,
            unquote(password) or None,
        ),
        options,
    )


def _endpoint(text: str) -> Endpoint:
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port
    except ValueError:
        raise _senseless() from None
    return Endpoint(parts.hostname or "localhost", _PORT if port is None else port)


def _senseless() -> ValueError:
    """Shows nothing of the URL: it may be the password that is cut in two."""
    return ValueError(
        "a backplane's URL has a host or port that makes no sense; in a password, / is written "
        "%2F, ? is %3F, # is %23 and @ is %40"
    )


def _with_query(options: RedisOptions, query: str) -> RedisOptions:
    names = {"ca": "ca_file", "cert": "cert_file", "key": "key_file", "prefix": "prefix"}
    changes: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in names:
            changes[names[name]] = value
        elif name == "sharded" and value in ("on", "off"):
            changes[name] = value == "on"
        else:
            raise ValueError(
                "a backplane's URL knows ?prefix=, ?sharded=on, ?ca=, ?cert= and ?key=, no other; "
                "in a password, ? is written %3F"
            )
    return dataclasses.replace(options, **changes)


def _why(error: BaseException) -> str:
    """The reason in a few words: the innermost that says something."""
    if isinstance(error, BaseExceptionGroup):
        return _why(error.exceptions[0])
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if error.__cause__ is not None and not isinstance(error, EngineAway):
        return _why(error.__cause__)
    if isinstance(error, OSError) and error.errno and not isinstance(error, _OTHER_NUMBERS):
        return os.strerror(error.errno)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
