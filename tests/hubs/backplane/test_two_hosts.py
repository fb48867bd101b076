"""Two hosts with the whole service each, and a cable between them that is pulled and put back.

The second host is a network namespace: its only way to the engine is the cable. Clients reach
both over unix sockets, for which namespaces are no limit.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from trio_websocket import WebSocketConnection, wrap_client_stream

from tests.hubs.backplane.engines import Engine, needs_engine, until
from tests.servers import ROOT, environment

HERE, THERE = "10.213.77.1", "10.213.77.2"


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


class Cable:
    """A pair of interfaces: one end here, the other in a namespace of its own."""

    def __init__(self) -> None:
        self.name = f"echo{os.getpid()}"
        self.there = ("ip", "netns", "exec", self.name)

    def __enter__(self) -> Cable:
        if os.geteuid() != 0 or shutil.which("ip") is None:
            pytest.skip("a second host needs root and ip (apt-get install iproute2)")
        name = self.name
        try:
            run("ip", "netns", "add", name)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "address", "add", f"{HERE}/30", "dev", name)
        run("ip", "-n", name, "address", "add", f"{THERE}/30", "dev", "eth0")
        run("ip", "-n", name, "link", "set", "eth0", "up")
        self.plug()
        return self

    def __exit__(self, *raised: object) -> None:
        subprocess.run(["ip", "link", "delete", self.name], capture_output=True)
        run("ip", "netns", "delete", self.name)

    def pull(self) -> None:
        run("ip", "link", "set", self.name, "down")

    def plug(self) -> None:
        run("ip", "link", "set", self.name, "up")


class Host:
    """The service on a unix socket, and a client that broadcasts and notes what it hears."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self.pid = 0  # of its first process
        self.sent = 0
        self.heard: dict[str, list[int]] = defaultdict(list)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        run("pkill", "-STOP", "-P", str(self.pid))
        try:
            yield
        finally:
            run("pkill", "-CONT", "-P", str(self.pid))

    @property
    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(self.path))
            return True
        return False

    async def ask(self, path: str) -> str:
        transport = httpx.AsyncHTTPTransport(uds=str(self.path))
        async with httpx.AsyncClient(transport=transport) as client:
            return (await client.get(f"http://host{path}")).text

    async def backplane(self) -> str:
        state: str = json.loads(await self.ask("/readyz"))["backplane"]
        return state

    async def becomes(self, connected: bool) -> None:
        with trio.fail_after(30):
            while (await self.backplane() == "connected") is not connected:  # noqa: ASYNC110
                await trio.sleep(0.05)

    async def lost(self) -> int:
        """What it has counted as not published."""
        families = text_string_to_metric_families(await self.ask("/metrics"))
        return sum(
            int(sample.value)
            for family in families
            for sample in family.samples
            if sample.name == "echo_backplane_lost_total"
        )

    @contextlib.asynccontextmanager
    async def client(self, nursery: trio.Nursery) -> AsyncIterator[None]:
        stream = await trio.open_unix_socket(str(self.path))
        async with await wrap_client_stream(nursery, stream, "host", "/hub") as client:
            await client.send_message('{"protocol":"json","version":1}\x1e')
            assert await client.get_message() == "{}\x1e"
            nursery.start_soon(self._listen, client)
            nursery.start_soon(self._talk, client)
            yield
            nursery.cancel_scope.cancel()

    async def _talk(self, client: WebSocketConnection) -> None:
        while True:
            self.sent += 1
            call = {"type": 1, "target": "Broadcast", "arguments": [f"{self.name} {self.sent}"]}
            await client.send_message(f"{json.dumps(call)}\x1e")
            await trio.sleep(0.01)

    async def _listen(self, client: WebSocketConnection) -> None:
        while True:
            for record in str(await client.get_message()).split("\x1e")[:-1]:
                message = json.loads(record)
                if message["type"] == 1:
                    name, _, number = message["arguments"][0].partition(" ")
                    self.heard[name].append(int(number))


@contextlib.contextmanager
def serving(host: Host, engine: str, *before: str) -> Iterator[None]:
    command = [*before, sys.executable, "-m", "hypercorn", "-k", "trio", "-b", f"unix:{host.path}"]
    env = environment({"ECHO_BACKPLANE": engine})
    with (
        (host.path.parent / f"{host.name}.log").open("wb") as log,
        subprocess.Popen([*command, "echo:app"], cwd=ROOT, env=env, stderr=log) as process,
    ):
        host.pid = process.pid
        try:
            deadline = time.monotonic() + 30
            while not host.answers and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            yield
        finally:
            subprocess.run(["pkill", "-KILL", "-P", str(process.pid)], check=False)
            process.kill()


async def more(hosts: Sequence[Host], of: Sequence[Host] = ()) -> None:
    """Wait until each has heard more of all, of what is sent from now on."""
    goals = {host.name: host.sent + 10 for host in of or hosts}
    await until(
        lambda: all(
            host.heard[name] and host.heard[name][-1] >= goal
            for host in hosts
            for name, goal in goals.items()
        )
    )


@needs_engine
async def test_two_hosts_are_one_hub_again_after_the_network_between_them_failed(
    tmp_path: Path,
) -> None:
    a, b = Host("a", tmp_path / "a.sock"), Host("b", tmp_path / "b.sock")
    reachable = ("--bind", "127.0.0.1", HERE, "--protected-mode", "no")
    with (
        Cable() as cable,
        Engine(tmp_path, *reachable) as engine,
        serving(a, engine.unix_url),
        serving(b, f"redis://{HERE}:{engine.port}", *cable.there),
    ):
        hosts = (a, b)
        for host in hosts:
            await host.becomes(connected=True)
        async with (
            trio.open_nursery() as nursery,
            a.client(nursery),
            b.client(nursery),
        ):
            await more(hosts)
            before = {host.name: host.sent for host in hosts}
            cable.pull()
            await b.becomes(connected=False)
            assert await a.backplane() == "connected"
            for host in hosts:  # its own client is served meanwhile
                await more([host])
            cable.plug()
            await b.becomes(connected=True)
            await more(hosts)
            after = {host.name: host.sent for host in hosts}
            with b.frozen():  # and then it has missed nothing
                await more([a], of=[a])
                await trio.sleep(0.5)
            await more(hosts)
            lost = await b.lost()

    for sender in hosts:
        assert sender.heard[sender.name] == list(range(1, sender.heard[sender.name][-1] + 1))
    for sender, receiver in ((a, b), (b, a)):
        heard = receiver.heard[sender.name]
        assert heard == sorted(set(heard))  # none twice, none out of order
        missing = set(range(heard[0], heard[-1])) - set(heard)
        # What was under way when the cable was pulled is older than `before` by a moment.
        assert missing <= set(range(before[sender.name] - 20, after[sender.name]))
        if sender is b:  # what it could not publish it has counted
            assert 0 < len(missing) <= lost
