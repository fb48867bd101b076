"""Runs the scripts of deploy/ in the box, and sees what they changed there."""

import os
import re
import stat
from pathlib import Path

from tests.deploy.box import PROJECT, SHARE, Box

# What deploy/install is told in the box, which has no network.
OFFLINE = ("--offline", "--wheels", str(SHARE / "wheels"))


def deploy(box: Box, script: str, *arguments: str, check: bool = True) -> tuple[int, str]:
    """Run deploy/SCRIPT in the box; its exit code and all it printed."""
    command = f"exec {PROJECT}/deploy/{script} {' '.join(arguments)} 2>&1"
    ended = box.run("sh", "-c", command, limit=180, check=check)
    return ended.returncode, ended.stdout


# All that an installation could touch; not what programs write there on their own.
TREE = ("etc", "opt/echo", "usr/local", "var/lib", "var/www")
PRUNED = ("var/lib/nginx", "var/lib/systemd", "usr/local/lib")


def tree(box: Box) -> list[str]:
    """Every file with its mode, owner and content: the time of its last change, or its target."""
    root = box.path("/")
    pruned = {root / each for each in PRUNED}
    found = []
    for top in TREE:
        for folder, folders, files in os.walk(root / top):
            folders[:] = [each for each in folders if Path(folder, each) not in pruned]
            for each in [folder, *(str(Path(folder, name)) for name in files + folders)]:
                told = os.lstat(each)
                content = str(told.st_mtime_ns)
                if stat.S_ISLNK(told.st_mode):
                    content = os.readlink(each)
                elif stat.S_ISDIR(told.st_mode):
                    content = ""
                name = str(Path(each).relative_to(root))
                found.append(f"/{name} {told.st_mode:o} {told.st_uid}:{told.st_gid} {content}")
    return sorted(set(found))


def difference(before: list[str], after: list[str]) -> list[str]:
    return sorted(set(before) ^ set(after))


def commands(output: str) -> list[str]:
    """What was shown as done, but for the question to the doctor."""
    shown = re.findall(r"^    \$ (.*)$", output, re.M)
    return [each for each in shown if "-m echo doctor" not in each]
