"""Node's own socket.io behind the same configuration: the handshake is Node's, not the service's.

The packages come from npm once, into node_modules beside package.json.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.proxies.conftest import Kind
from tests.deploy.proxies.proxy import Proxy
from tests.missing import needs

pytestmark = [needs("node", "nodejs"), needs("npm")]

NODE = Path(__file__).parent / "node"


@pytest.fixture(scope="module")
def modules() -> None:
    wanted = json.loads((NODE / "package.json").read_text())["dependencies"]
    if wanted == {name: installed(name) for name in wanted}:
        return
    command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"]
    ended = subprocess.run(
        command, cwd=NODE, capture_output=True, text=True, timeout=120, check=False
    )
    if ended.returncode:
        shutil.rmtree(NODE / "node_modules", ignore_errors=True)
        pytest.skip(f"npm cannot install socket.io: npm install in {NODE}")


def installed(name: str) -> str | None:
    file = NODE / "node_modules" / name / "package.json"
    version: str | None = json.loads(file.read_text())["version"] if file.exists() else None
    return version


@pytest.fixture(scope="module")
def node_port(modules: None) -> Iterator[int]:
    """Where socket.io listens."""
    with subprocess.Popen(["node", NODE / "server.js"], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            yield int(server.stdout.readline())
        finally:
            server.kill()


@pytest.fixture(scope="module")
def proxy(kind: Kind, node_port: int) -> Iterator[Proxy]:
    # There is no service: whatever came to it would be a 502.
    with kind(kind.shipped(), sock="/nowhere/echo.sock", node_port=node_port) as proxy:
        yield proxy


def test_socketio_reaches_node_by_each_transport(proxy: Proxy) -> None:
    ended = subprocess.run(
        ["node", NODE / "client.js", proxy.url, "polling,websocket", "websocket", "polling"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert sorted(ended.stdout.splitlines()) == [
        "polling polling",
        "polling,websocket websocket",
        "websocket websocket",
    ], ended.stderr
