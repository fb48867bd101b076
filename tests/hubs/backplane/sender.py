"""A node of its own process that calls all clients with numbers: `sender.py URL HUB WHO`."""

from __future__ import annotations

import sys
from functools import partial
from itertools import count

import trio

from echo.hubs.backplane import ScaleoutLifetime
from echo.hubs.backplane.redis import RedisBackplane
from echo.hubs.lifetime import All


async def main(url: str, hub: str, who: str) -> None:
    backplane = RedisBackplane(url)
    lifetime = ScaleoutLifetime(backplane, hub)
    async with trio.open_nursery() as nursery:
        await nursery.start(backplane.run)
        for number in count():
            await lifetime.send(All(), "Number", (who, number))
            await trio.sleep(0.001)


if __name__ == "__main__":
    trio.run(partial(main, *sys.argv[1:]))
