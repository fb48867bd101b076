"""Hubs of apps on a backplane: it runs while the app is served, and makes them one."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import trio
from quart_trio import QuartTrio

from echo.hubs import Hub, HubContext, map_hub
from echo.hubs.backplane import Exchange, MemoryBackplane, ScaleoutLifetime
from echo.hubs.lifetime import LocalLifetime


class Chat(Hub):
    """A hub."""


class Other(Hub):
    """Another."""


def app_on(exchange: Exchange) -> tuple[QuartTrio, MemoryBackplane, HubContext]:
    app = QuartTrio(__name__)
    backplane = MemoryBackplane(exchange)
    context = map_hub(app, "/chat", Chat, backplane=backplane)
    map_hub(app, "/other", Other, backplane=backplane)
    map_hub(app, "/named", Chat, backplane=backplane, name="Named")
    return app, backplane, context


async def test_a_backplane_runs_once_while_its_app_is_served() -> None:
    exchange = Exchange()
    with trio.fail_after(20):
        app, backplane, _ = app_on(exchange)
        assert backplane.away == "not started"
        async with app.test_app():
            assert backplane.connected
            assert list(exchange.nodes) == [backplane]
        assert backplane.away == "ended"
        assert not exchange.nodes


async def test_hubs_are_called_as_their_classes_unless_told_otherwise() -> None:
    _, backplane, _ = app_on(Exchange())
    names = {each.removesuffix(":all") for each in backplane.channels if each.endswith(":all")}
    assert names == {f"{__name__}.Chat", f"{__name__}.Other", "Named"}


async def test_an_app_sends_to_the_others_until_it_has_ended() -> None:
    exchange = Exchange()
    heard: list[str] = []
    with trio.fail_after(20):
        async with AsyncExitStack() as stack:
            nursery = await stack.enter_async_context(trio.open_nursery())
            ear = MemoryBackplane(exchange)
            await nursery.start(ear.run)
            ear.subscribe([f"{__name__}.Chat:all"], lambda channel, data: heard.append(channel))
            await ear.subscribed([f"{__name__}.Chat:all"])
            app, _, context = app_on(exchange)

            @app.after_serving
            async def say_goodbye() -> None:
                await context.clients.all.send("Goodbye")
                await trio.testing.wait_all_tasks_blocked()

            async with app.test_app():
                await context.clients.all.send("Hello")
                await trio.testing.wait_all_tasks_blocked()
                assert len(heard) == 1
            assert len(heard) == 2
            nursery.cancel_scope.cancel()


def test_a_hub_has_a_lifetime_or_a_backplane_and_a_name_of_its_own() -> None:
    app = QuartTrio(__name__)
    backplane = MemoryBackplane(Exchange())
    with pytest.raises(ValueError, match="a lifetime or a backplane, not both"):
        map_hub(app, "/chat", Chat, lifetime=LocalLifetime(), backplane=backplane)
    map_hub(app, "/chat", Chat, backplane=backplane)
    with pytest.raises(ValueError, match="two hubs of one backplane"):
        map_hub(app, "/again", Chat, backplane=backplane)
    shared = ScaleoutLifetime(backplane, "Shared")
    map_hub(app, "/one", Chat, lifetime=shared)
