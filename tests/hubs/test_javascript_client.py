"""Microsoft's JavaScript client under Node, over every transport and protocol."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from tests.hubs.clients import (
    COMBINATIONS,
    FILES,
    FOLDER,
    NUMBERS,
    Results,
    chat,
    check,
    check_resumed,
    host,
    matrix,
    node,
)
from tests.hubs.node import run_script
from tests.hubs.proxy import Proxy
from tests.servers import Server, free_port


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with host() as server:
        yield server


@pytest.fixture(scope="module")
def results(server: Server) -> dict[tuple[str, str], Results]:
    settings = [
        {"url": server.url, "transport": transport, "protocol": protocol, "atOnce": 4}
        for transport, protocol in COMBINATIONS
    ]
    wanted = {"files": [str(file) for file in FILES], "settings": settings}
    told = json.loads(run_script(FOLDER / "node.js", json.dumps(wanted)))
    return dict(zip(COMBINATIONS, told, strict=True))


@pytest.mark.parametrize(("transport", "protocol", "case"), matrix("node"))
def test_client(
    results: dict[tuple[str, str], Results], transport: str, protocol: str, case: str
) -> None:
    check(results[transport, protocol], case)


@pytest.mark.parametrize(("protocol", "tell_server"), [("json", True), ("messagepack", False)])
def test_a_cut_link_loses_and_doubles_nothing(
    server: Server, protocol: str, tell_server: bool
) -> None:
    with Proxy(server.port) as proxy:
        setting = {"url": f"http://127.0.0.1:{proxy.port}/statefulhub", "protocol": protocol}
        with (
            node("resume.js", **setting, count=NUMBERS) as process,
            proxy.cutting(tell_server=tell_server),
        ):
            assert process.stdout is not None
            seen = json.loads(process.stdout.readline())
        assert proxy.cuts >= 4
    check_resumed(seen)


def test_the_chat_outlives_its_server() -> None:
    """The README's app is restarted; its clients find back by themselves and talk on."""
    port = free_port()
    setting = {"method": "SendMessage", "event": "ReceiveMessage", "kinds": COMBINATIONS}
    url = f"http://127.0.0.1:{port}/chat"
    with chat(port) as server, node("reconnect.js", url=url, **setting) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "connected\n"
        code, seconds = server.end(signal.SIGTERM)
        assert code == 0
        assert seconds < 3, "clients that answer need no grace period"
        with chat(port):
            told = json.loads(process.stdout.readline())
    assert told == [{"lost": 1, "closed": 0, "newId": True}] * len(COMBINATIONS)
