"""The box leaves nothing behind on this machine, neither after its end nor after a killed test."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.deploy.box import ROOT, booted, why_not
from tests.deploy.box.keeper import PREFIX

# What changes on its own.
RESTLESS = (
    "fs/aio-nr",
    "fs/dentry-state",
    "fs/file-nr",
    "fs/inode-nr",
    "fs/inode-state",
    "kernel/ns_last_pid",
    "kernel/perf_event_max_sample_rate",
    "kernel/pty/nr",
    "kernel/random/",
    "net/netfilter/nf_conntrack_count",
)


@pytest.fixture(autouse=True)
def allowed() -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)


def kernel_settings() -> dict[str, bytes]:
    found = {}
    for folder, _, files in os.walk("/proc/sys"):
        for path in (Path(folder, each) for each in files):
            name = str(path.relative_to("/proc/sys"))
            if not name.startswith(RESTLESS):
                with suppress(OSError):  # some can only be written
                    found[name] = path.read_bytes()
    return found


def mounts() -> set[str]:
    return set(Path("/proc/self/mountinfo").read_text().splitlines())


def processes(namespace: str) -> list[str]:
    """The ids of processes in this PID namespace."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.readlink(each / "ns" / "pid") == namespace:
                found.append(each.name)
    return found


def wait_until(condition: Callable[[], bool], limit: float = 20) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_box_leaves_the_machine_as_it_was(tmp_path: Path) -> None:
    settings, mounted = kernel_settings(), mounts()
    with booted(tmp_path) as box:
        namespace = os.readlink(f"/proc/{box.pid}/ns/pid")
        assert len(processes(namespace)) > 1
        assert box.cgroup.exists()
        assert mounts() == mounted
        # It has what belongs to it, and can't have more.
        assert box.run("hostname").stdout == "box\n"
        box.run("sh", "-c", "echo here >/etc/marker")
        same = "cd /proc/sys/vm && read -r value <swappiness && echo $value >swappiness"
        assert box.run("sh", "-c", same, check=False).returncode != 0
        box.run("sh", "-c", "! touch /srv/echo/marker")
    assert not Path("/etc/marker").exists()
    assert processes(namespace) == []
    assert not box.cgroup.exists()
    assert mounts() == mounted
    assert kernel_settings() == settings


KILLED = """
import pathlib, sys, time
from tests.deploy.box import booted

with booted(pathlib.Path(sys.argv[1])) as box:
    print(box.pid, box.cgroup, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("whom", ["tests", "keeper"])
def test_a_killed_box_leaves_nothing_either(tmp_path: Path, whom: str) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid, cgroup = process.stdout.readline().split()
        inside = Path("/proc", pid.decode())
        assert inside.exists()
        if whom == "tests":
            process.kill()
        else:
            os.kill(int(Path(cgroup.decode()).name.removeprefix(PREFIX)), signal.SIGKILL)
        wait_until(lambda: not inside.exists())
        process.kill()
    left = Path(cgroup.decode())
    if whom == "tests":
        wait_until(lambda: not left.exists())
        return
    # Only a directory is left, and the next box removes it.
    with booted(tmp_path):
        assert not left.exists()
