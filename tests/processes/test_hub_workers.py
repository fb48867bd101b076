"""The service's hub in several processes that share a port, and Microsoft's client at it."""

from __future__ import annotations

import json
from typing import Any

from tests.hubs.clients import FOLDER
from tests.hubs.node import run_script
from tests.servers import running

CLIENTS = 12


def crowd(url: str, **setting: Any) -> Any:
    """What a crowd of clients sees; see crowd.js."""
    setting = {"url": url, "clients": CLIENTS, **setting}
    return json.loads(run_script(FOLDER / "crowd.js", json.dumps(setting)))


def test_whoever_negotiates_with_one_worker_may_meet_another() -> None:
    with running("-m", "echo", "--port", "{port}", "--workers", "3") as server:
        seen = crowd(server.url)
        assert seen["echoes"] == [str(number) for number in range(CLIENTS)]
        assert len(set(seen["ids"])) == CLIENTS
        assert "Traceback" not in server.stderr
