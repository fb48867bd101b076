"""What people type is understood, or refused with one line that says why."""

import pytest

from echo.doctor.target import TargetError, parse


@pytest.mark.parametrize(
    ("text", "host", "port", "tls", "path", "page"),
    [
        ("http://example.org", "example.org", 80, False, "/ws", "/"),
        ("https://example.org/", "example.org", 443, True, "/ws", "/"),
        ("ws://example.org", "example.org", 80, False, "/ws", "/"),
        ("wss://example.org:8443/", "example.org", 8443, True, "/ws", "/"),
        ("wss://example.org/chat?room=1", "example.org", 443, True, "/chat?room=1", "/"),
        ("https://example.org/app/", "example.org", 443, True, "/ws", "/app/"),
        ("HTTPS://Example.ORG", "example.org", 443, True, "/ws", "/"),
        ("http://bücher.example", "xn--bcher-kva.example", 80, False, "/ws", "/"),
        ("http://[::1]:5000", "::1", 5000, False, "/ws", "/"),
        ("[::1]:5000", "::1", 5000, None, "/ws", "/"),
        ("127.0.0.1:5000", "127.0.0.1", 5000, None, "/ws", "/"),
        ("localhost:5000", "localhost", 5000, None, "/ws", "/"),
        ("example.org", "example.org", None, None, "/ws", "/"),
        ("ws://example.org/grüße", "example.org", 80, False, "/gr%C3%BC%C3%9Fe", "/"),
    ],
)
def test_a_url_is_taken_apart(
    text: str, host: str, port: int | None, tls: bool | None, path: str, page: str
) -> None:
    target = parse(text)
    assert (target.host, target.port, target.tls) == (host, port, tls)
    assert (target.path, target.page) == (path, page)


def test_the_path_that_is_given_wins() -> None:
    assert parse("ws://example.org/chat", "/ws2?a=b").path == "/ws2?a=b"
    assert parse("ws://example.org/chat", "/ws2?a=b").location == "/ws2"


def test_a_unix_socket_is_named_by_its_path() -> None:
    target = parse("unix:/run/echo.sock")
    assert (target.unix, target.tls, target.authority) == ("/run/echo.sock", False, "localhost")
    assert str(target) == "unix:/run/echo.sock"


@pytest.mark.parametrize(
    ("text", "authority", "origin"),
    [
        ("https://example.org:443", "example.org", "https://example.org"),
        ("http://example.org:443", "example.org:443", "http://example.org:443"),
        ("wss://[::1]", "[::1]", "https://[::1]"),
        ("ws://[::1]:80", "[::1]", "http://[::1]"),
    ],
)
def test_host_and_origin_are_those_of_a_browser(text: str, authority: str, origin: str) -> None:
    assert (parse(text).authority, parse(text).origin) == (authority, origin)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "blanks"),
        ("http://a b", "blanks"),
        ("http://a\r\nX: y", "blanks"),
        ("ftp://example.org", "ftp:// is not http"),
        ("http://", "names no host"),
        ("http://example.org:0", "names no port"),
        ("http://example.org:99999", "is not a URL"),
        ("http://example.org:x", "is not a URL"),
        ("http://[::1", "is not a URL"),
        ("http://[hello]", "not"),
        ("http://user:secret@example.org", "user name"),
        ("http://-example!.org", "is not a host name"),
        ("http://" + "a" * 300, "is not a host name"),
        ("http://\udcff", "is not a host name"),
        ("unix:echo.sock", "whole path"),
    ],
)
def test_what_is_no_url_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(TargetError, match=complaint) as error:
        parse(text)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_path_begins_with_a_slash() -> None:
    with pytest.raises(TargetError, match="does not begin with /"):
        parse("http://example.org", "ws")
