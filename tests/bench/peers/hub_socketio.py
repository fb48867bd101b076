"""The hub's methods in python-socketio, under uvicorn as its documentation has it."""

# The linted environment need not hold the peers.
# mypy: disable-error-code="import-not-found, misc, untyped-decorator"

import sys

import socketio
import uvicorn

server = socketio.AsyncServer(async_mode="asgi")


@server.event
async def echo(sid: str, text: str) -> str:
    return text


@server.event
async def broadcast(sid: str, text: str) -> None:
    await server.emit("message", text)


if __name__ == "__main__":
    uvicorn.run(
        socketio.ASGIApp(server),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        ws_per_message_deflate=False,
        access_log=False,
        log_level="critical",
    )
