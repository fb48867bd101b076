"""deploy/install and deploy/upgrade on a bare box with a booted systemd, without a network.

The tests go on from one another, from nothing to an installation; test_uninstall.py leads back.
"""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import trustme

from tests.deploy.box import ROOT, SHARE, Box
from tests.deploy.crowd import crowd
from tests.deploy.scripts import OFFLINE, commands, deploy, difference, tree
from tests.missing import needs


@needs("shellcheck")
def test_the_scripts_have_no_fault() -> None:
    scripts = ["start", "install", "upgrade", "restart", "uninstall"]
    paths = [*(f"deploy/{each}" for each in scripts), "tests/deploy/box/boot.sh"]
    command = ["shellcheck", "--external-sources", *paths]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "")


def version(box: Box) -> str:
    return box.run("readlink", "/opt/echo/current").stdout.strip().removeprefix("versions/")


Bare = tuple[Box, list[str]]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--processes 0", "--processes is a number from 1 to 64, not 0"),
        ("--processes", "--processes needs a value; see "),
        ("--speed high", "There is no option --speed; see "),
        ("--offline", "--offline needs the packages: --wheels DIR"),
        ("--wheels /nowhere", "--wheels /nowhere is no directory"),
        ("--wheels /srv/echo", "/srv/echo must hold one wheel of echo-trio"),
        ("--wheel /nowhere.whl", "There is no /nowhere.whl"),
        ("--tls /etc/ssl", "There is no /etc/ssl/fullchain.pem"),
        ("--server-name 'a;b'", "--server-name is one host name, not a;b"),
        ("--name ../x", "--name is of letters, digits and .-_+, not ../x"),
        ("--python /root/python3", "There is no /root/python3"),
    ],
)
def test_what_it_cannot_do_is_one_line_and_changes_nothing(
    bare: Bare, arguments: str, line: str
) -> None:
    box, before = bare
    code, output = deploy(box, "install", arguments, check=False)
    assert code == 1
    assert output.splitlines()[-1].startswith(line)
    assert not commands(output)
    assert tree(box) == before


@pytest.mark.parametrize(
    ("prepare", "command", "line"),
    [
        pytest.param("true", "setpriv --reuid=33 {}", "This changes the system", id="not root"),
        pytest.param("true", "env PATH=/usr/bin:/bin {}", "Missing, and --offline", id="no nginx"),
        pytest.param(
            "mkdir /opt/echo", "{}", "/opt/echo is there and not", id="another's /opt/echo"
        ),
        pytest.param(
            "touch /etc/nginx/sites-enabled/shop", "{}", "nginx has other", id="other sites"
        ),
        pytest.param(
            "cp /usr/bin/python3 /root/python3",
            "{} --python /root/python3",
            "The service could not run /root/python3",
            id="python out of reach",
        ),
        pytest.param(
            "systemctl stop nginx; systemd-run --quiet --unit=squatter python3 -m http.server 80; "
            "until ss -Hltn 'sport = :80' | grep -q .; do sleep 0.05; done",
            "{}",
            "Port 80 is taken by python3",
            id="port taken",
        ),
    ],
)
def test_a_machine_that_will_not_do_is_left_as_it_is(
    bare: Bare, prepare: str, command: str, line: str
) -> None:
    box, before = bare
    install = f"/srv/echo/deploy/install {' '.join(OFFLINE)}"
    try:
        box.run("sh", "-c", prepare)
        ended = box.run("sh", "-c", command.format(install), check=False)
    finally:
        box.run("systemctl", "stop", "squatter", check=False)
        box.run("systemctl", "start", "nginx")
        box.run("rm", "-rf", "/opt/echo", "/etc/nginx/sites-enabled/shop", "/root/python3")
    assert ended.returncode == 1
    assert ended.stderr.startswith(line)
    assert ended.stderr.count("\n") == 1
    assert not commands(ended.stdout)
    assert tree(box) == before


def test_a_dry_run_tells_every_step_and_changes_nothing(bare: Bare) -> None:
    box, before = bare
    _, output = deploy(box, "install", *OFFLINE, "--dry-run", "--processes", "2")
    assert "Step 8 of 8" in output
    assert "systemctl restart echo@2.service" in output
    assert tree(box) == before


def test_one_command_leads_from_nothing_to_all_green(bare: Bare) -> None:
    box, _ = bare
    code, output = deploy(box, "install", *OFFLINE)
    assert code == 0
    assert re.findall(r"^Step (\d) of 8", output, re.M) == list("12345678")
    assert "All is well." in output
    assert "\033" not in output  # colours are for terminals
    last = output.splitlines()[-1]
    assert last == f"Echo {version(box)} serves http://localhost in 1 process(es)."
    for unit in ("echo.socket", "echo.service", "nginx"):
        assert box.run("systemctl", "is-enabled", unit).stdout == "enabled\n"


def test_a_second_run_changes_nothing(bare: Bare) -> None:
    box, _ = bare
    before = tree(box), box.show("echo", "MainPID"), box.journal("nginx")
    code, output = deploy(box, "install", *OFFLINE)
    assert code == 0
    assert commands(output) == []
    assert (tree(box), box.show("echo", "MainPID"), box.journal("nginx")) == before


def test_an_interrupted_run_is_completed_by_the_next(bare: Bare) -> None:
    box, _ = bare
    box.run("cp", "-r", "/srv/echo/deploy", str(SHARE))
    unit, steps = box.share / "deploy" / "systemd" / "echo.service", box.share / "deploy/setup.sh"
    unit.write_text(unit.read_text() + "# newer\n")
    text = steps.read_text()
    # The unit is written, and nobody has been told yet.
    here = "start_the_service() {\n"
    steps.write_text(text.replace(here, here + "    kill -TERM $$\n"))
    install = f"{SHARE}/deploy/install {' '.join(OFFLINE)}"
    assert box.run("sh", "-c", install, check=False).returncode == 143
    steps.write_text(text)
    done = commands(box.run("sh", "-c", install).stdout)
    assert {"systemctl daemon-reload", "systemctl restart echo.service"} <= set(done)
    deploy(box, "install", *OFFLINE)


