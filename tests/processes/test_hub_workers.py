"""The service's hub in several processes that share a port, and Microsoft's client at it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from trio_websocket import WebSocketConnection, open_websocket_url

from tests.hubs.backplane.engines import Engine, needs_engine
from tests.hubs.clients import FOLDER
from tests.hubs.node import run_script
from tests.servers import Server, run_to_end, running

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


@needs_engine
def test_workers_are_one_hub_with_a_backplane(tmp_path: Path) -> None:
    with (
        Engine(tmp_path) as engine,
        running(
            *("-m", "echo", "--port", "{port}", "--workers", "3"),
            env={"ECHO_BACKPLANE": engine.unix_url},
        ) as server,
    ):
        seen = crowd(server.url, broadcasts=3)
        expected = {f"{sender}:{number}" for sender in range(CLIENTS) for number in range(3)}
        for heard in seen["heard"]:
            assert len(heard) == len(expected)
            assert set(heard) == expected
            for sender in range(CLIENTS):  # each in its order
                own = [text for text in heard if text.startswith(f"{sender}:")]
                assert own == sorted(own)
        assert seen["asked"] == [True] * CLIENTS
        assert "no backplane" not in server.stderr
        assert "Traceback" not in server.stderr


def test_several_workers_without_a_backplane_are_warned_of() -> None:
    with running("-m", "echo", "--port", "{port}", "--workers", "2") as server:
        assert "2 processes and no backplane" in server.stderr


@needs_engine
async def test_a_shell_reaches_the_clients_of_all_workers(tmp_path: Path) -> None:
    with Engine(tmp_path) as engine:
        backplane = {"ECHO_BACKPLANE": engine.unix_url}
        arguments = ("-m", "echo", "--port", "{port}", "--workers", "2")
        with running(*arguments, env=backplane) as server:
            with trio.fail_after(20):
                while "in 2 processes" not in server.stdout:  # noqa: ASYNC110
                    await trio.sleep(0.05)
            async with AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(listener(server)) for _ in range(6)]
                told = run_to_end("-m", "echo", "publish", "Message", "Grüße", env=backplane)
                assert (told.returncode, told.stdout) == (0, "Taken, for 2 nodes.\n")
                for client in clients:
                    assert await heard(client) == ["Grüße"]
        told = run_to_end("-m", "echo", "publish", "--json", "Message", "1", env=backplane)
        assert (told.returncode, told.stdout) == (0, '{"nodes": 0}\n')
    told = run_to_end("-m", "echo", "publish", "Message", "1", env=backplane)
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.startswith("The backplane is away: ")
    assert told.stderr.count("\n") == 1


@asynccontextmanager
async def listener(server: Server) -> AsyncIterator[WebSocketConnection]:
    async with open_websocket_url(f"ws://127.0.0.1:{server.port}/hub") as client:
        await client.send_message('{"protocol":"json","version":1}\x1e')
        assert await client.get_message() == "{}\x1e"
        yield client


async def heard(client: WebSocketConnection) -> Any:
    """The arguments of the next call that is no ping."""
    with trio.fail_after(10):
        while True:
            message = json.loads(str(await client.get_message()).rstrip("\x1e"))
            if message["type"] == 1:
                return message["arguments"]
