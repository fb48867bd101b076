"""The README's chat, whole. `hypercorn -k trio tests.hubs.chat:app` serves it."""

from quart_trio import QuartTrio

from echo.hubs import Hub, map_hub

app = QuartTrio(__name__)


class Chat(Hub):
    async def send_message(self, user: str, text: str) -> None:
        await self.clients.all.send("ReceiveMessage", user, text)


map_hub(app, "/chat", Chat)
