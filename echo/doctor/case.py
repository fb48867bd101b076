"""What is known in the course of an examination, and what a step may need of it.

Steps write what later ones build on: the address that answers, whether the handshake works, who
is there. A need is a function that gives the reason to skip a step, or None.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from echo.doctor.report import Finding
from echo.doctor.session import Dial, dial
from echo.doctor.target import Target
from echo.doctor.wire import Response, Wire

Dialling: TypeAlias = AbstractAsyncContextManager[Dial]


@dataclass(frozen=True, slots=True)
class Options:
    """How to examine; times in seconds."""

    limit: float = 10.0
    """For each answer."""
    deadline: float = 60.0
    """For all steps but the idle one."""
    idle: float = 0.0
    """How long to keep a socket idle; 0 does not."""
    origin: str | None = None
    """Of the pages that are to connect; None is the target's own."""
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)
    """Decides whom to trust."""


@dataclass(slots=True)
class Case:
    """One server under examination."""

    target: Target
    options: Options
    wire: Wire = field(init=False)
    addresses: list[str] = field(default_factory=list)
    connected: bool = False
    answers: bool = False
    """Whether the server speaks HTTP at all."""
    page: Response | None = None
    """The answer to a GET of the page."""
    echo: bool = False
    """Whether the service is Echo."""
    front: str = ""
    """What answers: nginx, hypercorn, ..."""
    served: bool = False
    """Whether any answer came from a service, and not only from a proxy that misses it."""
    opens: bool = False
    """Whether the handshake works."""
    origin_needed: bool = False
    """Whether it works only with an Origin."""
    echoes: bool = False
    """Whether messages come back."""
    whoami: dict[str, Any] | None = None
    """Who we are, as the service sees it over HTTP."""

    def __post_init__(self) -> None:
        self.wire = Wire(self.target, self.options.limit)

    def learn(self, target: Target) -> None:
        """More is known of the target than the URL said."""
        self.target = self.wire.target = target

    @property
    def origin(self) -> str:
        return self.options.origin or self.target.origin

    @property
    def proxied(self) -> bool:
        """Whether a proxy stands in front of the service."""
        if self.target.unix:
            return False
        whoami = self.whoami or {}
        if whoami and (whoami.get("forwarded") is True or whoami.get("client") is None):
            return True
        return self.front not in {"", "hypercorn"}

    @property
    def on_loopback(self) -> bool:
        """Whether we come from the server's own machine by its loopback interface."""
        return is_loopback(self.wire.own_address)

    def dial(self, path: str | None = None, **options: Any) -> Dialling:
        """A WebSocket's handshake, with an Origin where it does not go without."""
        if self.origin_needed:
            options.setdefault("origin", self.origin)
        return dial(self.wire, path, **options)


def is_loopback(address: object) -> bool:
    parsed = parsed_address(address)
    return parsed is not None and parsed.is_loopback


def parsed_address(address: object) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address as others may write it: also IPv4 within IPv6; None if it is none."""
    if not isinstance(address, str):
        return None
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed


Need: TypeAlias = Callable[[Case], str | None]


@dataclass(frozen=True, slots=True)
class Step:
    """One question to the server."""

    name: str
    ask: Callable[[Case], Awaitable[Finding]]
    needs: Sequence[Need] = ()


def connection(case: Case) -> str | None:
    return None if case.connected else "needs a connection"


def answers(case: Case) -> str | None:
    return None if case.answers else "needs an answer by HTTP"


def page(case: Case) -> str | None:
    return None if case.page is not None else "needs an answer to a plain GET"


def service(case: Case) -> str | None:
    return None if case.served else "needs the service behind the proxy"


def handshake(case: Case) -> str | None:
    return None if case.opens else "needs the handshake"


def echo(case: Case) -> str | None:
    return None if case.echo else "only Echo has it, and this is another service"


def messages(case: Case) -> str | None:
    return None if case.echoes else "needs messages that come back"


def outside(case: Case) -> str | None:
    return "on the unix socket this command is the proxy" if case.target.unix else None


def whoami(case: Case) -> str | None:
    return None if case.whoami is not None else "needs /whoami, which does not answer"
