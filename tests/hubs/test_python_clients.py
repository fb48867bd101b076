"""pysignalr and signalrcore, the Python clients on PyPI: each setting in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.hubs.clients import COMBINATIONS, FOLDER, SECONDS, Results, check, host, python_cases

# What a client itself cannot do, whatever the server.
BEYOND = {
    # It begins the upload with a message that lacks a field.
    ("signalrcore", "WebSockets messagepack"): {"a_stream_goes_up"},
    # It polls without its headers.
    ("signalrcore", "LongPolling json"): {"a_token_names_the_user"},
}

SETTINGS = [
    ("pysignalr", "json"),
    ("pysignalr", "messagepack"),
    # Over long polling it has no client for bytes.
    *(("signalrcore", f"{transport} {protocol}") for transport, protocol in COMBINATIONS[:-1]),
]

MATRIX = [
    (*setting, case)
    for setting in SETTINGS
    for case in python_cases(setting[0])
    if case not in BEYOND.get(setting, ())
]


@pytest.fixture(scope="module")
def results() -> Iterator[dict[tuple[str, str], Results]]:
    """What came of the cases; all settings run at the same time."""
    with host() as server, ExitStack() as stack:
        processes = {}
        for client, setting in SETTINGS:
            if importlib.util.find_spec(client) is not None:
                wanted = [case for *each, case in MATRIX if each == [client, setting]]
                script = str(FOLDER / f"with_{client}.py")
                process = subprocess.Popen(
                    [sys.executable, script, server.url, ",".join(wanted), *setting.split()],
                    stdout=subprocess.PIPE,
                    text=True,
                )
                processes[client, setting] = stack.enter_context(process)
                stack.callback(process.kill)
        yield {
            each: json.loads(process.communicate(timeout=SECONDS)[0] or "{}")
            for each, process in processes.items()
        }


@pytest.mark.parametrize(("client", "setting", "case"), MATRIX)
def test_client(
    results: dict[tuple[str, str], Results], client: str, setting: str, case: str
) -> None:
    if (client, setting) not in results:
        pytest.skip(f"{client} is not installed")
    check(results[client, setting], case)
