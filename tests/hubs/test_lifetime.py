"""What `LocalLifetime` does beyond the contract, which is in `tests/hubs/backplane`: what it keeps,
and how often it encodes."""

from __future__ import annotations

import gc
import weakref

import pytest
from trio.testing import wait_all_tasks_blocked

from echo.hubs import Hub
from echo.hubs.lifetime import All, EncodedCall, LocalLifetime
from echo.hubs.messages import Invocation
from tests.hubs.memory import Person, serving
from tests.hubs.support import JSON, MESSAGEPACK, note_encodings


async def test_nothing_of_who_has_left_is_kept() -> None:
    lifetime = LocalLifetime()
    async with serving(Hub, lifetime=lifetime) as service:
        client = await service.connect(user=Person("ada"))
        await lifetime.add_to_group(client.id, "a")
        (connection,) = service.server.connections
        gone = weakref.ref(connection.link)
        del connection
        client.leave()
        await client.served.wait()
        del client
        await wait_all_tasks_blocked()
        gc.collect()
        assert gone() is None
        assert not lifetime.connections
        assert not lifetime._groups
        assert not lifetime._groups_of
        assert not lifetime._users


async def test_a_call_is_encoded_once_for_each_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = note_encodings(monkeypatch)
    lifetime = LocalLifetime()
    async with serving(Hub, lifetime=lifetime) as service:
        clients = [await service.connect(each) for each in (JSON, MESSAGEPACK, JSON, MESSAGEPACK)]
        encoded.clear()
        await lifetime.send(All(), "Hello", ("World", 1))
        assert sorted(encoded) == ["json", "messagepack"]
        for client in clients:
            assert await client.called("Hello") == ["World", 1]


async def test_what_is_encoded_elsewhere_is_not_encoded_again() -> None:
    lifetime = LocalLifetime()
    async with serving(Hub, lifetime=lifetime) as service:
        client = await service.connect()
        message = Invocation(target="not this", arguments=())
        form = JSON.encode(Invocation(target="but this", arguments=()))
        assert lifetime.deliver(All(), EncodedCall(message, {"json": form})) == 1
        assert await client.called("but this") == []
