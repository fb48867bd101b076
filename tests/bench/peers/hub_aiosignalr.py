"""The hub's methods in aiosignalr, under uvicorn as its documentation has it."""

# The linted environment need not hold the peers.
# mypy: disable-error-code="import-not-found, misc"

import sys

import uvicorn
from aiosignalr.server import Hub, SignalRServer


class Peer(Hub):
    async def echo(self, text: str) -> str:
        return text

    async def broadcast(self, text: str) -> None:
        await self.clients.all_.send("Message", text)


if __name__ == "__main__":
    uvicorn.run(
        SignalRServer(Peer).asgi_app(path="/hub"),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        ws_per_message_deflate=False,
        access_log=False,
        log_level="critical",
    )
