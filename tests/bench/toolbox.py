"""Gets together what a run needs: environments with the peers, and the compiled drivers.

What is slow to get stays in a cache folder that git ignores; to start afresh, remove the folder.
What cannot be had is written down with its reason, never raised: it costs only those who need it.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .catalogue import (
    HUB_SOURCE,
    LOAD_SOURCE,
    PACKAGE_JSON,
    PYPROJECT,
    REQUIREMENTS,
    ROOT,
    Server,
)

CACHE = ROOT / ".bench"
LOGS = CACHE / "logs"


@dataclass(frozen=True, slots=True)
class Toolbox:
    python: Path
    node: str
    node_modules: Path
    load: Path  # the drivers
    hub: Path
    missing: dict[str, str]  # what a server may need, and why it is not there

    def why_not(self, server: Server) -> str | None:
        reasons = [self.missing[need] for need in sorted(server.needs & self.missing.keys())]
        return reasons[0] if reasons else None

    def versions(self) -> dict[str, str]:
        """The versions of everything measured, by distribution."""
        names = {_name(requirement) for requirement in _requirements()} | {"quart"}
        listing = _output(self.python, "-m", "pip", "list", "--format=json")
        found = {_name(item["name"]): str(item["version"]) for item in json.loads(listing or "[]")}
        versions = {name: found[name] for name in sorted(names) if name in found}
        if "node" not in self.missing:
            versions["node"] = _output(self.node, "--version").removeprefix("v")
            for name in _node_packages():
                package = json.loads((self.node_modules / name / "package.json").read_text())
                versions[name] = package["version"]
        return versions


class SetupError(Exception):
    """Without this nothing can be measured at all."""


def prepare(build: Path, servers: Iterable[Server]) -> Toolbox:
    """Install what is not installed yet, and compile the driver into the folder `build`."""
    needs = frozenset().union(*(server.needs for server in servers))
    CACHE.mkdir(exist_ok=True)
    LOGS.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n")
    load, hub = (_compile(build, source) for source in (LOAD_SOURCE, HUB_SOURCE))
    python, missing = _install_python(needs)
    node, node_modules = shutil.which("node") or "node", CACHE / "node" / "node_modules"
    if "node" in needs and (reason := _install_node(node_modules)):
        missing["node"] = reason
    return Toolbox(python, node, node_modules, load, hub, missing)


def _compile(build: Path, source: Path) -> Path:
    driver = build / source.stem
    try:
        command = ["cc", "-O2", "-o", str(driver), str(source)]
        subprocess.run(command, check=True, stdout=sys.stderr)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(f"the drivers need a C compiler named cc: {error}") from error
    return driver


_QUIET = ("--disable-pip-version-check", "--quiet")


def _requirements() -> list[str]:
    """The product's requirements and the peers', so that one environment holds them all."""
    project: list[str] = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    lines = (line.partition("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines())
    return [*project, *filter(None, lines)]


def _name(requirement: str) -> str:
    """The normalised name of the distribution: what `Server.needs` speaks of."""
    name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def _install_python(needs: frozenset[str]) -> tuple[Path, dict[str, str]]:
    wanted = _requirements()
    version = "{}.{}.{}".format(*sys.version_info)
    fingerprint = hashlib.sha256("\n".join([sys.executable, *wanted]).encode()).hexdigest()
    folder = CACHE / f"python-{version}-{fingerprint[:12]}"
    python, complete = folder / "bin" / "python", folder / "complete"
    if complete.exists():
        return python, {}
    _say(f"installing the peers into {folder.relative_to(ROOT)} …")
    if reason := _attempt(sys.executable, "-m", "venv", str(folder)):
        return python, dict.fromkeys(needs, reason)
    missing = {}
    if _attempt(python, "-m", "pip", "install", *_QUIET, *wanted):
        # One that cannot be built here must not take the others with it.
        for requirement in wanted:
            if reason := _attempt(python, "-m", "pip", "install", *_QUIET, requirement):
                missing[_name(requirement)] = f"pip install '{requirement}' failed: {reason}"
    if not missing:
        complete.touch()
    return python, missing


def _install_node(node_modules: Path) -> str | None:
    """Install what package.json names; the answer is the reason when it could not be done."""
    if not (shutil.which("node") and shutil.which("npm")):
        return "node and npm are not installed"
    if all((node_modules / name / "package.json").exists() for name in _node_packages()):
        return None
    folder = node_modules.parent
    _say(f"installing the Node.js peers into {folder.relative_to(ROOT)} …")
    folder.mkdir(exist_ok=True)
    shutil.copy(PACKAGE_JSON, folder)
    options = ("--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")
    reason = _attempt("npm", "install", *options, "--prefix", str(folder))
    return f"npm install failed: {reason}" if reason else None


def _node_packages() -> list[str]:
    return sorted(json.loads(PACKAGE_JSON.read_text())["dependencies"])


def _attempt(*command: str | Path) -> str | None:
    """Run the command; the answer is what it complained about when it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return last_line(done.stderr or done.stdout) if done.returncode else None


def _output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def last_line(text: str) -> str:
    lines: Sequence[str] = text.strip().splitlines() or ["no reason given"]
    return lines[-1].strip()[:200]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
