"""Plain Quart-Trio under `hypercorn -k trio`: what the product is built on, without its own layer.

The host negotiates compression only with a client that offers it, and the load driver does not.
"""

import sys
from pathlib import Path

from hypercorn.__main__ import main
from quart import websocket
from quart_trio import QuartTrio

app = QuartTrio(__name__)


@app.websocket("/ws")
async def echo() -> None:
    while True:
        await websocket.send(await websocket.receive())


if __name__ == "__main__":
    sys.exit(main(["-k", "trio", "-b", f"127.0.0.1:{sys.argv[1]}", f"{Path(__file__)}:app"]))
