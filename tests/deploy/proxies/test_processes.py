"""Several processes of a hub behind a proxy: the files in deploy/ bring each request to its own.

That they do is shown with recorders in the place of processes, and with real processes and
Microsoft's client, whose connections would end if one request went astray.
"""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic

import pytest

from tests.deploy.hub import TRANSPORTS, clients, homes
from tests.deploy.nginx import Nginx
from tests.deploy.proxies.client import ELSEWHERE, HERE, ask
from tests.deploy.proxies.conftest import NGINX, Kind
from tests.deploy.proxies.haproxy import HAProxy
from tests.deploy.proxies.proxy import Proxy
from tests.deploy.proxies.recorder import Recorder, Reply, answer
from tests.deploy.proxies.service import Socket
from tests.missing import needs
from tests.servers import ROOT

DEPLOY = ROOT / "deploy"

FORGED = (("X-Forwarded-For", "203.0.113.7"), ("X-Forwarded-Proto", "https"))

SHARED = "shared"


def telling(name: str) -> Reply:
    return lambda head: answer("200 OK", name)


@contextmanager
def processes(folder: Path, count: int) -> Iterator[None]:
    """In the place of processes: each socket tells its number."""
    with ExitStack() as stack:
        stack.enter_context(Recorder(folder / "echo.sock", telling(SHARED)))
        for number in range(1, count + 1):
            path = folder / f"echo-{number}.sock"
            stack.enter_context(Recorder(path, telling(str(number))))
        yield


def reached(proxy: Proxy, name: str) -> set[str]:
    """Who answers the requests of a connection with this id."""
    methods = ("GET", "POST", "DELETE")
    return {ask(proxy, f"/hub?x=1&id={name}", method=each).body for each in methods}


def test_all_requests_of_a_connection_reach_the_process_that_its_id_names(
    kind: Kind, tmp_path: Path
) -> None:
    with processes(tmp_path, 3), kind(kind.shipped(), sock=tmp_path / "echo.sock") as proxy:
        for number in ("1", "2", "3"):
            assert reached(proxy, f"{number}.Zk3_x-9") == {number}
            assert reached(proxy, f"a-{number}.Zk3_x-9") == {number}
            assert reached(proxy, f"host-b-{number}.Zk3_x-9") == {number}
        # What has no such id any of them takes, and nobody chooses a path.
        nameless = ("", "Zk3_x-9", "1", "1-", "a.Zk3", "-1.x", "../1.x", "..%2f1.x", "1234.x", ".")
        for name in nameless:
            assert reached(proxy, name) == {SHARED}, name
        assert ask(proxy, "/hub").body == SHARED
        assert ask(proxy, "/hub/negotiate?id=2.x", method="POST").body == SHARED
        assert ask(proxy, "/ws?id=2.x").body == SHARED


def test_the_metrics_of_each_process_are_for_this_machine(kind: Kind, tmp_path: Path) -> None:
    with ExitStack() as stack:
        recorders = {
            number: stack.enter_context(
                Recorder(
                    tmp_path / f"echo{number and f'-{number}'}.sock", telling(number or SHARED)
                )
            )
            for number in ("", "1", "2")
        }
        proxy = stack.enter_context(kind(kind.shipped(), sock=tmp_path / "echo.sock"))
        assert ask(proxy, "/metrics").body == SHARED
        for number in ("1", "2"):
            assert ask(proxy, f"/metrics/{number}").body == number
            (head,) = recorders[number].heads
            assert head.startswith("GET /metrics ") or head.startswith("GET /metrics?"), head
            for path in (f"/metrics/{number}", f"//metrics/{number}", f"/metrics/%3{number}"):
                assert ask(proxy, path, source=ELSEWHERE).status == 404
            assert len(recorders[number].heads) == 1


def test_a_process_that_is_gone_costs_no_wait(kind: Kind, tmp_path: Path) -> None:
    with processes(tmp_path, 1), kind(kind.shipped(), sock=tmp_path / "echo.sock") as proxy:
        (tmp_path / "echo-2.sock").touch()  # nobody listens there
        begun = monotonic()
        for name in ("2.x", "3.x"):
            told = ask(proxy, f"/hub?id={name}", method="POST", body=b"hello")
            if kind is HAProxy:
                assert told.body == SHARED
            else:
                assert told.status == 502
        assert monotonic() - begun < 2


def test_a_negotiation_is_asked_again_where_a_process_drains(kind: Kind, tmp_path: Path) -> None:
    def drain_once(head: str) -> list[bytes]:
        return answer("503 Service Unavailable" if len(recorder.heads) == 1 else "204 No Content")

    recorder = Recorder(tmp_path / "echo.sock", drain_once)
    with recorder, kind(kind.shipped(), sock=recorder.path) as proxy:
        told = ask(proxy, "/hub/negotiate", method="POST").status
        # Caddy cannot tell a 503 from an answer.
        assert told == (503 if proxy.__class__.__name__ == "Caddy" else 204)


EACH = 20
"""Connections over each transport."""


