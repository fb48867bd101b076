"""Starts the box and ends it: however the tests end, nothing of it outlives them.

A process of its own, whose standard input is a pipe from the tests: its end of file is their end,
also when they were killed. The box dies with its first process, and that with this one. Only the
empty cgroup needs a hand; one that a killed keeper left is removed by the next.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
PREFIX = "echo-box-"
NAMESPACES = ("--mount", "--propagation=private", "--pid", "--fork", "--net", "--uts", "--ipc")

_PR_SET_PDEATHSIG = 1


def hierarchy() -> Path | None:
    """Where the machine has mounted the cgroups of version 2."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, details = line.partition(" - ")
        if details.startswith("cgroup2 "):
            return Path(fields.split()[4])
    return None


def remove(cgroup: Path, limit: float = 10) -> None:
    """Remove `cgroup` and all below it; a process that was killed takes a moment to leave."""
    deadline = time.monotonic() + limit
    while cgroup.exists():
        for each in sorted(cgroup.rglob("*/"), reverse=True):
            with contextlib.suppress(OSError):
                each.rmdir()
        try:
            cgroup.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextlib.contextmanager
def own_cgroup() -> Iterator[Path]:
    root = hierarchy()
    assert root is not None
    for stale in root.glob(f"{PREFIX}*/"):
        if not _lives(stale.name.removeprefix(PREFIX)):
            remove(stale)
    cgroup = root / f"{PREFIX}{os.getpid()}"
    cgroup.mkdir()
    try:
        yield cgroup
    finally:
        remove(cgroup)


def _lives(pid: str) -> bool:
    try:
        return ") Z " not in Path("/proc", pid, "stat").read_text()
    except FileNotFoundError:
        return False


def _die_with_the_keeper() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def keep(project: str, share: str) -> None:
    """Boot, print the process id of the box's systemd, and end it all at the end of input."""
    with own_cgroup() as cgroup:
        boot = ["sh", str(HERE / "boot.sh"), project, share, str(cgroup)]
        with subprocess.Popen(
            ["unshare", *NAMESPACES, "--kill-child", *boot],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            preexec_fn=_die_with_the_keeper,
        ) as process:
            try:
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
                while process.poll() is None and not (found := children.read_text().split()):
                    time.sleep(0.01)
                if process.returncode is None:
                    first = int(found[0])
                    print(json.dumps({"pid": first, "cgroup": str(cgroup)}), flush=True)
                    sys.stdin.read()
                    # Not its parent, who shall see it off: an orphan would stay as a zombie.
                    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                        os.kill(first, signal.SIGKILL)
                        process.wait(10)
            finally:
                process.kill()


if __name__ == "__main__":
    for each in (signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)  # meant for the tests, whose end comes as an EOF
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    keep(*sys.argv[1:])
