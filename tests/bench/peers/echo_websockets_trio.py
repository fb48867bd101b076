"""websockets.trio, echoing without compression."""

# The linted environment need not hold the peers.
# mypy: disable-error-code="import-not-found"

import functools
import sys

import trio
from websockets.trio.server import ServerConnection, serve


async def echo(websocket: ServerConnection) -> None:
    async for message in websocket:
        await websocket.send(message)


if __name__ == "__main__":
    port = int(sys.argv[1])
    trio.run(functools.partial(serve, echo, port, host="127.0.0.1", compression=None))
