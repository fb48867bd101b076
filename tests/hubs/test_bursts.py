"""Much that is sent at once, over real sockets: it goes out together, and harms nobody for it."""

from __future__ import annotations

import msgspec
import trio
from quart_trio import QuartTrio

from echo.hubs import Hub, map_hub
from tests.hubs.transports.serving import serve, until

HELLO = '{"protocol":"json","version":1}\x1e'


async def test_who_reads_is_not_cut_for_what_comes_at_once() -> None:
    app = QuartTrio(__name__)
    context = map_hub(app, "/hub", Hub)
    letter = "x" * 30_000
    count = 40  # together more than may wait for a client

    async def send_all() -> None:
        for number in range(count):
            await context.clients.all.send("Mail", number, letter)

    async with (
        serve(app) as site,
        site.client("/hub") as client,
        client.socket() as reading,
        client.socket() as other,
        trio.open_nursery() as nursery,
    ):
        for socket in (reading, other):
            await socket.send_message(HELLO)
            assert await socket.get_message() == "{}\x1e"
        await until(lambda: context.metrics.connections == 2)
        with trio.fail_after(20):
            nursery.start_soon(send_all)
            for socket in (reading, other):
                text = "".join([str(await socket.get_message()) for _ in range(count)])
                calls = [msgspec.json.decode(call) for call in text.split("\x1e")[:-1]]
                assert [call["arguments"] for call in calls] == [[n, letter] for n in range(count)]
