"""The command `doctor` as a person and a program call it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from echo.doctor.command import doctor
from tests.servers import environment, free_port

NOBODY = "http://127.0.0.1:{port}"


def run(*arguments: str) -> Any:
    return CliRunner().invoke(doctor, arguments)


def nobody() -> str:
    return NOBODY.format(port=free_port())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "Missing argument 'URL'"),
        (["ftp://example.org"], "ftp:// is not http, https, ws or wss"),
        (["http://example.org", "--path", "ws"], "does not begin with /"),
        (["http://example.org", "--origin", "a\nb"], "is no origin"),
        (["http://example.org", "--idle", "-1"], "--idle"),
        (["http://example.org", "--timeout", "0"], "--timeout"),
        (["http://example.org", "--ca", "/nowhere"], "does not exist"),
        (["http://example.org", "--ca", __file__], "holds no certificate in PEM"),
        (["http://example.org", "--ca", __file__, "--no-verify"], "exclude each other"),
    ],
)
def test_a_wrong_command_is_told_so_with_code_2(arguments: list[str], complaint: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert complaint in result.output
    assert "Traceback" not in result.output


def test_a_failure_is_code_1_and_names_the_cause() -> None:
    result = run(nobody())
    assert result.exit_code == 1
    assert "connection-refused" in result.output
    assert result.output.splitlines()[-2] == "Begin with tcp: Nothing listens on this port."
    assert "\x1b" not in result.output


def test_json_is_one_object() -> None:
    result = run(nobody(), "--json")
    assert result.exit_code == 1
    said = json.loads(result.output)
    assert (said["version"], said["ok"], said["cause"]) == (1, False, "connection-refused")
    assert [each["name"] for each in said["steps"]][:3] == ["address", "tcp", "tls"]


def test_the_help_names_every_option() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for option in ("--json", "--idle", "--path", "--origin", "--ca", "--no-verify", "--timeout",
                   "--deadline", "--no-color"):  # fmt: skip
        assert option in result.output


CODE = "from echo.doctor.command import doctor; doctor()"


ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def written() -> dict[str, str]:
    """What three calls write to a terminal of 80 columns; they run at the same time."""
    pty = pytest.importorskip("pty")
    calls = {"plain": ([], {}), "option": (["--no-color"], {}), "variable": ([], {"NO_COLOR": "1"})}
    with contextlib.ExitStack() as stack:
        running = {}
        for name, (arguments, changes) in calls.items():
            ours, theirs = pty.openpty()
            stack.callback(os.close, ours)
            env = environment({"TERM": "xterm", "COLUMNS": "80", "PYTHONUTF8": "1", **changes})
            process = subprocess.Popen(
                [sys.executable, "-c", CODE, nobody(), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                cwd=ROOT,
                env={key: value for key, value in env.items() if key != "NO_COLOR" or changes},
            )
            os.close(theirs)
            running[name] = (stack.enter_context(process), ours)
        return {name: read(*call) for name, call in running.items()}


def read(process: subprocess.Popen[bytes], terminal: int) -> str:
    written = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while data := os.read(terminal, 65536):
            written += data
    assert process.wait(20) == 1
    return written.decode()


def test_a_terminal_shows_colours_and_the_step_that_runs(written: dict[str, str]) -> None:
    assert "\x1b[31m" in written["plain"]
    assert "\r\x1b[K" in written["plain"]
    assert "… tcp" in written["plain"].replace("\x1b[36m", "").replace("\x1b[0m", "")


@pytest.mark.parametrize("how", ["option", "variable"])
def test_colours_can_be_switched_off(how: str, written: dict[str, str]) -> None:
    assert "connection-refused" in written[how]
    assert "\x1b[3" not in written[how]
    assert "\x1b[1m" not in written[how]
