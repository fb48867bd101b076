"""Node with Microsoft's own JavaScript client, installed once into a folder that Git ignores."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / ".node" / "signalr"
VERSION = "10.0.11"
PACKAGES = (f"@microsoft/signalr@{VERSION}", f"@microsoft/signalr-protocol-msgpack@{VERSION}")
SECONDS = 150  # for a slow registry, or a slow machine


def client_folder() -> Path:
    """The folder whose node_modules hold the client; skips the test if it cannot be had."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is missing: apt-get install nodejs npm")
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n")
    installed = FOLDER / f"installed-{VERSION}"
    with (FOLDER / "lock").open("w") as lock:  # two runs of the tests may share the folder
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.exists():
            _install()
            installed.touch()
    return FOLDER


def _install() -> None:
    options = ("--prefix", str(FOLDER), "--no-save", "--no-audit", "--no-fund", "--ignore-scripts")
    try:
        done = subprocess.run(
            ["npm", "install", *options, *PACKAGES],
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not install {PACKAGES[0]} within {SECONDS} s")
    if done.returncode:
        pytest.skip(f"npm cannot install {PACKAGES[0]}: is the registry within reach?")


def run_script(script: Path, text: str) -> str:
    """What the script writes when it reads this text, with the client to `require`."""
    folder = client_folder()
    done = subprocess.run(
        ["node", str(script), str(folder / "node_modules")],
        input=text,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
