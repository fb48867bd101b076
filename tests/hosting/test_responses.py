"""The end of a response under Quart-Trio and Hypercorn: what comes after it comes."""

from __future__ import annotations

import hypercorn.trio
import pytest
import trio
from hypercorn.config import Config

from echo.application import create_app
from echo.settings import Settings

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
# Answered before its body has come.
POST = b"POST /ws HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab"


@pytest.mark.parametrize(("request_", "kept"), [(GET, True), (POST, False)])
async def test_a_connection_may_be_idle_after_a_response_as_long_as_the_option_says(
    request_: bytes, kept: bool
) -> None:
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    config.keep_alive_timeout = 0.5

    async def serve(task_status: trio.TaskStatus[list[str]]) -> None:
        app = create_app(Settings())
        await hypercorn.trio.serve(app, config, task_status=task_status)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            binds = await nursery.start(serve)
            port = int(binds[0].rpartition(":")[2])
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                for _ in range(2 if kept else 1):
                    await stream.send_all(request_)
                    answer = b""
                    while not answer.endswith((b"}\n", b"}", b".\n")):
                        answer += await stream.receive_some(4096)
                async for _ in stream:
                    pass  # until the server has closed it
            nursery.cancel_scope.cancel()
