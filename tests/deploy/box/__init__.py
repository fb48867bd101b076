"""A throw-away machine with a real systemd, made of this machine's own root: no image, no package.

What is written in it is written to memory; its network is a loopback of its own. Nothing of it
reaches this machine, and nothing outlives the tests (see boot.sh and keeper.py).

    with booted(share) as box:
        box.run("systemctl", "is-active", "nginx")
        box.outside(sys.executable, "client.py")    # a program of this machine in its network

It needs root, namespaces, overlayfs and a writable cgroup hierarchy: `why_not()` says what lacks.
"""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.box.keeper import NAMESPACES, hierarchy

ROOT = Path(__file__).parent.parent.parent.parent

# Where the project and the shared directory are inside.
PROJECT = Path("/srv/echo")
SHARE = Path("/srv/share")

_ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "SYSTEMD_PAGER": "cat",
}

_PROBE = """
mount -t tmpfs probe /mnt && mkdir /mnt/upper /mnt/work /mnt/root &&
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
"""


@functools.cache
def why_not() -> str | None:
    """The reason why no box can be had here, or None if it can."""
    if sys.platform != "linux":
        return "a box needs Linux"
    if os.geteuid() != 0:
        return "a box with a systemd of its own needs root"
    for program in ("unshare", "nsenter", "setpriv", "ip"):
        if shutil.which(program) is None:
            return f"a box needs {program}: apt-get install util-linux iproute2"
    if not Path("/lib/systemd/systemd").exists():
        return "a box needs systemd on this machine's disk: apt-get install systemd"
    cgroups = hierarchy()
    if cgroups is None or not os.access(cgroups, os.W_OK):
        return "a box needs a cgroup hierarchy of version 2 that is writable"
    command = ["unshare", *NAMESPACES, "--cgroup", "sh", "-c", _PROBE]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=30)
    except subprocess.SubprocessError:
        return "a box needs namespaces and overlayfs, which are not allowed here"
    return None


@dataclass
class Box:
    """A booted box."""

    pid: int
    """Its systemd's process id, as this machine counts."""

    cgroup: Path
    share: Path
    """A directory of this machine that is SHARE inside."""

    def _enter(self, *namespaces: str) -> list[str]:
        return ["nsenter", "--target", str(self.pid), *namespaces, "--"]

    def command(self, *command: str) -> list[str]:
        """What runs `command` inside."""
        spaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
        assignments = [f"{name}={value}" for name, value in _ENVIRONMENT.items()]
        return [*self._enter(*spaces), "env", "-i", *assignments, *command]

    def run(
        self, *command: str, limit: float = 60, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` inside to its end, at most `limit` seconds."""
        return _run(self.command(*command), limit, check)

    def outside(
        self, *command: str, limit: float = 60, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` on this machine's files, but in the network of the box."""
        return _run(self.outside_command(*command), limit, check)

    def outside_command(self, *command: str) -> list[str]:
        return [*self._enter("--net"), *command]

    def path(self, inside: str | Path) -> Path:
        """How this machine reaches a file of the box."""
        return Path(f"/proc/{self.pid}/root") / Path(inside).relative_to("/")

    def state(self, unit: str) -> str:
        return self.run("systemctl", "is-active", unit, check=False).stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "--property", name, unit).stdout.strip()

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", "--unit", unit).stdout


def _run(command: list[str], limit: float, check: bool) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
    if check and ended.returncode:
        told = f"{command} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}"
        raise AssertionError(told)
    return ended


@contextlib.contextmanager
def booted(share: Path, limit: float = 60) -> Iterator[Box]:
    """A box whose boot is over, within `limit` seconds; `share` is its SHARE."""
    console = share / "console"
    with (
        console.open("wb") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "tests.deploy.box.keeper", str(ROOT), str(share)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            # Ctrl+C in a terminal is for the tests.
            start_new_session=True,
        ) as keeper,
    ):
        assert keeper.stdin is not None and keeper.stdout is not None
        try:
            line = keeper.stdout.readline()
            assert line, f"the box did not start:\n{console.read_text()}"
            told = json.loads(line)
            box = Box(told["pid"], Path(told["cgroup"]), share)
            _wait_for_boot(box, limit, console)
            yield box
        finally:
            keeper.stdin.close()
            keeper.wait(30)


def _wait_for_boot(box: Box, limit: float, console: Path) -> None:
    deadline = time.monotonic() + limit
    while True:
        # Before it listens, systemctl has nobody to ask.
        asked = box.run("systemctl", "is-system-running", "--wait", limit=limit, check=False)
        if asked.stdout.strip() == "running":
            return
        failed = asked.stdout.strip() == "degraded"
        if failed or time.monotonic() > deadline or not Path(f"/proc/{box.pid}").exists():
            units = box.run("systemctl", "--failed", "--no-pager", check=False).stdout
            raise AssertionError(f"the box did not boot:\n{units}{console.read_text()}")
        time.sleep(0.02)