def test_settings_of_the_operator_stay(bare: Bare) -> None:
    box, _ = bare
    settings = box.path("/etc/echo/echo.env")
    shipped = settings.read_text()
    settings.write_text(shipped + "ECHO_LOG_LEVEL=debug\n")
    unit = box.path("/etc/systemd/system/echo.socket")
    unit.write_text(unit.read_text() + "# mine\n")
    _, output = deploy(box, "install", *OFFLINE)
    assert settings.read_text() == shipped + "ECHO_LOG_LEVEL=debug\n"
    assert unit.read_text().endswith("# mine\n")
    assert output.count("has changes of yours and stays") == 2
    settings.write_text(shipped)
    unit.write_text(unit.read_text().removesuffix("# mine\n"))


def test_an_upgrade_refuses_nobody_and_leads_back_as_well(bare: Bare) -> None:
    box, _ = bare
    first = version(box)
    # As if it had been made before: that takes its time, and the first installation has shown it.
    box.run("cp", "-a", f"/opt/echo/versions/{first}", "/opt/echo/versions/second")
    with crowd(box, sockets=20) as clients:
        deploy(box, "upgrade", *OFFLINE, "--name", "second")
    assert version(box) == "second"
    assert clients.report.closes == {"1012": 20}
    assert clients.report.refused() == {}
    deploy(box, "upgrade", "--back")
    assert version(box) == first
    assert box.state("echo") == "active"
    assert set(box.run("ls", "/opt/echo/versions").stdout.split()) == {first, "second"}


def broken(wheel: Path, folder: Path) -> Path:
    """The wheel, but its application can't be imported."""
    folder.mkdir()
    copy = folder / wheel.name
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(copy, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "echo/application.py":
                content = b"raise RuntimeError('broken on purpose')\n"
            target.writestr(name, content)
    return copy


def test_a_version_that_does_not_get_ready_is_taken_back(bare: Bare, wheels: Path) -> None:
    box, _ = bare
    good = version(box)
    (wheel,) = wheels.glob("echo_trio-*.whl")
    bad = broken(wheel, box.share / "broken")
    inside = str(SHARE / "broken" / bad.name)
    with crowd(box, sockets=20, pause=0.2) as clients:
        code, output = deploy(box, "upgrade", *OFFLINE, "--wheel", inside, check=False)
    assert code == 1
    assert "RuntimeError: broken on purpose" in output
    last = output.splitlines()[-1]
    assert re.fullmatch(rf"Version \S+ did not get ready; version {good} serves again\.", last)
    assert version(box) == good
    assert box.state("echo") == "active"
    assert clients.report.closes == {"1012": 20}
    assert clients.report.refused() == {}


@pytest.fixture(scope="module")
def certificates(box: Box) -> Path:
    """Directories of certificates in SHARE: "good", and "mixed" with another's key."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(box.share / "authority.pem"))
    one, other = authority.issue_cert("localhost"), authority.issue_cert("localhost")
    for name, key in (("good", one.private_key_pem), ("mixed", other.private_key_pem)):
        (box.share / name).mkdir()
        key.write_to_path(str(box.share / name / "privkey.pem"))
        chain = b"".join(each.bytes() for each in one.cert_chain_pems)
        (box.share / name / "fullchain.pem").write_bytes(chain)
    return box.share


def test_a_configuration_that_nginx_refuses_is_taken_back(bare: Bare, certificates: Path) -> None:
    box, _ = bare
    before = tree(box)
    mixed = f"--server-name localhost --tls {SHARE}/mixed"
    code, output = deploy(box, "install", *OFFLINE, mixed, check=False)
    assert code == 1
    assert "key values mismatch" in output
    assert output.splitlines()[-1].startswith("nginx does not take this configuration")
    left = [each.split()[0] for each in difference(before, tree(box))]
    assert set(left) <= {"/etc/echo/tls", "/opt/echo/files"}
    assert box.run("nginx", "-t", "-q").returncode == 0


WHO = """
import json, ssl, sys, trio
from http.client import HTTPSConnection
from trio_websocket import open_websocket_url

trust = ssl.create_default_context(cafile=sys.argv[1])
connection = HTTPSConnection("localhost", context=trust, timeout=10)
connection.request("GET", "/whoami")
print(json.loads(connection.getresponse().read())["scheme"])

async def main():
    async with open_websocket_url("wss://localhost/whoami", trust) as socket:
        print(json.loads(await socket.get_message())["scheme"])

trio.run(main)
"""


def test_with_a_certificate_it_serves_https_and_wss(bare: Bare, certificates: Path) -> None:
    box, _ = bare
    good = f"--server-name localhost --tls {SHARE}/good"
    trust = f"SSL_CERT_FILE={SHARE}/authority.pem"
    install = f"{trust} /srv/echo/deploy/install {' '.join(OFFLINE)} {good} 2>&1"
    pid = box.show("echo", "MainPID")
    output = box.run("sh", "-c", install).stdout
    assert "serves https://localhost in 1 process(es)." in output
    assert box.show("echo", "MainPID") == pid
    authority = str(certificates / "authority.pem")
    schemes = box.outside(sys.executable, "-c", WHO, authority).stdout.split()
    assert schemes == ["https", "wss"]
