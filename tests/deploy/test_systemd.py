"""The units, their sandbox and the files of settings: as text, and on a booted systemd."""

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
from hypercorn.config import Config

from echo import settings as settings_module
from echo.hosting.config import make_config
from echo.settings import Settings, rule_of, variable
from tests.deploy.box import ROOT, Box
from tests.deploy.crowd import crowd
from tests.missing import needs

DEPLOY = ROOT / "deploy"
SERVICES = ("echo.service", "echo@.service")
SOCKETS = ("echo.socket", "echo@.socket")
STARTED = ("echo.service", "echo@1.service")
SANDBOX = "10-sandbox.conf"

# Tenths, as systemd-analyze takes it.
MOST_EXPOSED = "5"
MOST_EXPOSED_WITH_TCP = "10"


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, laid out as deploy/install does, with a program in the place of Python."""
    for each in (*SOCKETS, *SERVICES):
        text = (DEPLOY / "systemd" / each).read_text()
        text = text.replace("/opt/echo/current/bin/python", "/bin/true")
        (tmp_path / each).write_text(text)
    for each in SERVICES:
        (tmp_path / f"{each}.d").mkdir()
        shutil.copy(DEPLOY / "systemd" / "sandbox.conf", tmp_path / f"{each}.d" / SANDBOX)
    return tmp_path


def analyze(units: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        env={"PATH": "/usr/bin:/bin", "SYSTEMD_UNIT_PATH": f"{units}:", "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def lint(units: Path) -> subprocess.CompletedProcess[str]:
    # Without this option an unknown key is a warning and the exit code 0.
    sockets = ("echo.socket", "echo@1.socket")
    return analyze(units, "verify", "--recursive-errors=no", "--man=no", *sockets, *STARTED)


@needs("systemd-analyze", "systemd")
def test_the_units_have_no_fault(units: Path) -> None:
    ended = lint(units)
    assert (ended.returncode, ended.stderr) == (0, "")


@needs("systemd-analyze", "systemd")
@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("echo.service", "Restart=always", "Restrat=always"),
        ("echo@.service", "WatchdogSec=10", "WatchdogSec=ten"),
        ("echo.socket", "SocketMode=0660", "SocketModes=0660"),
        ("echo@.socket", "ListenStream=", "ListenStreams="),
        ("echo.service.d/10-sandbox.conf", "PrivateMounts=", "PrivateMount="),
    ],
)
def test_a_slip_in_a_unit_would_be_found(units: Path, file: str, right: str, wrong: str) -> None:
    text = (units / file).read_text()
    assert right in text
    (units / file).write_text(text.replace(right, wrong))
    ended = lint(units)
    assert f"{file}:" in ended.stderr
    assert ended.returncode != 0


@needs("systemd-analyze", "systemd")
@pytest.mark.parametrize("unit", STARTED)
def test_the_services_are_hardly_exposed(units: Path, unit: str) -> None:
    score = ("security", "--offline=true", f"--threshold={MOST_EXPOSED}")
    assert analyze(units, *score, unit).returncode == 0
    for each in SERVICES:
        shutil.copy(DEPLOY / "systemd" / "backplane.conf", units / f"{each}.d")
    assert analyze(units, *score, unit).returncode != 0
    with_tcp = ("security", "--offline=true", f"--threshold={MOST_EXPOSED_WITH_TCP}")
    assert analyze(units, *with_tcp, unit).returncode == 0
    shutil.rmtree(units / "echo.service.d")
    shutil.rmtree(units / "echo@.service.d")
    assert analyze(units, *score, unit).returncode != 0


def directives(unit: str) -> set[str]:
    lines = (DEPLOY / "systemd" / unit).read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def test_one_process_and_one_of_several_are_the_same_service() -> None:
    one, several = directives("echo.service"), directives("echo@.service")
    assert one - several == {
        "Description=Echo, WebSockets on Trio",
        "Requires=echo.socket",
        "After=echo.socket nginx.service caddy.service haproxy.service",
        "SyslogIdentifier=echo",
    }
    assert several - one == {
        "Description=Echo, WebSockets on Trio: process %i",
        "Requires=echo.socket echo@%i.socket",
        "After=echo.socket echo@%i.socket nginx.service caddy.service haproxy.service",
        "SyslogIdentifier=echo@%i",
        "Sockets=echo.socket echo@%i.socket",
        "Environment=ECHO_NODE=%i",
    }


def test_the_socket_of_a_process_is_like_the_one_they_share() -> None:
    shared, own = directives("echo.socket"), directives("echo@.socket")
    ours = {"ListenStream=/run/echo-%i.sock", "StopWhenUnneeded=yes"}
    theirs = {"ListenStream=/run/echo.sock", "[Install]", "WantedBy=sockets.target"}
    assert {each for each in own - shared if not each.startswith("Description=")} == ours
    assert {each for each in shared - own if not each.startswith("Description=")} == theirs


def test_a_stop_and_a_restart_have_time_to_say_goodbye() -> None:
    (limit,) = re.findall(r"^TimeoutStopSec=(\d+)$", "\n".join(directives("echo.service")), re.M)
    assert int(limit) > Settings().shutdown_timeout + 5


# --- the files of settings ---


def default(name: str) -> str:
    value = getattr(Settings(), name)
    match value:
        case None:
            return "off"
        case bool():
            return "on" if value else "off"
        case tuple():
            return ",".join(value)
        case float():
            return f"{value:g}"
    return str(value)


def described() -> dict[str, tuple[str, str]]:
    """What echo.env says of each variable: what is allowed, and its default."""
    text = (DEPLOY / "echo.env").read_text()
    found = re.findall(r"^# Allowed: (.*)\n#(ECHO_\w+)=(.*)$", text, re.M)
    assert len(found) == len(re.findall(r"ECHO_\w+=", text))
    return {name: (allowed, value) for allowed, name, value in found}


def test_echo_env_has_every_setting_with_its_default_and_what_is_allowed() -> None:
    expected = {
        variable(each.name): (rule_of(each.name).allowed, default(each.name))
        for each in fields(Settings)
    }
    assert described() == expected


def test_echo_env_says_what_a_setting_means_as_the_settings_do() -> None:
    text = " ".join(re.sub(r"^# ?", "", (DEPLOY / "echo.env").read_text(), flags=re.M).split())
    (cls,) = [
        node
        for node in ast.parse(inspect.getsource(settings_module)).body
        if isinstance(node, ast.ClassDef) and node.name == "Settings"
    ]
    meanings = {
        field.target.id: docstring.value.value
        for field, docstring in zip(cls.body, cls.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(docstring, ast.Expr)
        and isinstance(docstring.value, ast.Constant)
        and isinstance(docstring.value.value, str)
    }
    assert meanings.keys() == {each.name for each in fields(Settings)}
    for name, docstring in meanings.items():
        meaning = " ".join(docstring.split()).partition(" Default ")[0].rstrip(".")
        assert meaning in text, name


def test_echo_env_changes_nothing_until_it_is_edited() -> None:
    lines = (DEPLOY / "echo.env").read_text().splitlines()
    assert not [line for line in lines if line and not line.startswith("#")]


def test_hypercorn_toml_serves_echo_and_hypercorn_alike() -> None:
    path = str(DEPLOY / "hypercorn.toml")
    theirs = Config.from_toml(path)
    assert (theirs.worker_class, theirs.workers, theirs.backlog) == ("trio", 0, 4096)
    assert theirs.websocket_ping_interval is None
    ours = make_config(Settings(), path)
    assert ours.backlog >= theirs.backlog
    assert ours.graceful_timeout == theirs.graceful_timeout == Settings().shutdown_timeout
    assert ours.keep_alive_timeout == theirs.keep_alive_timeout
    assert not ours.include_server_header


# --- as they run ---


def test_the_installed_service_runs_and_is_hardly_exposed(installed: Box) -> None:
    assert installed.state("echo.socket") == installed.state("echo.service") == "active"
    installed.run("systemd-analyze", "security", f"--threshold={MOST_EXPOSED}", *STARTED)
    installed.run("systemd-analyze", "verify", "--recursive-errors=no", "echo.socket", *STARTED)


def test_only_nginx_and_root_may_open_the_socket(installed: Box) -> None:
    told = installed.run("stat", "--format=%U:%G %a", "/run/echo.sock").stdout
    assert told == "root:www-data 660\n"
    assert " 4096 " in installed.run("ss", "-lxH", "src", "/run/echo.sock").stdout


def test_the_service_is_nobody_and_nothing_but_python_for_it(installed: Box) -> None:
    pid = installed.show("echo.service", "MainPID")
    status = installed.run("cat", f"/proc/{pid}/status").stdout
    assert re.search(r"^CapBnd:\s+0+$", status, re.M)
    assert not re.search(r"^Uid:\s+0\b", status, re.M)
    network = installed.run("nsenter", "--target", pid, "--net", "cat", "/proc/net/route").stdout
    assert len(network.splitlines()) == 1  # the heading


def test_a_switch_of_versions_changes_no_code_under_a_running_process(installed: Box) -> None:
    pid = installed.show("echo.service", "MainPID")
    seen = f"/proc/{pid}/root/opt/echo"
    assert installed.run("ls", seen).stdout.split() == ["current"]
    current = installed.run("readlink", "/opt/echo/current").stdout.strip()
    installed.run("ln", "-sfn", "versions/other", "/opt/echo/current")
    try:
        installed.run("test", "-x", f"{seen}/current/bin/python")
    finally:
        installed.run("ln", "-sfn", current, "/opt/echo/current")


def test_systemctl_status_tells_the_number_of_sockets(installed: Box) -> None:
    deadline = time.monotonic() + 20
    with crowd(installed, sockets=37):
        # The stream of dials adds one now and then; it is told every 2 s.
        while not re.search(r"\b3[789]$", installed.show("echo.service", "StatusText")):
            assert time.monotonic() < deadline, installed.show("echo.service", "StatusText")
            time.sleep(0.1)


def test_a_process_that_starts_does_not_make_the_socket_blocking_for_the_others(
    installed: Box,
) -> None:
    pid = installed.show("echo.service", "MainPID")
    # One that takes the socket and leaves it as it came.
    drop_in = installed.path("/run/systemd/system/echo@9.service.d/idle.conf")
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Service]\nType=exec\nExecStart=\nExecStart=/usr/bin/sleep 60\n")
    installed.run("systemctl", "daemon-reload")
    try:
        installed.run("systemctl", "start", "echo@9.service")
        told = installed.run("cat", f"/proc/{pid}/fdinfo/3").stdout
    finally:
        drop_in.unlink()
        installed.run("systemctl", "stop", "echo@9.service")
        installed.run("systemctl", "daemon-reload")
    (flags,) = re.findall(r"^flags:\s+(\d+)$", told, re.M)
    assert int(flags, 8) & os.O_NONBLOCK


WHO = """
import json, sys, trio
from http.client import HTTPConnection
from trio_websocket import open_websocket, wrap_client_stream

connection = HTTPConnection("127.0.0.1", 80, timeout=10, source_address=("127.0.0.7", 0))
claims = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "Host": "example.org"}
connection.request("GET", "/whoami", headers=claims)
print(connection.getresponse().read().decode().strip())

async def main():
    async with trio.open_nursery() as nursery:
        stream = await trio.open_tcp_stream("127.0.0.1", 80, local_address="127.0.0.8")
        socket = await wrap_client_stream(
            nursery, stream, "example.org", "/whoami",
            extra_headers=[(b"X-Forwarded-For", b"203.0.113.9")],
        )
        print(await socket.get_message())
        nursery.cancel_scope.cancel()

trio.run(main)
"""


def test_the_service_knows_the_address_of_the_client_and_no_claim_of_one(installed: Box) -> None:
    page, socket = installed.outside(sys.executable, "-c", WHO).stdout.splitlines()
    for told, client, scheme in ((page, "127.0.0.7", "http"), (socket, "127.0.0.8", "ws")):
        who = json.loads(told)
        assert (who["client"], who["scheme"], who["host"]) == (client, scheme, "example.org")
        assert who["forwarded"] is True