# Of the three, the one whose real clients are worth the time.
@needs("node", "nodejs")
@needs("npm")
@pytest.mark.parametrize("kind", [NGINX], indirect=True)
def test_clients_stay_with_their_process_and_find_another_when_it_is_gone(kind: Kind) -> None:
    with ExitStack() as stack:
        socket = stack.enter_context(Socket())
        for number in (1, 2):
            socket.open(number)
        first = stack.enter_context(socket.process(1))
        second = stack.enter_context(socket.process(2))
        proxy = stack.enter_context(kind(kind.shipped(), sock=socket.path))
        crowd = stack.enter_context(clients(proxy.url))

        # Half of them each: who is frozen takes no negotiation.
        for frozen in (first, second):
            os.kill(frozen.pid, signal.SIGSTOP)
            tokens = crowd.ask("connect", EACH // 2)
            os.kill(frozen.pid, signal.SIGCONT)
        assert homes(tokens) == {each: {"1": EACH // 2, "2": EACH // 2} for each in TRANSPORTS}
        assert crowd.ask("echo", 3) == tokens

        # A process dies and comes back: it does not know its old connections.
        first.kill()
        first.wait()
        stack.enter_context(socket.process(1))
        old = next(each for each in tokens["LongPolling"] if each.startswith("1."))
        assert ask(proxy, f"/hub?id={old}").status == 404
        tokens = crowd.ask("back", "1.")
        assert crowd.ask("echo", 1) == tokens

        # A process is taken away.
        lost = next(each for each in tokens["LongPolling"] if each.startswith("2."))
        second.send_signal(signal.SIGUSR1)
        second.wait(20)
        socket.close(2)
        begun = monotonic()
        assert ask(proxy, f"/hub?id={lost}").status == (404 if kind is HAProxy else 502)
        assert monotonic() - begun < 2
        tokens = crowd.ask("back", "2.")
        assert homes(tokens) == {each: {"1": EACH} for each in TRANSPORTS}
        assert crowd.ask("echo", 1) == tokens


def block_of_the_readme(first: str) -> str:
    """The indented lines of deploy/README.md from this one on, as far as they are indented."""
    lines = (DEPLOY / "README.md").read_text().splitlines()
    start = lines.index(f"    {first}")
    end = next(each for each in range(start, len(lines)) if lines[each][:1] not in ("", " "))
    return "\n".join(lines[start:end])


def changed(text: str, old: str, new: str) -> str:
    assert len(re.findall(old, text)) == 1, old
    return re.sub(old, lambda _: new, text)


def machine(folder: Path) -> Nginx:
    """nginx on a machine behind another nginx, as deploy/README.md has it."""
    believed = block_of_the_readme("set_real_ip_from 192.0.2.1;").replace("192.0.2.1", HERE)
    line = r" *proxy_set_header X-Forwarded-Proto \$scheme;"
    return Nginx(changed(Nginx.shipped(), line, believed), sock=folder / "echo.sock")


@needs("nginx")
def test_nginx_in_front_of_several_machines_finds_the_machine_and_the_process(
    tmp_path: Path,
) -> None:
    addresses = {"a": "192.0.2.11:80", "b": "192.0.2.12:80"}
    # Both go, with the comment between them.
    old = r"(?s) *upstream echo \{.*?map \$arg_id \$hub \{.*?\n    \}\n"
    text = changed(Nginx.shipped(), old, block_of_the_readme("upstream echo {") + "\n")
    with ExitStack() as stack:
        recorders: dict[tuple[str, str], Recorder] = {}
        machines: dict[str, Nginx] = {}
        for name, address in addresses.items():
            (tmp_path / name).mkdir()
            for socket in ("echo", "echo-1", "echo-2"):
                recorder = Recorder(tmp_path / name / f"{socket}.sock", telling(f"{name} {socket}"))
                recorders[name, socket] = stack.enter_context(recorder)
            machines[name] = stack.enter_context(machine(tmp_path / name))
            text = text.replace(address, f"{HERE}:{machines[name].http_port}")
        front = stack.enter_context(Nginx(text, sock="/nowhere/echo.sock"))
        for name in addresses:
            for number in (1, 2):
                assert reached(front, f"{name}-{number}.Zk3") == {f"{name} echo-{number}"}
            assert reached(front, f"{name}.Zk3") == {f"{name} echo"}
        shared = {f"{name} echo" for name in addresses}
        assert {ask(front, "/hub/negotiate", method="POST").body for _ in range(8)} == shared
        assert {ask(front, "/ws").body for _ in range(8)} == shared

        ask(front, "/hub?id=b-2.x", FORGED, source=ELSEWHERE)
        head = recorders["b", "echo-2"].heads[-1]
        assert f"X-Forwarded-For: {ELSEWHERE}\r\n" in head
        assert "X-Forwarded-Proto: http\r\n" in head

        # A machine is gone: its connections find out from another one.
        machines["b"].process.terminate()
        machines["b"].process.wait(20)
        begun = monotonic()
        assert reached(front, "b-2.Zk3") == {"a echo-2"}
        assert {ask(front, "/hub/negotiate", method="POST").body for _ in range(8)} == {"a echo"}
        assert monotonic() - begun < 2
