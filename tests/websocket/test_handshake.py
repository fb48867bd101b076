"""The opening handshake, as far as it needs no server."""

from __future__ import annotations

import pytest

from echo.websocket.handshake import header, origin_allowed, refusal

GOOD = {
    b"upgrade": b"websocket",
    b"connection": b"Upgrade",
    b"sec-websocket-version": b"13",
    b"sec-websocket-key": b"dGhlIHNhbXBsZSBub25jZQ==",
}


def ask(changed: dict[bytes, bytes | None], method: str = "GET", version: str = "1.1") -> int:
    headers = {**GOOD, **changed}
    wrong = refusal(method, version, [(k, v) for k, v in headers.items() if v is not None])
    return wrong.status if wrong is not None else 101


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({}, 101),
        ({b"upgrade": b"WebSocket"}, 101),
        ({b"upgrade": b"h2c, websocket"}, 101),
        ({b"connection": b"keep-alive, Upgrade"}, 101),
        ({b"upgrade": None}, 400),
        ({b"upgrade": b"websockets"}, 400),
        ({b"connection": None}, 400),
        ({b"connection": b"close"}, 400),
        ({b"sec-websocket-version": None}, 400),
        ({b"sec-websocket-version": b"8"}, 426),
        ({b"sec-websocket-version": b"113"}, 426),
        ({b"sec-websocket-key": None}, 400),
        ({b"sec-websocket-key": b""}, 400),
        ({b"sec-websocket-key": b"dGhlIHNhbXBsZSBub25jZQ"}, 400),
        ({b"sec-websocket-key": b"dGhlIHNhbXBsZSBub25j"}, 400),
        ({b"sec-websocket-key": b"\xff" * 24}, 400),
    ],
)
def test_a_handshake_of_http_1_is_good_or_says_what_is_wrong(
    changed: dict[bytes, bytes | None], status: int
) -> None:
    assert ask(changed) == status


def test_only_a_get_of_http_1_1_is_a_handshake() -> None:
    assert ask({}, method="POST") == 400
    assert ask({}, version="1.0") == 400


def test_a_second_key_is_no_key() -> None:
    wrong = refusal("GET", "1.1", [*GOOD.items(), (b"Sec-WebSocket-Key", GOOD[b"upgrade"])])
    assert wrong is not None
    assert wrong.status == 400


def test_over_http_2_there_is_no_upgrade_and_no_key() -> None:
    bare = {name: None for name in (b"upgrade", b"connection", b"sec-websocket-key")}
    assert ask({**bare}, "CONNECT", "2") == 101
    assert ask({**bare, b"sec-websocket-version": b"8"}, "CONNECT", "2") == 400


def test_several_headers_of_one_name_are_one_list() -> None:
    headers = [(b"X-A", b"1 "), (b"other", b"0"), (b"x-a", b"2")]
    assert header(headers, b"x-a") == "1, 2"
    assert header(headers, b"missing") is None


def test_two_origins_are_not_one_of_them() -> None:
    allowed = ("https://a.example",)
    assert origin_allowed("https://A.example", allowed)
    assert not origin_allowed("https://a.example, https://b.example", allowed)
    assert not origin_allowed("", allowed)
    assert origin_allowed(None, allowed)
