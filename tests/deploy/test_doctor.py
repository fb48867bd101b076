"""The doctor before the real service behind the real nginx: well, and broken in many ways.

Each file of `broken/` is a configuration with one fault. Its first lines say what the doctor has to
find: the cause, all steps that are not well, and words of the advice. All of them are examined at
the same time, before the first test, for each examination waits a second for events. `@TLS@` is
the directory of the certificates below, `@FROZEN@` a socket where nobody answers.
"""

from __future__ import annotations

import datetime
import io
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trustme

from echo.doctor.causes import ALL
from echo.doctor.command import doctor, prepare
from echo.doctor.examination import STEPS, examine
from echo.doctor.report import Report
from echo.doctor.text import Printer
from tests.deploy.nginx import SHIPPED, Nginx
from tests.deploy.proxies.caddy import Caddy
from tests.deploy.proxies.haproxy import HAProxy
from tests.deploy.proxies.proxy import Proxy
from tests.deploy.proxies.service import Socket
from tests.missing import needs
from tests.servers import run_to_end, running

pytestmark = needs("nginx", "nginx-light")

BROKEN: Final = {each.stem: each for each in sorted((Path(__file__).parent / "broken").glob("*"))}
AT_ONCE: Final = 10


@dataclass
class Case:
    """A file of `broken/` and what its comments say."""

    text: str
    cause: str
    fails: list[str]
    says: str
    url: str = "http"
    arguments: str = ""


def case_of(path: Path) -> Case:
    text = path.read_text()
    said = dict(re.findall(r"^# (\w+): (.*)$", text, re.MULTILINE))
    return Case(text, said.pop("cause"), said.pop("fails").split(", "), said.pop("says"), **said)


# The parts


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of certificates, good and bad, as NAME.pem and NAME.key."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    names = ("localhost", "127.0.0.1")
    now = datetime.datetime.now(datetime.UTC)
    days = datetime.timedelta(days=1)
    issued = {
        "good": authority.issue_cert(*names),
        "expired": authority.issue_cert(
            *names, not_before=now - 90 * days, not_after=now - 2 * days
        ),
        "expires-soon": authority.issue_cert(*names, not_after=now + 10 * days),
        "other-name": authority.issue_cert("other.example", "www.other.example"),
        "no-chain": authority.create_child_ca().issue_cert(*names),
    }
    for name, certificate in issued.items():
        (folder / f"{name}.pem").write_bytes(certificate.cert_chain_pems[0].bytes())
        certificate.private_key_pem.write_to_path(str(folder / f"{name}.key"))
    alone = trustme.CA()
    alone.cert_pem.write_to_path(str(folder / "self-signed.pem"))
    alone.private_key_pem.write_to_path(str(folder / "self-signed.key"))
    return folder


