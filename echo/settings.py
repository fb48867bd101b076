"""Every setting of the service, read once from the environment into one frozen value.

A field of `Settings` is the whole story of a setting: its variable (`ECHO_` and the field's
name), its default, what is allowed, and in its docstring the unit. A wrong value stops the
start with one line that says what to change. Nothing here imports more than the standard
library, so that reading the settings costs nothing.
"""

import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Final, Self

PREFIX: Final = "ECHO_"


class SettingsError(Exception):
    """The operator set a variable to a value that is not allowed; `str()` is one line.

    Args:
        variable: its name.
        value: what it is; None if that must not be shown.
        allowed: what it may be.
    """

    def __init__(self, variable: str, value: str | None, allowed: str) -> None:
        if value is None:
            super().__init__(f"{variable} must be {allowed}")
        else:
            shown = repr(value if len(value) <= 80 else value[:77] + "...")
            super().__init__(f"{variable} is {shown}, but it must be {allowed}")


@dataclass(frozen=True, slots=True)
class Rule:
    """What a variable may hold, in words and in code; `parse` raises ValueError for the rest."""

    allowed: str
    parse: Callable[[str], object]
    secret: bool = False
    """Whether it may hold a password, and so is never shown."""


def rule_of(name: str) -> Rule:
    """The rule of the field `name`, so that the command line can hold its options to it."""
    for each in fields(Settings):
        if each.name == name:
            return _rule(each.metadata)
    raise KeyError(name)


def _rule(metadata: Mapping[str, object]) -> Rule:
    rule = metadata["rule"]
    assert isinstance(rule, Rule)
    return rule


# --- the kinds of values: each returns the metadata of a field ---


def _text(allowed: str) -> dict[str, Rule]:
    def parse(text: str) -> str:
        # A blank or a control character in a name is a slip of the shell, never meant.
        if not re.fullmatch(r"[!-~]+", text):
            raise ValueError(text)
        return text

    return {"rule": Rule(allowed, parse)}


def _name() -> dict[str, Rule]:
    def parse(text: str) -> str:
        if not re.fullmatch("[A-Za-z0-9-]{0,32}", text):
            raise ValueError(text)
        return text

    return {"rule": Rule("up to 32 letters, digits and hyphens", parse)}


def _engine() -> dict[str, Rule]:
    def parse(text: str) -> str:
        # Who opens it looks closer.
        if text and not re.fullmatch(r"(rediss?|valkeys?|unix)://[!-~]+", text):
            raise ValueError(text)
        return text

    return {"rule": Rule("a URL as redis://host:6379, or empty", parse, secret=True)}


def _integer(unit: str, lowest: int, highest: int) -> dict[str, Rule]:
    def parse(text: str) -> int:
        # int() would also take "1_000", "+5" and digits of other scripts.
        if not re.fullmatch(r"[0-9]{1,18}", text) or not lowest <= int(text) <= highest:
            raise ValueError(text)
        return int(text)

    return {"rule": Rule(f"{unit}, a whole number from {lowest} to {highest}", parse)}


def _seconds(lowest: float, highest: float, *, off: bool = False) -> dict[str, Rule]:
    def parse(text: str) -> float | None:
        if off and text.lower() == "off":
            return None
        # float() would also take "nan", "inf" and "1e9".
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
            raise ValueError(text)
        if not lowest <= float(text) <= highest:
            raise ValueError(text)
        return float(text)

    allowed = f"seconds from {lowest:g} to {highest:g}" + (' or "off"' if off else "")
    return {"rule": Rule(allowed, parse)}


def _switch() -> dict[str, Rule]:
    def parse(text: str) -> bool:
        if text.lower() not in {"on", "off"}:
            raise ValueError(text)
        return text.lower() == "on"

    return {"rule": Rule('"on" or "off"', parse)}


