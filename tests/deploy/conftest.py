"""The box that the tests share: one is booted for all of them, and what they need is built once."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.box import ROOT, Box, booted, why_not
from tests.deploy.scripts import OFFLINE, deploy, tree

SYSTEM_PYTHON = "/usr/bin/python3"


@pytest.fixture(scope="session")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A bare machine with nginx and Python, as `apt-get install` leaves them."""
    reason = why_not()
    if reason is None and shutil.which("nginx", path="/usr/sbin:/usr/bin") is None:
        reason = "nginx is missing: apt-get install nginx"
    if reason is None and not _has_venv():
        reason = f"{SYSTEM_PYTHON} has no venv: apt-get install python3-venv"
    if reason is not None:
        pytest.skip(reason)
    share = tmp_path_factory.mktemp("box")
    with booted(share) as box:
        yield box


def _has_venv() -> bool:
    command = [
        SYSTEM_PYTHON,
        "-c",
        "import sys, ensurepip, venv; assert sys.version_info >= (3, 11)",
    ]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture(scope="session")
def wheels(box: Box) -> Path:
    """A directory with wheels of the service and all it needs, for the Python of the box."""
    folder = box.share / "wheels"
    version = subprocess.run(
        [SYSTEM_PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    _pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    (ours,) = folder.glob("echo_trio-*.whl")
    only = ("--only-binary=:all:", "--python-version", version)
    _pip("download", *only, "--dest", str(folder), str(ours))
    return folder


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.fixture(scope="session")
def nothing(box: Box) -> list[str]:
    """The tree of the box before anything is installed."""
    return tree(box)


@pytest.fixture(scope="module")
def bare(box: Box, nothing: list[str], wheels: Path) -> tuple[Box, list[str]]:
    """The box with nothing installed, and its tree."""
    deploy(box, "uninstall", "--purge")
    return box, nothing


@pytest.fixture(scope="module")
def installed(box: Box, nothing: list[str], wheels: Path) -> Box:
    """The box with the service installed, in one process, on http and without a backplane."""
    deploy(box, "install", *OFFLINE, "--processes", "1", "--no-tls", "--no-backplane")
    return box
