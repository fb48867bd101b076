"""Several processes on a booted systemd: their sockets, their restart, and a hub that is one.

The tests go on from one another: two processes without a backplane, with one on a unix socket, and
with one over TCP.
"""

import json
import shutil
import time
from collections.abc import Iterator

import pytest

from tests.deploy.box import SHARE, Box
from tests.deploy.crowd import crowd
from tests.deploy.hub import TRANSPORTS, clients, homes
from tests.deploy.scripts import OFFLINE, commands, deploy
from tests.deploy.test_restart import SOCKETS, restart_under_load
from tests.hubs.backplane.engines import binary, needs_engine
from tests.missing import needs

SITE = "http://localhost"
EACH = 3  # connections over each transport, with each process
SETTINGS = "/etc/echo/echo.env"
DROP_INS = [f"/etc/systemd/system/{each}.service.d/backplane.conf" for each in ("echo", "echo@")]


@pytest.fixture(scope="module")
def output(box: Box, nothing: list[str], wheels: object) -> str:
    """What the installation of two processes has printed."""
    arguments = (*OFFLINE, "--processes", "2", "--no-tls", "--no-backplane")
    return deploy(box, "install", *arguments)[1]


@pytest.fixture
def two(box: Box, output: str) -> Box:
    return box


def own_sockets(box: Box) -> list[str]:
    return box.run("sh", "-c", "ls /run | grep '^echo.*sock$'", check=False).stdout.split()


def test_several_processes_without_a_backplane_are_warned_of(output: str) -> None:
    assert "Without a backplane each of the 2 processes sends only to its own clients" in output


def test_two_processes_share_a_socket_and_have_their_own(two: Box) -> None:
    states = [two.state(f"echo{each}") for each in ("@1", "@2", ".service")]
    assert states == ["active", "active", "inactive"]
    for number in (1, 2):
        told = two.run("stat", "--format=%U:%G %a", f"/run/echo-{number}.sock").stdout
        assert told == "root:www-data 660\n"
        pid = two.show(f"echo@{number}.service", "MainPID")
        assert f"ECHO_NODE={number}\0" in two.run("cat", f"/proc/{pid}/environ").stdout


def test_two_processes_restart_one_after_another(two: Box) -> None:
    restart_under_load(two, "/srv/echo/deploy/restart", processes=2)
    # Each has its share. (The status is told every 2 s.)
    deadline = time.monotonic() + 20
    with crowd(two, sockets=SOCKETS):
        while any(two.show(f"echo@{each}", "StatusText").endswith(" 0") for each in (1, 2)):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_the_socket_of_a_process_outlives_its_death_and_goes_with_its_end(two: Box) -> None:
    def until(expected: list[str]) -> None:
        deadline = time.monotonic() + 20
        while own_sockets(two) != expected:
            assert time.monotonic() < deadline, own_sockets(two)
            time.sleep(0.05)

    inode = two.run("stat", "--format=%i", "/run/echo-2.sock").stdout
    two.run("systemctl", "kill", "--signal=KILL", "echo@2.service")
    two.run("systemctl", "restart", "echo@2.service")
    assert two.run("stat", "--format=%i", "/run/echo-2.sock").stdout == inode

    two.run("systemctl", "stop", "echo@2.service")
    until(["echo-1.sock", "echo.sock"])
    assert two.state("echo@1.service") == "active"
    two.run("systemctl", "stop", "echo.socket")
    until([])
    assert two.state("echo@1.service") == "inactive"
    two.run("systemctl", "start", "echo.socket", "echo@1.service", "echo@2.service")
    assert own_sockets(two) == ["echo-1.sock", "echo-2.sock", "echo.sock"]


# --- with a backplane ---


@pytest.fixture(scope="module")
def engine(box: Box) -> Iterator[str]:
    """The unix socket of a Valkey or Redis in the box, which the group `proxy` may open."""
    program = binary()
    assert program is not None
    shutil.copy(program, box.share / "engine")
    box.run("install", "-m", "755", str(SHARE / "engine"), "/run/engine-server")
    socket = "/run/engine/engine.sock"
    box.run(
        *("systemd-run", "--unit=engine", "--property=User=proxy"),
        *("--property=RuntimeDirectory=engine", "/run/engine-server", "--dir", "/run/engine"),
        *("--bind", "127.0.0.1", "--port", "6379", "--save", "''"),
        *("--unixsocket", socket, "--unixsocketperm", "770"),
    )
    try:
        waiting = f"until [ -S {socket} ]; do sleep 0.02; done"
        box.run("timeout", "20", "sh", "-c", waiting)
        yield socket
    finally:
        box.run("systemctl", "stop", "engine", check=False)