@pytest.fixture(scope="module")
def sock() -> Iterator[Path]:
    """The socket of the service, which also trusts a proxy on this machine."""
    with Socket() as listening, listening.service({"ECHO_TRUSTED_PROXIES": "unix,127.0.0.1"}):
        yield listening.path


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A socket that takes connections and never answers."""
    path = tmp_path_factory.mktemp("frozen") / "sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(64)
        yield path


@dataclass
class Examined:
    """What the doctor said, to programs and to people."""

    report: Report
    human: str

    @property
    def json(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(json.dumps(self.report.as_dict()))
        return said

    @property
    def unwell(self) -> list[str]:
        """The names of the steps that warn or have failed."""
        states = {"warning", "failed"}
        return [each["name"] for each in self.json["steps"] if each["state"] in states]

    def step(self, name: str) -> dict[str, Any]:
        [found] = [each for each in self.json["steps"] if each["name"] == name]
        return dict(found)


async def examined(*arguments: str) -> Examined:
    """What `python -m echo doctor *arguments` finds and prints."""
    given = doctor.make_context("doctor", list(arguments)).params
    for name in ("as_json", "no_color"):
        given.pop(name)
    target, options = prepare(**given)
    out = io.StringIO()
    printer = Printer(out, colour=False, live=False)
    printer.begin(str(target))
    with trio.fail_after(50):
        report = await examine(target, options, printer.step, printer.finding)
    printer.end(report)
    return Examined(report, out.getvalue())


@asynccontextmanager
async def started(kind: type[Proxy], text: str, sock: Path) -> AsyncIterator[Proxy]:
    """A proxy beside other tasks; once more if meanwhile another has taken its port."""
    async with AsyncExitStack() as stack:
        for last in (False, False, True):
            proxy = kind(text, sock=sock)
            try:
                await trio.to_thread.run_sync(proxy.__enter__)
                break
            except AssertionError as error:
                if last or "Address already in use" not in str(error):
                    raise
        stack.push(proxy.__exit__)  # it waits for some ms
        yield proxy


@pytest.fixture(scope="module")
def examinations(
    sock: Path, frozen: Path, certificates: Path, request: pytest.FixtureRequest
) -> dict[str, Examined | Exception]:
    """Of each configuration that a selected test asks for."""
    names = [
        item.callspec.params["name"]
        for item in request.session.items
        if hasattr(item, "callspec") and item.callspec.params.get("name") in BROKEN
    ]
    results: dict[str, Examined | Exception] = {}
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def one(name: str, task_status: trio.TaskStatus[None]) -> None:
        case = case_of(BROKEN[name])
        text = case.text.replace("@TLS@", str(certificates)).replace("@FROZEN@", str(frozen))
        async with limiter:
            task_status.started()
            try:
                async with started(Nginx, text, sock=sock) as nginx:
                    url = nginx.tls_url if case.url == "https" else nginx.url
                    authority = str(certificates / "authority.pem")
                    results[name] = await examined(url, "--ca", authority, *case.arguments.split())
            except Exception as error:
                results[name] = error  # only the test of this one fails

    async def everything() -> None:
        async with trio.open_nursery() as nursery:
            # Those with arguments first: they take longest.
            for name in sorted(names, key=lambda name: not case_of(BROKEN[name]).arguments):
                await nursery.start(one, name)

    trio.run(everything)
    return results


# Broken


@pytest.mark.parametrize("name", BROKEN)
def test_the_doctor_names_the_fault(
    name: str, examinations: dict[str, Examined | Exception]
) -> None:
    case, found = case_of(BROKEN[name]), examinations[name]
    assert isinstance(found, Examined), found
    assert found.json["cause"] == case.cause, found.human
    assert found.unwell == sorted(case.fails, key=[step.name for step in STEPS].index), found.human
    assert case.says in found.human
    assert case.cause in found.human


def test_the_faults_have_causes_that_the_doctor_knows() -> None:
    causes = {case_of(path).cause for path in BROKEN.values()}
    assert causes <= ALL.keys()
    assert len(causes) >= 30


# Well


@pytest.fixture(scope="module")
def service() -> Iterator[Path]:
    """The socket of a service with all its defaults."""
    with Socket() as listening, listening.service():
        yield listening.path


def assert_well(found: Examined, *skipped: str) -> None:
    states = {each["name"]: each["state"] for each in found.json["steps"]}
    expected = {step.name: "skipped" if step.name in skipped else "ok" for step in STEPS}
    assert states == expected, found.human
    assert found.human.splitlines()[-2] == "All is well."
    assert found.json["cause"] is None


KINDS = [
    pytest.param(Nginx, "Echo, behind nginx", id="nginx"),
    pytest.param(Caddy, "Echo, behind Caddy", id="caddy", marks=needs("caddy")),
    pytest.param(HAProxy, "Echo, behind a proxy", id="haproxy", marks=needs("haproxy")),
]


@pytest.mark.parametrize(("kind", "seen"), KINDS)
async def test_what_is_shipped_is_well(kind: type[Proxy], seen: str, service: Path) -> None:
    with (
        kind(kind.shipped(), sock=service) as plain,
        kind(kind.shipped(tls=True), sock=service) as secure,
    ):
        found: dict[str, Examined] = {}

        async def ask(url: str, *arguments: str) -> None:
            found[url] = await examined(url, *arguments)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, plain.url)
            nursery.start_soon(ask, secure.tls_url, "--ca", str(secure.authority_file))
    assert_well(found[plain.url], "tls", "http2", "idle")
    assert_well(found[secure.tls_url], "idle")
    for each in found.values():
        assert each.step("server")["seen"] == seen
        assert "from this machine only" in each.step("health")["seen"]
    assert "certificate for localhost" in found[secure.tls_url].step("tls")["seen"]


async def test_the_service_itself_is_well_on_its_socket(service: Path) -> None:
    found = await examined(f"unix:{service}")
    assert_well(found, "address", "tls", "client", "scheme", "http2", "idle")


async def test_the_service_itself_is_well_on_a_port_with_tls(certificates: Path) -> None:
    files = (
        "--certfile",
        str(certificates / "good.pem"),
        "--keyfile",
        str(certificates / "good.key"),
    )
    command = ("-m", "hypercorn", "-k", "trio", "-b", "{bind}", *files, "echo:app")
    with running(*command, answers=False) as server:
        await listening(server.port)
        url = f"wss://localhost:{server.port}"
        results: dict[str, Examined] = {}

        async def ask(*arguments: str) -> None:
            results[arguments[0]] = await examined(url, *arguments)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "--ca", str(certificates / "authority.pem"))
            nursery.start_soon(ask, "--no-verify")
    found, blind = results["--ca"], results["--no-verify"]
    assert_well(found, "idle")
    assert_well(blind, "idle")
    assert "WebSockets over it" in found.step("http2")["seen"]
    assert "not looked at" in blind.step("tls")["seen"]


async def listening(port: int) -> None:
    with trio.fail_after(20):
        while True:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                await trio.sleep(0.05)
            else:
                await stream.aclose()
                return


def outward_address() -> str | None:
    """An address of this machine that is not loopback; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address: str = probe.getsockname()[0]
        return address


async def test_health_that_others_can_ask_has_failed_and_not_only_warned(sock: Path) -> None:
    address = outward_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    text = BROKEN["health-public"].read_text().replace("127.0.0.1:@PORT@", f"{address}:@PORT@")
    with Nginx(text, sock=sock) as nginx:
        found = await examined(f"http://{address}:{nginx.http_port}")
    assert (found.json["cause"], found.step("health")["state"]) == ("health-public", "failed")
    assert found.step("client")["seen"].startswith(f"the service sees {address}")


# The command


def test_the_command_says_it_to_people_and_to_programs(service: Path) -> None:
    with Nginx(SHIPPED, sock=service) as nginx:
        ended = run_to_end("-m", "echo", "doctor", nginx.url)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert ended.stdout.splitlines()[-2] == "All is well."
        assert ended.stderr == ""
    with Nginx(BROKEN["upgrade-lost"], sock=service) as nginx:
        ended = run_to_end("-m", "echo", "doctor", "--json", nginx.url)
    assert ended.returncode == 1, ended.stderr
    said = json.loads(ended.stdout)
    assert (said["version"], said["ok"], said["cause"]) == (1, False, "upgrade-lost")
    assert said["summary"].startswith("Begin with handshake: The proxy drops the Upgrade header")
