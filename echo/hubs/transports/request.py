"""The request that opened a transport, as a hub and an authentication hook see it.

It is frozen and keeps nothing of the framework alive; what few ask for is parsed when it is
asked for. Cookies are read leniently: one that is malformed does not hide the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

_MOST_PARAMETERS = 100


class Headers(Mapping[str, str]):
    """Headers, looked up without regard to case; several of one name are one list, with ", "."""

    __slots__ = ("_raw",)

    def __init__(self, raw: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._raw = tuple(raw)

    def __getitem__(self, name: str) -> str:
        key = name.lower().encode("latin-1", "replace")
        # Several Cookie headers are one list too, with its own separator (RFC 6265, RFC 9113).
        separator = b"; " if key == b"cookie" else b", "
        values = [value.strip() for each, value in self._raw if each.lower() == key]
        if not values:
            raise KeyError(name)
        return separator.join(values).decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name.decode("latin-1").lower() for name, _ in self._raw))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request: what it asked for, by whom, and over which HTTP."""

    method: str = "GET"
    path: str = "/"
    """Decoded, without the query."""
    query_string: str = field(default="", repr=False)  # may hold secrets, as headers may
    headers: Headers = field(default_factory=Headers, repr=False)
    client: str | None = None
    """The peer's address, if it has one."""
    scheme: str = "http"
    """http, https, ws or wss."""
    http_version: str = "1.1"

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters, of several with one name the first. Empty if there are
        more than a hundred, which no client sends."""
        return dict(reversed(self._pairs))

    def parameter(self, name: str) -> str:
        """A parameter of the query, looked up without regard to case; "" if there is none."""
        return next((value for key, value in self._pairs if key.lower() == name), "")

    @property
    def _pairs(self) -> list[tuple[str, str]]:
        try:
            return parse_qsl(
                self.query_string,
                keep_blank_values=True,
                errors="replace",
                max_num_fields=_MOST_PARAMETERS,
            )
        except ValueError:
            return []

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies by name; of several with one name the first counts.

        What looks like an attribute (Path, Secure) is a cookie of that name, or nothing.
        """
        found: dict[str, str] = {}
        for part in self.headers.get("cookie", "").split(";"):
            name, equals, value = part.partition("=")
            if equals and name.strip():
                value = value.strip()
                if len(value) > 1 and value[0] == value[-1] == '"':
                    value = value[1:-1]
                found.setdefault(name.strip(), value)
        return found
