"""pysignalr and signalrcore, the Python clients on PyPI: each in a process of its own."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from tests.hubs.clients import COMBINATIONS, Outcomes, host, python_cases, run_python
from tests.servers import Server

SETTINGS = {
    "pysignalr": ["json", "messagepack"],
    # Over long polling it has no client for bytes.
    "signalrcore": [f"{transport} {protocol}" for transport, protocol in COMBINATIONS[:-1]],
}

# What a client itself cannot do, whatever the server.
BEYOND = {
    # It begins the upload with a message that lacks a field.
    ("signalrcore", "WebSockets messagepack"): {"a_stream_goes_up"},
    # It polls without its headers.
    ("signalrcore", "LongPolling json"): {"a_token_names_the_user"},
}


def wanted(client: str, setting: str) -> list[str]:
    beyond = BEYOND.get((client, setting), set())
    return [case for case in python_cases(client) if case not in beyond]


MATRIX = [
    (client, setting, case)
    for client, settings in SETTINGS.items()
    for setting in settings
    for case in wanted(client, setting)
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with host() as server:
        yield server


@pytest.fixture(scope="module")
def outcomes(server: Server) -> Outcomes:
    def run(client: str, setting: str) -> dict[str, str | None]:
        return run_python(client, server.url, wanted(client, setting), *setting.split())

    return Outcomes(run)


@pytest.mark.parametrize(("client", "setting", "case"), MATRIX)
def test_client(outcomes: Outcomes, client: str, setting: str, case: str) -> None:
    if importlib.util.find_spec(client) is None:
        pytest.skip(f"{client} is not installed")
    outcomes.check(client, setting, case=case)
