"""What an answer means, from its status and its words; and who wrote it."""

import pytest

from echo.doctor.refusals import author_of, describe, explain, front_of
from echo.doctor.wire import Response

NGINX = "<html>\r\n<head><title>{0}</title></head>\r\n<hr><center>nginx/1.22.1</center>\r\n</html>"
HAPROXY = "<html><body><h1>503 Service Unavailable</h1>\nNo server is available to handle this"


def answer(status: int, words: str = "", **headers: str) -> Response:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, fields, words.encode())


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (answer(200, "<html>"), "path-serves-page"),
        (answer(204), "path-serves-page"),
        (answer(301, location="http://example.org/ws/"), "redirected"),
        (answer(308, location="https://example.org/ws"), "redirected-to-https"),
        (answer(302), "redirected"),
        (answer(400, "This is a WebSocket: the header 'Upgrade: websocket' is missing."),
         "upgrade-lost"),
        (answer(400, "This is a WebSocket: the header 'Connection: Upgrade' is missing."),
         "connection-lost"),
        (answer(400, "A WebSocket handshake needs HTTP/1.1; this request is HTTP/1.0."),
         "upstream-http10"),
        (answer(400, "This is a WebSocket: the header Sec-WebSocket-Key is missing."),
         "handshake-headers-lost"),
        (answer(400, "Failed to open a WebSocket connection: missing Upgrade header."),
         "upgrade-lost"),
        (answer(400, "invalid Connection header: close"), "connection-lost"),
        (answer(400, "The plain HTTP request was sent to HTTPS port"), "tls-unexpected"),
        (answer(400), "bad-request"),
        (answer(401), "password"),
        (answer(403), "forbidden"),
        (answer(404, NGINX), "path-not-routed"),
        (answer(404, "Not Found"), "path-unknown"),
        (answer(404, server="Caddy"), "path-not-routed"),
        (answer(405), "unexpected-status"),
        (answer(426, "Upgrade Required"), "websockets-refused"),
        (answer(426, sec_websocket_version="8"), "version-refused"),
        (answer(429), "dial-limited"),
        (answer(500), "service-error"),
        (answer(502, NGINX), "upstream-down"),
        (answer(503, NGINX), "dial-limited"),
        (answer(503, HAPROXY), "unavailable"),
        (answer(503, "The server is shutting down.\n"), "draining"),
        (answer(504, NGINX), "upstream-frozen"),
        (answer(599), "service-error"),
    ],
)  # fmt: skip
def test_a_refusal_has_its_cause(response: Response, expected: str) -> None:
    assert explain(response, tls=False).id == expected


def test_from_https_a_redirect_to_https_is_no_way_to_tls() -> None:
    response = answer(301, location="https://www.example.org/")
    assert explain(response, tls=True).id == "redirected"


@pytest.mark.parametrize(
    ("response", "author", "front"),
    [
        (answer(404, NGINX, server="nginx"), "nginx", "nginx"),
        (answer(404, "Not Found", server="nginx/1.22.1"), "", "nginx"),
        (answer(404, NGINX.replace("nginx", "openresty"), server="openresty"), "nginx", "nginx"),
        (answer(503, HAPROXY), "HAProxy", "HAProxy"),
        (answer(502, server="Caddy"), "Caddy", "Caddy"),
        (answer(200, "x", server="hypercorn-h11", via="1.1 Caddy"), "", "Caddy"),
        (answer(200, "x", server="hypercorn-h11"), "", "hypercorn"),
        (answer(404, "<title>404 nginx?</title>"), "", ""),
        (answer(200), "", ""),
    ],
)
def test_who_answers_is_told_from_the_answer(response: Response, author: str, front: str) -> None:
    assert (author_of(response), front_of(response)) == (author, front)


def test_an_answer_is_described_in_few_words() -> None:
    assert describe(answer(404, NGINX)) == "404, from nginx itself"
    assert describe(answer(301, location="/ws/")) == "301 to /ws/"
    assert describe(answer(400, "No.\n", content_type="text/plain")) == "400: No."
    assert describe(answer(400, "<html>", content_type="text/html")) == "400"
    assert len(describe(answer(400, "x" * 9999, content_type="text/plain"))) < 100
