"""Microsoft's clients of the hub at a deployment, and with which process each of them is."""

import json
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.hubs.node import client_folder

SCRIPT = Path(__file__).parent / "proxies" / "node" / "hub.js"
TRANSPORTS = ("WebSockets", "ServerSentEvents", "LongPolling")

Tokens = dict[str, list[str]]
"""The ids of connections, by transport."""


class Clients:
    """Those of a `clients()`; what they can be asked for stands in hub.js."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, name: str, argument: object) -> Tokens:
        """Returns when it is done; fails if a connection was lost that should not."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({name: argument}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the clients have ended"
        told: Tokens = json.loads(line)
        return told


@contextmanager
def clients(url: str, enter: Sequence[str] = ()) -> Iterator[Clients]:
    """Clients of the hub at `url`, none yet.

    Args:
        url: of the site.
        enter: the beginning of a command that runs the rest of it in another network.
    """
    modules = client_folder() / "node_modules"
    command = [*enter, "node", str(SCRIPT), str(modules), f"{url}/hub"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        limit = threading.Timer(60, process.kill)  # ends who waits for its output, too
        limit.start()
        try:
            yield Clients(process)
        finally:
            limit.cancel()
            process.kill()


def homes(tokens: Tokens) -> dict[str, dict[str, int]]:
    """How many connections each process has, by transport."""
    every = [each.partition(".")[0] for several in tokens.values() for each in several]
    return {
        transport: {
            name: sum(each.startswith(f"{name}.") for each in several) for name in sorted({*every})
        }
        for transport, several in tokens.items()
    }
