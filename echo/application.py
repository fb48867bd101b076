"""The composition root: `create_app` puts the service together."""

from pathlib import Path

from quart import websocket
from quart_trio import QuartTrio

PAGE = Path(__file__).parent / "page"


def create_app() -> QuartTrio:
    app = QuartTrio(__name__, static_folder=str(PAGE), static_url_path="/page")

    @app.get("/")
    async def index():  # type: ignore[no-untyped-def]
        return await app.send_static_file("index.html")

    @app.websocket("/ws")
    async def ws() -> None:
        while True:
            await websocket.send(await websocket.receive())

    return app
