"""Other people's clients against the test host: which cases there are, and how they are run."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tests.hubs.node import client_folder
from tests.servers import Server, running

FOLDER = Path(__file__).parent
FILES = [FOLDER / f"{name}.js" for name in ("calls", "streams", "people", "connection", "raw")]

COMBINATIONS = (
    ("WebSockets", "json"),
    ("WebSockets", "messagepack"),
    ("ServerSentEvents", "json"),
    ("LongPolling", "json"),
    ("LongPolling", "messagepack"),
)
"""Transport and protocol; server-sent events carry no bytes."""

NUMBERS = 150
"""How many go each way in a test of stateful reconnect, in a second or more."""

SECONDS = 150  # that a client's process may take


@dataclass(frozen=True)
class Case:
    """A case as its declaration states it: `test("name", {options}, ...`."""

    name: str
    options: dict[str, Any]

    def applies(self, transport: str, protocol: str, place: str) -> bool:
        return (
            transport in self.options.get("over", [transport])
            and transport not in self.options.get("not", [])
            and self.options.get("protocol", protocol) == protocol
            and self.options.get("place", place) == place
        )


def cases() -> list[Case]:
    """All cases of the JavaScript client."""
    declaration = re.compile(r'^test\("(?P<name>[^"]+)", (?:(?P<options>\{.*?\}), )?async', re.M)
    return [
        Case(found["name"], json.loads(re.sub(r"(\w+):", r'"\1":', found["options"] or "{}")))
        for file in FILES
        for found in declaration.finditer(file.read_text())
    ]


CASES = cases()


Results: TypeAlias = dict[str, str | None]
"""Of each case None, or what went wrong."""


def check(results: Results, case: str) -> None:
    failure = results.get(case, "it was not run")
    assert failure is None, failure


def matrix(place: str) -> list[tuple[str, str, str]]:
    """Transport, protocol and name of every case that applies at this place."""
    return [
        (transport, protocol, case.name)
        for transport, protocol in COMBINATIONS
        for case in CASES
        if case.applies(transport, protocol, place)
    ]


def check_resumed(seen: dict[str, Any]) -> None:
    """Nothing of what resume.js tells was lost or doubled, and it was one connection."""
    numbers = list(range(NUMBERS))
    assert (seen["lost"], seen["closed"], seen["sameId"]) == (0, "", True)
    assert seen["received"] == numbers
    assert seen["streamed"] == numbers
    assert seen["notes"] == numbers
    assert seen["answers"] == numbers[::10]
    assert seen["sum"] == sum(numbers)


def python_cases(client: str) -> list[str]:
    """The cases of a Python client: the functions of its script that are marked as such."""
    module = ast.parse((FOLDER / f"with_{client}.py").read_text())
    return [
        each.name
        for each in module.body
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
        and any(isinstance(mark, ast.Name) and mark.id == "case" for mark in each.decorator_list)
    ]


@contextlib.contextmanager
def host(*options: str) -> Iterator[Server]:
    """The test host, which must end well too."""
    with running("tests/hubs/host.py", "--port", "{port}", *options) as server:
        yield server
        assert server.end()[0] == 0, server.stderr


@contextlib.contextmanager
def chat(port: int) -> Iterator[Server]:
    """The README's chat at this port, until it is ended."""
    command = ("-m", "hypercorn", "-k", "trio", "-b", f"127.0.0.1:{port}", "tests.hubs.chat:app")
    with running(*command, answers=False) as started:
        server = dataclasses.replace(started, port=port)
        server.wait_until_it_answers()
        yield server


@contextlib.contextmanager
def node(script: str, **setting: Any) -> Iterator[subprocess.Popen[str]]:
    """A script of ours under Node, with the client to `require` and its setting as arguments."""
    modules = str(client_folder() / "node_modules")
    command = ["node", str(FOLDER / script), modules, json.dumps(setting)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        limit = threading.Timer(SECONDS, process.kill)  # ends who waits for its output, too
        limit.start()
        try:
            yield process
        finally:
            limit.cancel()
            process.kill()
