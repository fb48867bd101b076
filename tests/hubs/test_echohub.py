"""The service's own hub at `/hub`, called by Microsoft's client over every transport."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hubs.node import run_script
from tests.servers import Server, running

HERE = Path(__file__).parent
CASES = HERE / "echohub.js"
SETTINGS = (
    ("WebSockets", "json"),
    ("WebSockets", "messagepack"),
    ("ServerSentEvents", "json"),
    ("LongPolling", "json"),
)


@pytest.fixture(scope="module")
def service() -> Iterator[Server]:
    with running("-m", "hypercorn", "-k", "trio", "-b", "{bind}", "echo:app") as server:
        yield server


@pytest.mark.parametrize(("transport", "protocol"), SETTINGS)
def test_the_hub_does_what_it_says(service: Server, transport: str, protocol: str) -> None:
    setting = {"url": service.url, "transport": transport, "protocol": protocol, "atOnce": 4}
    wanted = {"files": [str(CASES)], "settings": [setting]}
    results: dict[str, Any]
    (results,) = json.loads(run_script(HERE / "clients" / "node.js", json.dumps(wanted)))

    assert len(results) == CASES.read_text().count("\ntest(")
    assert {name: error for name, error in results.items() if error} == {}


def test_the_hub_leaves_no_traceback_behind(service: Server) -> None:
    assert "Traceback" not in service.stderr
