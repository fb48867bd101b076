"""Whom the service takes a client for, by who says so."""

import asyncio
from typing import Any

import pytest

from echo.hosting.proxies import FORWARDED, TrustedProxies


def seen(
    client: tuple[str, int] | None,
    *headers: tuple[str, str],
    trusted: tuple[str, ...] = ("unix", "10.0.0.0/8", "2001:db8::/32"),
    kind: str = "http",
) -> Any:
    """The scope that the app gets."""
    scope = {
        "type": kind,
        "scheme": {"http": "http", "websocket": "ws"}[kind],
        "client": client,
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
    }
    scopes = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)

    async def main() -> None:
        await TrustedProxies(app, trusted)(scope, None, None)

    asyncio.run(main())
    return scopes[0]


PROXY = ("10.0.0.1", 1234)
STRANGER = ("198.51.100.9", 1234)
FOR = "X-Forwarded-For"
PROTO = "X-Forwarded-Proto"


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        (" 203.0.113.7 ", "203.0.113.7"),
        ("2001:DB9:0::1", "2001:db9::1"),
        ("203.0.113.7:4711", "203.0.113.7"),
        ("[2001:db9::1]:4711", "2001:db9::1"),
        ("[2001:db9::1]", "2001:db9::1"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        # The last that is no proxy's counts: what stands before it the client may have written.
        ("192.0.2.66, 203.0.113.7", "203.0.113.7"),
        ("192.0.2.66, 203.0.113.7, 10.0.0.2", "203.0.113.7"),
        ("192.0.2.66, 203.0.113.7, 10.0.0.2, 2001:db8::2", "203.0.113.7"),
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("unknown, 10.0.0.2", "10.0.0.2"),
        # Malformed values are ignored, and with them all that they hide.
        ("", None),
        (",", None),
        ("unix:", None),
        ("unknown", None),
        ("203.0.113.7, unknown", None),
        ("203.0.113.7,", None),
        ("203.0.113", None),
        ("203.0.113.007", None),
        ("fe80::1%<script>", None),
        ("203.0.113.7 192.0.2.1", None),
        ("x" * 10000, None),
        ("1," * 5000, None),
    ],
)
def test_the_last_address_that_is_no_proxys_is_the_client(value: str, client: str | None) -> None:
    scope = seen(PROXY, (FOR, value))
    assert scope["client"] == (PROXY if client is None else (client, 0))
    assert scope[FORWARDED] is (client is not None)


def test_several_headers_are_one_list() -> None:
    assert seen(PROXY, (FOR, "192.0.2.66"), (FOR, "203.0.113.7"))["client"][0] == "203.0.113.7"
    scope = seen(PROXY, (FOR, "203.0.113.7"), (FOR, "10.9.9.9"))
    assert scope["client"][0] == "203.0.113.7"


@pytest.mark.parametrize(
    ("client", "trusted"),
    [
        (STRANGER, ("unix", "10.0.0.0/8")),
        (PROXY, ("unix",)),
        (PROXY, ()),
        (None, ("10.0.0.0/8",)),
        (None, ()),
        (("testclient", 0), ("10.0.0.0/8",)),
    ],
)
def test_who_is_not_trusted_is_not_believed(
    client: tuple[str, int] | None, trusted: tuple[str, ...]
) -> None:
    scope = seen(client, (FOR, "203.0.113.7"), (PROTO, "https"), trusted=trusted)
    assert scope["client"] == client
    assert scope["scheme"] == "http"
    assert not scope.get(FORWARDED)


@pytest.mark.parametrize(
    "client", [None, ("10.1.2.3", 1), ("::ffff:10.1.2.3", 1), ("2001:db8::5", 1)]
)
def test_a_unix_socket_and_the_addresses_of_the_proxies_are_trusted(
    client: tuple[str, int] | None,
) -> None:
    scope = seen(client, (FOR, "203.0.113.7"), (PROTO, "https"))
    assert (scope["client"], scope["scheme"]) == (("203.0.113.7", 0), "https")
    assert scope[FORWARDED] is True


@pytest.mark.parametrize(
    ("value", "http", "websocket"),
    [
        ("https", "https", "wss"),
        ("wss", "https", "wss"),
        ("HTTPS", "https", "wss"),
        ("http", "http", "ws"),
        ("https, http", "http", "ws"),
        ("http, https", "https", "wss"),
        ("ftp", "http", "ws"),
        ("", "http", "ws"),
    ],
)
def test_the_scheme_is_one_of_a_websocket_for_a_websocket(
    value: str, http: str, websocket: str
) -> None:
    assert seen(None, (PROTO, value))["scheme"] == http
    assert seen(None, (PROTO, value), kind="websocket")["scheme"] == websocket


def test_the_host_is_the_host_header_alone() -> None:
    scope = seen(None, ("Host", "example.org"), ("X-Forwarded-Host", "evil.example"))
    assert (b"host", b"example.org") in scope["headers"]
    assert "evil.example" not in str({name: scope[name] for name in scope if name != "headers"})
    assert scope[FORWARDED] is False


def test_the_app_is_not_wrapped_in_a_coroutine_of_its_own() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        pass

    called = TrustedProxies(app, ("unix",))({"type": "lifespan"}, None, None)
    assert called.cr_code is app.__code__  # type: ignore[attr-defined]
    called.close()  # type: ignore[attr-defined]
