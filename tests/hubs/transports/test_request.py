"""Requests as hubs see them: headers without regard to case, cookies however they come."""

from __future__ import annotations

import pytest

from echo.hubs.transports.request import Headers, Request
from echo.hubs.transports.text import whole_characters


def request(cookies: str = "", query: str = "") -> Request:
    return Request(headers=Headers([(b"cookie", cookies.encode())]), query_string=query)


def test_headers_are_found_without_regard_to_case() -> None:
    headers = Headers([(b"X-Mine", b" 1 "), (b"host", b"example.org"), (b"x-mine", b"2")])
    assert headers["x-MINE"] == "1, 2"
    assert headers.get("Host") == "example.org"
    assert "HOST" in headers
    assert "other" not in headers
    assert headers.get("€") is None
    assert dict(headers) == {"x-mine": "1, 2", "host": "example.org"}
    assert len(headers) == 2


@pytest.mark.parametrize(
    ("header", "cookies"),
    [
        ("", {}),
        ("a=1; b=2", {"a": "1", "b": "2"}),
        ("a=1;b=2;", {"a": "1", "b": "2"}),
        ("a=1; a=2", {"a": "1"}),
        ('a="quoted value"; b="', {"a": "quoted value", "b": '"'}),
        ("a=1; Path=/; Secure; HttpOnly; b=x=y", {"a": "1", "Path": "/", "b": "x=y"}),
        ("bad name=1; ü=2; a[]=3; =4; ;", {"bad name": "1", "ü": "2", "a[]": "3"}),
    ],
)
def test_a_malformed_cookie_does_not_hide_the_others(header: str, cookies: dict[str, str]) -> None:
    found = Request(headers=Headers([(b"cookie", header.encode("latin-1"))])).cookies
    assert found == cookies


def test_several_cookie_headers_are_one() -> None:
    headers = Headers([(b"cookie", b"a=1"), (b"cookie", b"b=2")])
    assert Request(headers=headers).cookies == {"a": "1", "b": "2"}


def test_the_query() -> None:
    asked = request(query="Id=a%20b&id=second&empty=&%FF=x")
    assert asked.query == {"Id": "a b", "id": "second", "empty": "", "\ufffd": "x"}
    assert asked.parameter("id") == "a b"
    assert asked.parameter("other") == ""


def test_a_query_of_too_many_parameters_is_none() -> None:
    assert request(query="&".join("a=1" for _ in range(101))).query == {}


@pytest.mark.parametrize("text", ["", "a", "ä", "€", "😀", "aä€😀"])
def test_characters_are_whole_or_not(text: str) -> None:
    data = text.encode()
    for length in range(len(data) + 1):
        whole = whole_characters(data[:length])
        assert data[:whole].decode() == data[:length].decode(errors="ignore")


def test_what_is_no_text_counts_as_it_is() -> None:
    for data in (b"\x80" * 5, b"\xff\xff\x80", b"a\x80\x80\x80\x80"):
        assert whole_characters(data) in (len(data), len(data) - 1, len(data) - 2)
