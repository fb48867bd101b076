"""trio-websocket, echoing; it has no compression, and takes messages up to 1 MiB by default."""

# The linted environment need not hold the peers.
# mypy: disable-error-code="import-not-found"

import sys

import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket


async def echo(request: WebSocketRequest) -> None:
    websocket = await request.accept()
    try:
        while True:
            await websocket.send_message(await websocket.get_message())
    except ConnectionClosed:
        pass


if __name__ == "__main__":
    trio.run(serve_websocket, echo, "127.0.0.1", int(sys.argv[1]), None)