def readiness(box: Box) -> list[str]:
    """What each process says of its backplane."""
    told = [
        box.run("curl", "-sS", "--unix-socket", f"/run/echo-{each}.sock", f"{SITE}/readyz").stdout
        for each in (1, 2)
    ]
    return [json.loads(each)["backplane"] for each in told]


def check_that_the_hub_is_one(box: Box) -> None:
    """Clients with either process, over each transport, all hear each other."""
    with clients(SITE, box.outside_command()) as crowd:
        for frozen in ("echo@1.service", "echo@2.service"):
            box.run("systemctl", "kill", "--signal=STOP", frozen)
            try:
                tokens = crowd.ask("connect", EACH)
            finally:
                box.run("systemctl", "kill", "--signal=CONT", frozen)
        assert homes(tokens) == {each: {"1": EACH, "2": EACH} for each in TRANSPORTS}
        assert crowd.ask("echo", 2) == tokens
        assert crowd.ask("broadcast", 2) == tokens


def network(box: Box) -> list[str]:
    pid = box.show("echo@1.service", "MainPID")
    told = box.run("nsenter", "--target", pid, "--net", "cat", "/proc/net/dev").stdout
    return sorted(line.partition(":")[0].strip() for line in told.splitlines()[2:])


@needs_engine
def test_what_a_unix_socket_needs_is_looked_at_first(two: Box, engine: str) -> None:
    def last_words(url: str) -> str:
        code, output = deploy(two, "install", *OFFLINE, "--backplane", url, check=False)
        assert code == 1
        assert not commands(output)
        return output.splitlines()[-1]

    assert last_words("unix:///run/none.sock").startswith("There is no socket /run/none.sock")
    assert last_words("postgres://x").startswith("--backplane is a URL, such as redis://")
    two.run("chmod", "700", engine)
    assert last_words(f"unix://{engine}").startswith(f"Only its owner may open {engine}")
    two.run("chmod", "770", engine)


@needs_engine
@needs("node", "nodejs")
@needs("npm")
def test_a_backplane_on_a_unix_socket_needs_no_network(two: Box, engine: str) -> None:
    url = f"unix://{engine}"
    deploy(two, "install", *OFFLINE, "--backplane", url)
    assert f"\nECHO_BACKPLANE={url}\n" in two.path(SETTINGS).read_text()
    assert two.run("stat", "--format=%U:%G %a", SETTINGS).stdout == "root:root 640\n"
    assert readiness(two) == ["connected", "connected"]
    assert network(two) == ["lo"]
    two.run("systemd-analyze", "security", "--threshold=5", "echo@1.service")
    check_that_the_hub_is_one(two)


@needs_engine
@needs("node", "nodejs")
@needs("npm")
def test_a_backplane_over_tcp_opens_the_sandbox(two: Box, engine: str) -> None:
    settings = two.path(SETTINGS)
    url = "redis://127.0.0.1:6379"
    # An operator's file keeps what else is in it.
    settings.write_text(settings.read_text() + "ECHO_LOG_LEVEL=debug\n")
    deploy(two, "install", *OFFLINE, "--backplane", url)
    text = settings.read_text()
    assert f"\nECHO_BACKPLANE={url}\n" in text
    assert text.endswith("\nECHO_LOG_LEVEL=debug\n")
    assert readiness(two) == ["connected", "connected"]
    two.run("systemd-analyze", "security", "--threshold=10", "echo@1.service")
    check_that_the_hub_is_one(two)

    _, output = deploy(two, "install", *OFFLINE)
    assert commands(output) == []
    settings.write_text(text.removesuffix("ECHO_LOG_LEVEL=debug\n"))
    _, output = deploy(two, "install", *OFFLINE, "--no-backplane", "--dry-run")
    assert {f"rm {each}" for each in DROP_INS} <= set(commands(output))
