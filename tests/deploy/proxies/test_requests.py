"""What becomes of a request on its way through a proxy: the same with all three.

The configuration is the one in deploy/, the service is the real one. Where something has to go
wrong behind the proxy, or what arrives there is the question, a recorder takes its place.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from time import monotonic

import pytest
import trio
from trio_websocket import ConnectionClosed

from tests.deploy.proxies.client import (
    ELSEWHERE,
    HANDSHAKE,
    HERE,
    ask,
    ask_over_http2,
    dial,
    echoes,
)
from tests.deploy.proxies.conftest import HAPROXY, NGINX, Kind
from tests.deploy.proxies.haproxy import HAProxy
from tests.deploy.proxies.proxy import Proxy
from tests.deploy.proxies.recorder import Recorder, Reply, answer


@pytest.fixture
def recorded(kind: Kind, tmp_path: Path) -> Iterator[tuple[Proxy, Recorder]]:
    """A proxy, and what the service would get to see."""
    path = tmp_path / "echo.sock"
    with Recorder(path) as recorder, kind(kind.shipped(), sock=path) as proxy:
        yield proxy, recorder


def test_it_serves_the_page(plain: Proxy, secure: Proxy) -> None:
    for tls, proxy in ((False, plain), (True, secure)):
        assert "<title>" in ask(proxy, "/", tls=tls).body
        assert ask(proxy, "/page/style.css", tls=tls).status == 200


async def test_messages_come_back_as_they_were_sent(plain: Proxy, secure: Proxy) -> None:
    with trio.fail_after(20):
        for tls, proxy in ((False, plain), (True, secure)):
            async with dial(proxy, tls=tls) as socket:
                for message in ("", "héllo", b"\x00\xff", os.urandom(1 << 20)):
                    assert await echoes(socket, message)


async def test_the_close_code_comes_through(plain: Proxy) -> None:
    with trio.fail_after(20):
        async with dial(plain) as socket:
            await socket.send_message("ServerClose")
            with pytest.raises(ConnectionClosed) as ended:
                await socket.get_message()
            reason = ended.value.reason
            assert reason is not None
            assert (reason.code, reason.reason) == (1000, "Closing from Server")


FORGED = (
    ("X-Forwarded-For", "203.0.113.7"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "evil.example"),
    ("X-Real-IP", "203.0.113.7"),
    ("Forwarded", "for=203.0.113.7;proto=https;host=evil.example"),
)


def test_the_service_sees_the_client_and_the_scheme_whatever_the_client_claims(
    plain: Proxy, secure: Proxy
) -> None:
    for tls, proxy in ((False, plain), (True, secure)):
        seen = ask(proxy, "/whoami", FORGED, source=ELSEWHERE, tls=tls).json()
        assert seen["client"] == ELSEWHERE
        assert seen["scheme"] == ("https" if tls else "http")
        assert seen["host"] == (
            f"localhost:{proxy.https_port}" if tls else f"{HERE}:{proxy.http_port}"
        )
        assert seen["forwarded"] is True


async def test_a_websocket_over_tls_is_wss_to_the_service(plain: Proxy, secure: Proxy) -> None:
    with trio.fail_after(20):
        for tls, proxy in ((False, plain), (True, secure)):
            async with dial(proxy, "/whoami", tls=tls) as socket:
                message = await socket.get_message()
                assert f'"scheme": "{"wss" if tls else "ws"}"' in message


def test_nothing_that_a_client_forges_gets_to_the_service(
    recorded: tuple[Proxy, Recorder],
) -> None:
    proxy, recorder = recorded
    ask(proxy, "/", FORGED, source=ELSEWHERE)
    [head] = recorder.heads
    assert "203.0.113.7" not in head
    assert "evil.example" not in head
    assert head.count(ELSEWHERE) >= 1


H2C = [
    (("Upgrade", "h2c"), ("Connection", "Upgrade")),
    (("Upgrade", "h2c"), ("Connection", "Upgrade, HTTP2-Settings"), ("HTTP2-Settings", "AAMAAABk")),
    (("Upgrade", "websocket, h2c"), ("Connection", "Upgrade")),
    (("Upgrade", "h2c, websocket"), ("Connection", "Upgrade")),
    (("Upgrade", "h2c"), ("Upgrade", "websocket"), ("Connection", "Upgrade")),
    (("Upgrade", "websocket"), ("Upgrade", "h2c"), ("Connection", "Upgrade")),
    (("Upgrade", "h2c"), ("Upgrade", "h2c"), ("Connection", "Upgrade")),
    (("Upgrade", "TLS/1.2"), ("Connection", "Upgrade")),
]


def test_no_upgrade_but_to_websocket_passes(recorded: tuple[Proxy, Recorder], plain: Proxy) -> None:
    proxy, recorder = recorded
    for path in ("/", "/ws", "/hub", "/page/"):
        for headers in H2C:
            ask(proxy, path, headers)
    for head in recorder.heads:
        upgrades = [line for line in head.lower().splitlines() if line.startswith("upgrade:")]
        assert upgrades in ([], ["upgrade: websocket"]), head
    for headers in H2C:
        answer = ask(plain, "/", headers)
        assert answer.status != 101


async def test_http2_has_no_upgrade_and_only_haproxy_has_its_websockets(secure: Proxy) -> None:
    with trio.fail_after(20):
        answer = await ask_over_http2(secure, "/ws", HANDSHAKE[:1] + HANDSHAKE[2:])
    assert answer.status != 101
    assert answer.extended_connect is isinstance(secure, HAProxy)


@pytest.mark.parametrize("word", ["websocket", "WebSocket", "WEBSOCKET"])
def test_the_name_of_the_protocol_may_be_in_any_case(plain: Proxy, word: str) -> None:
    assert ask(plain, "/ws", [("Upgrade", word), *HANDSHAKE[1:]]).status == 101


def test_where_websockets_are_off_a_handshake_gets_426(plain: Proxy) -> None:
    assert ask(plain, "/page/style.css", HANDSHAKE).status == 426
    assert ask(plain, "/page/style.css").status == 200


def test_websockets_have_paths_of_their_own_and_others_get_404(
    recorded: tuple[Proxy, Recorder],
) -> None:
    proxy, recorder = recorded
    for path in ("/", "/index.html", "/ws/", "/wss"):
        assert ask(proxy, path, HANDSHAKE).status == 404
    assert recorder.heads == []
    for path in ("/ws", "/whoami", "/hub"):
        ask(proxy, path, HANDSHAKE)
        assert "upgrade: websocket" in recorder.heads.pop().lower()


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_health_is_told_here_and_nowhere_else(plain: Proxy, path: str) -> None:
    assert ask(plain, path).status == 200
    for spelling in (path, f"{path}?x", f"/{path}", f"/%{ord(path[1]):x}{path[2:]}", f"{path}/"):
        assert ask(plain, spelling, source=ELSEWHERE).status == 404
        # A page that makes a browser here ask is not here.
        assert ask(plain, spelling, FORGED, source=ELSEWHERE).status == 404


def test_a_handshake_that_fails_opens_no_way_past_the_rules(plain: Proxy) -> None:
    connection = HTTPConnection(HERE, plain.http_port, timeout=20, source_address=(ELSEWHERE, 0))
    try:
        connection.request("GET", "/ws", headers={**dict(HANDSHAKE), "Sec-WebSocket-Version": "12"})
        response = connection.getresponse()
        response.read()
        assert response.status == 426
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 404
    finally:
        connection.close()


def test_server_sent_events_come_one_by_one(plain: Proxy) -> None:
    connection = HTTPConnection(HERE, plain.http_port, timeout=20)
    try:
        connection.request("GET", "/ticks", headers={"Accept-Encoding": "gzip"})
        response = connection.getresponse()
        assert response.getheader("Content-Encoding") is None
        times = [monotonic() for line in iter(response.readline, b"") if line.startswith(b"data:")]
        assert len(times) == 4
        # All at once, if anybody waits for the end: the service takes 0.75 s.
        assert times[-1] - times[0] > 0.4
    finally:
        connection.close()


async def test_the_query_is_not_in_the_log(plain: Proxy) -> None:
    referer = ("Referer", "http://localhost/?token=secret")
    assert ask(plain, "/page/?token=secret", [referer]).status == 404
    with trio.fail_after(20):
        async with dial(plain, "/ws?token=secret") as socket:
            assert await echoes(socket)
        # A WebSocket is logged when it has closed.
        await plain.wait_until(
            lambda: "/page/" in plain.access_log and "/ws" in plain.access_log, "no log"
        )
    assert "secret" not in plain.access_log


def test_no_request_is_sent_on_a_connection_that_may_just_be_closing(
    recorded: tuple[Proxy, Recorder],
) -> None:
    proxy, recorder = recorded
    ask(proxy, "/", [("Connection", "keep-alive")])
    assert "connection: close" in recorder.heads[0].lower()


@contextmanager
def before(kind: Kind, path: Path, reply: Reply) -> Iterator[tuple[Proxy, list[str]]]:
    """A proxy before a service that answers with `reply`, and the requests that got there."""
    with Recorder(path / "echo.sock", reply) as recorder:
        # Not the timeouts of others: they are longer.
        text = kind.shipped().replace("75s", "400ms")
        with kind(text, sock=recorder.path) as proxy:
            yield proxy, recorder.heads


def test_a_request_that_is_cut_off_is_sent_again_but_a_post_is_not(
    kind: Kind, tmp_path: Path
) -> None:
    def hang_up_once(head: str) -> list[bytes]:
        return [] if len(heads) == 1 else answer("204 No Content")

    with before(kind, tmp_path, hang_up_once) as (proxy, heads):
        assert ask(proxy, "/").status == 204
        assert len(heads) == 2
        heads.clear()
        assert ask(proxy, "/", method="POST", body=b"once").status == 502
        assert len(heads) == 1


# Caddy cannot tell a 503 from an answer, and has no read timeout on a unix socket.
not_caddy = pytest.mark.parametrize("kind", [NGINX, HAPROXY], indirect=True)


@not_caddy
def test_what_a_draining_process_refuses_is_asked_again_but_its_readiness_and_a_post_are_not(
    kind: Kind, tmp_path: Path
) -> None:
    def drain_once(head: str) -> list[bytes]:
        return answer("503 Service Unavailable" if len(heads) == 1 else "204 No Content")

    with before(kind, tmp_path, drain_once) as (proxy, heads):
        assert ask(proxy, "/ws", HANDSHAKE).status == 204
        for path, method in (("/readyz", "GET"), ("/hub", "POST")):
            heads.clear()
            assert ask(proxy, path, method=method).status == 503
            assert len(heads) == 1


@not_caddy
def test_what_took_too_long_is_not_asked_again(kind: Kind, tmp_path: Path) -> None:
    over = threading.Event()

    def never(head: str) -> Iterator[bytes]:
        over.wait(20)
        yield b""

    with before(kind, tmp_path, never) as (proxy, heads):
        assert ask(proxy, "/").status == 504
        over.set()
    assert len(heads) == 1