def _choice(*values: object) -> dict[str, Rule]:
    def parse(text: str) -> object:
        return {str(value): value for value in values}[text.lower()]

    return {"rule": Rule("one of " + ", ".join(str(value) for value in values), parse)}


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address, and TCP ports of which the first free one is taken."""

    host: str
    ports: range


def _metrics() -> dict[str, Rule]:
    def parse(text: str) -> str | Address:
        if text.lower() in {"local", "all", "off"}:
            return text.lower()
        match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[0-9.]+):([0-9]{1,5})(?:-([0-9]{1,5}))?", text)
        if match is None:
            raise ValueError(text)
        first, last = int(match[2]), int(match[3] or match[2])
        if not first <= last <= min(65535, first + 255):
            raise ValueError(text)
        host = str(ipaddress.ip_address(match[1].strip("[]")))
        return Address(host, range(first, last + 1))

    allowed = '"local", "all", "off", or an address with ports such as 127.0.0.1:9100-9103'
    return {"rule": Rule(allowed, parse)}


def _origins() -> dict[str, Rule]:
    def parse(text: str) -> tuple[str, ...]:
        origins = tuple(part.strip().lower() for part in text.split(",") if part.strip())
        if not all(re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s]+", origin) for origin in origins):
            raise ValueError(text)
        return origins

    allowed = "origins such as https://example.org, separated by commas, or empty to allow all"
    return {"rule": Rule(allowed, parse)}


def _proxies() -> dict[str, Rule]:
    def parse(text: str) -> tuple[str, ...]:
        parts = [part.strip().lower() for part in text.split(",") if part.strip()]
        if parts == ["none"]:
            return ()
        if not parts:  # "," may mean everybody or nobody
            raise ValueError(text)
        # A network with bits of a host in it may be a slip, and trust is nothing to guess at.
        return tuple(part if part == "unix" else str(ipaddress.ip_network(part)) for part in parts)

    allowed = '"unix", addresses and networks such as 10.0.0.0/8, separated by commas, or "none"'
    return {"rule": Rule(allowed, parse)}


_HOUR: Final = 3600
_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """One field is one setting. `None` means the thing is off."""

    # Where `python -m echo` listens (Hypercorn's own command takes --bind)

    host: str = field(default="localhost", metadata=_text("a host name or an IP address"))
    """Name or address to listen on; every address a name stands for. Default "localhost"."""

    port: int = field(default=5000, metadata=_integer("a TCP port", 0, 65535))
    """TCP port; 0 lets the system choose a free one. Default 5000."""

    workers: int = field(default=1, metadata=_integer("processes", 1, 256))
    """Processes that share the port. Default 1."""

    node: str = field(default="", metadata=_name())
    """Name of this process where a proxy sends each hub connection to the process it began with:
    connection tokens begin with it and a dot. Without effect on several workers. Default empty."""

    backplane: str = field(default="", metadata=_engine(), repr=False)
    """Redis or Valkey, through which the hubs of several processes and machines are one:
    redis://, rediss:// (TLS) or unix://; see README. Default empty."""

    log_level: str = field(
        default="info", metadata=_choice("debug", "info", "warning", "error", "critical")
    )
    """The least level that is logged. Default "info"."""

    metrics: str | Address = field(default="local", metadata=_metrics())
    """Who may ask for /metrics: "local" is who asks from this machine, "all" is everybody. An
    address is for them alone, and each process takes the first free port. Default "local"."""

    # Shutdown

    shutdown_timeout: float = field(default=5.0, metadata=_seconds(0, _HOUR))
    """Seconds of grace that open connections get to end. Default 5."""

    shutdown_code: int = field(default=1001, metadata=_choice(1001, 1012))
    """Close code at shutdown: 1001 going away, 1012 service restart. Default 1001."""

    shutdown_spread: float = field(default=0.0, metadata=_seconds(0, _HOUR))
    """Seconds over which the close frames at shutdown are spread, so that not all clients come
    back at once; at most 7 tenths of the grace. Default 0."""

    # Keep-alive

    keep_alive_interval: float | None = field(
        default=30.0, metadata=_seconds(0.001, 24 * _HOUR, off=True)
    )
    """Seconds between two pings to a silent client; off sends none. Default 30."""

    keep_alive_timeout: float | None = field(
        default=30.0, metadata=_seconds(0.001, 24 * _HOUR, off=True)
    )
    """Seconds a pong may take until the client counts as gone; off waits on. Default 30."""

    # Bounds of a connection

    receive_buffer_size: int = field(default=262144, metadata=_integer("bytes", 1024, 64 * _MIB))
    """Most bytes of a message that are taken, and echoed, at once. Default 262144."""

    max_message_size: int = field(default=16 * _MIB, metadata=_integer("bytes", 1, 1024 * _MIB))
    """Bytes of the largest message that is accepted. Default 16777216 (16 MiB)."""

    send_buffer_size: int = field(default=65536, metadata=_integer("bytes", 1024, 64 * _MIB))
    """Bytes that wait for a slow client before sending pauses. Default 65536."""

    send_timeout: float = field(default=30.0, metadata=_seconds(0.001, 24 * _HOUR))
    """Seconds a client may take to read what was sent to it. Default 30."""

    close_timeout: float = field(default=5.0, metadata=_seconds(0.001, _HOUR))
    """Seconds the closing handshake may take. Default 5."""

    # Features

    allowed_origins: tuple[str, ...] = field(default=(), metadata=_origins())
    """Origins whose pages may open a WebSocket; empty allows all. Default empty."""

    trusted_proxies: tuple[str, ...] = field(default=("unix",), metadata=_proxies())
    """Peers whose X-Forwarded-For and X-Forwarded-Proto are believed: "unix" stands for all unix
    sockets. Default "unix"."""

    compression: bool = field(default=False, metadata=_switch())
    """Whether permessage-deflate is offered. Default off."""

    reactor: bool = field(default=True, metadata=_switch())
    """Whether Linux serves sockets through one epoll; off takes the portable path. Default on."""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """The settings that `environ` asks for; an empty variable counts as not set."""
        given = {
            each.name: _parse(each.name, _rule(each.metadata), environ[variable(each.name)])
            for each in fields(cls)
            if environ.get(variable(each.name))
        }
        return cls(**given)  # type: ignore[arg-type]  # the rules produce the fields' types


def _parse(name: str, rule: Rule, text: str) -> object:
    try:
        return rule.parse(text.strip())
    except (ValueError, KeyError):
        shown = None if rule.secret else text
        raise SettingsError(variable(name), shown, rule.allowed) from None


def variable(name: str) -> str:
    """The environment variable of the field `name`."""
    return PREFIX + name.upper()


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """One line for each `ECHO_*` variable that no setting reads: a typo must not pass silently."""
    known = [variable(each.name) for each in fields(Settings)]
    lines = []
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            lines.append(f"{name} is not a setting and has no effect{hint}")
    return lines
