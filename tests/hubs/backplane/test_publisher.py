"""Calling the clients of a hub from outside: from a script, from .NET, from any Redis client."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
import pytest

from echo.hubs import EncodingError, Hub, UsageError
from echo.hubs.backplane import BackplaneError, ScaleoutLifetime
from echo.hubs.backplane.publisher import HubPublisher
from echo.hubs.lifetime import All, Groups
from tests.hubs.backplane.engines import Ear, Engine, eager, needs_engine, running, until
from tests.hubs.backplane.farm import NAME, Farm, RedisEngine, open_farm, redis
from tests.hubs.memory import Client, serving
from tests.hubs.support import JSON, MESSAGEPACK
from tests.servers import ROOT, environment, free_port

pytestmark = needs_engine


def server(farm: Farm) -> Engine:
    assert isinstance(farm.engine, RedisEngine)
    return farm.engine.process


async def called(farm: Farm, clients: list[Client]) -> list[list[Any]]:
    """With what each client has been called."""
    await farm.settle()
    found: list[list[Any]] = []
    for client in clients:
        found.append([])
        while not client.idle:
            found[-1] += await client.called("Note")
    return found


async def test_it_reaches_whom_it_names_on_every_node() -> None:
    async with open_farm(redis, 2) as farm:
        ada1 = await farm.connect(JSON, "ada", node=0)
        ada2 = await farm.connect(MESSAGEPACK, "ada", node=1)
        bob = await farm.connect(JSON, "bob", node=0)
        nobody = await farm.connect(MESSAGEPACK, node=1)
        clients = [ada1, ada2, bob, nobody]
        for client in (ada1, bob):
            await farm.lifetimes[0].add_to_group(client.id, "g")
        await farm.lifetimes[0].add_to_group(nobody.id, "h")
        async with HubPublisher(server(farm).url, NAME) as hub:
            for number, (choice, expected, nodes) in enumerate(
                [
                    (hub.all, [1, 1, 1, 1], 2),
                    (hub.all_except([ada1.id, "none"]), [0, 1, 1, 1], 2),
                    (hub.client(bob.id), [0, 0, 1, 0], 1),
                    (hub.client("none"), [0, 0, 0, 0], 0),
                    (hub.clients([ada1.id, nobody.id]), [1, 0, 0, 1], 2),
                    (hub.group("g"), [1, 0, 1, 0], 1),
                    (hub.group_except("g", [bob.id]), [1, 0, 0, 0], 1),
                    (hub.groups(["g", "h", "none"]), [1, 0, 1, 1], 2),
                    (hub.user("ada"), [1, 1, 0, 0], 2),
                    (hub.users(["ada", "bob", "eve"]), [1, 1, 1, 0], 3),
                ]
            ):
                await choice.send("Note", number)
                assert hub.reached == nodes, number
                found = await called(farm, clients)
                assert found == [[number] * times for times in expected], number


async def test_a_hub_that_nobody_serves_is_told_by_the_number_of_nodes(
    shared_engine: Engine,
) -> None:
    async with HubPublisher(shared_engine.url, "no.Such") as hub:
        assert hub.reached is None
        await hub.all.send("Note", 1)
        assert hub.reached == 0


async def test_what_cannot_be_done_is_said(shared_engine: Engine) -> None:
    async with HubPublisher(shared_engine.url, NAME) as hub:
        with pytest.raises(EncodingError):
            await hub.all.send("Note", object())
        with pytest.raises(UsageError, match="sends, and nothing else"):
            await hub.client("id").invoke("Ask")
    with pytest.raises(ValueError, match="a backplane's URL begins with"):
        HubPublisher("localhost", NAME)
    port = free_port()
    with pytest.raises(BackplaneError, match=f"away: 127.0.0.1:{port}: Connection refused"):
        async with HubPublisher(f"redis://127.0.0.1:{port}", NAME):
            raise AssertionError("it was entered")


async def test_an_engine_that_goes_away_is_an_error_until_it_is_back(engine: Engine) -> None:
    async with HubPublisher(engine.url, NAME, eager()) as hub:
        await hub.all.send("Note", 1)
        engine.kill()
        with pytest.raises(BackplaneError):
            await hub.all.send("Note", 2)
        engine.start()
        await until(lambda: hub.connected)
        await hub.all.send("Note", 3)


async def test_the_apps_own_errors_come_out_as_they_are(shared_engine: Engine) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with HubPublisher(shared_engine.url, NAME):
            raise KeyError("mine")


SCRIPT = """
import sys
import trio
from echo.hubs.backplane.publisher import HubPublisher

async def main() -> None:
    async with HubPublisher(sys.argv[1], sys.argv[2]) as hub:
        for number in range(3):
            await hub.all.send("Note", number)
        print(hub.reached)

trio.run(main)
"""


def test_a_script_needs_only_trio_run(engine: Engine) -> None:
    command = [sys.executable, "-c", SCRIPT, engine.unix_url, NAME]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert (ended.stdout, ended.stderr) == ("0\n", "")


# The layout that .NET publishes, byte by byte. Any Redis client can send it.

JSON_FORM = b'{"type":1,"target":"Note","arguments":["caf\xc3\xa9",1]}\x1e'
MESSAGEPACK_FORM = b"\x12\x96\x01\x80\xc0\xa4Note\x92\xa5caf\xc3\xa9\x01\x90"


def dotnet(*excluded: str) -> bytes:
    """`[[excluded ids], {protocol: the message in its framing}]`, as .NET writes it."""
    ids = b"".join(b"\xd9" + bytes([len(each)]) + each.encode() for each in excluded)
    return b"".join(
        [
            *(b"\x92", bytes([0x90 + len(excluded)]), ids, b"\x82"),
            *(b"\xa4json", b"\xc4", bytes([len(JSON_FORM)]), JSON_FORM),
            *(b"\xabmessagepack", b"\xc4", bytes([len(MESSAGEPACK_FORM)]), MESSAGEPACK_FORM),
        ]
    )


async def test_what_a_plain_client_publishes_in_dotnets_layout_reaches_ours() -> None:
    async with open_farm(redis, 2) as farm:
        clients = await farm.four()
        await farm.lifetimes[0].add_to_group(clients[3].id, "g")
        for channel, data, expected in (
            (f"{NAME}:all", dotnet(), [1, 1, 1, 1]),
            (f"{NAME}:all", dotnet(clients[0].id, clients[3].id), [0, 1, 1, 0]),
            (f"{NAME}:group:g", dotnet(), [0, 0, 0, 1]),
            (f"{NAME}:user:ada", dotnet(), [1, 1, 0, 0]),
            (f"{NAME}:connection:{clients[2].id}", dotnet(), [0, 0, 1, 0]),
        ):
            server(farm).do("PUBLISH", channel, data)
            assert await called(farm, clients) == [["café", 1] * times for times in expected]


async def test_what_ours_publish_can_be_read_by_dotnets_layout(engine: Engine) -> None:
    async with running(engine.url) as listener, running(engine.url) as backplane:
        ear = Ear(listener)
        await ear.hear(f"{NAME}:all", f"{NAME}:group:g")
        lifetime = ScaleoutLifetime(backplane, NAME)
        async with serving(Hub, lifetime=lifetime):
            await lifetime.send(All(frozenset(["someone"])), "Note", ("café", 1))
            await lifetime.send(Groups(("g",)), "Note", ("café", 1))
            async with HubPublisher(engine.url, NAME) as hub:
                await hub.all.send("Note", "café", 1)
            await ear.until_heard(3)
    decoded = [(channel, msgspec.msgpack.decode(data)) for channel, data in ear.heard]
    forms = {"json": JSON_FORM, "messagepack": MESSAGEPACK_FORM}
    assert sorted(decoded[0][1][0]) == sorted([lifetime.node, "someone"])
    assert decoded == [
        (f"{NAME}:all", [decoded[0][1][0], forms]),
        (f"{NAME}:group:g", [[lifetime.node], forms]),
        (f"{NAME}:all", [[], forms]),
    ]
    assert ear.heard[2][1] == dotnet()
