"""The service's own hub, at `/hub`: each thing a hub can do, in one small method.

Whoever reaches the service may call it, so all that a client can make it hold is bounded: names,
groups, items, questions, and how long a stream may last.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio
from quart_trio import QuartTrio

from echo.hubs import ClientDisconnected, Hub, HubContext, HubError, HubOptions, map_hub
from echo.hubs.backplane import Backplane

PATH = "/hub"
NAME = "echo.echohub.EchoHub"  # on a backplane

MAX_COUNT = 1000
COUNTDOWN_STEP = 0.2  # seconds
MAX_ITEMS = 1000
MAX_CHARACTERS = 64 * 1024  # of all items together
MAX_NAME = 64  # characters
MAX_GROUPS = 16  # that one client is in
MAX_QUESTIONS = 8  # of one client that wait for their answers
ANSWER_TIMEOUT = 30  # seconds


class EchoHub(Hub):
    """Calls of clients: `Message(text)`, and `Answer(question)`, whose result is the answer."""

    async def echo(self, text: str) -> str:
        """The same text."""
        return text

    async def broadcast(self, text: str) -> None:
        """Everyone's `Message(text)` is called, the caller's too."""
        await self.clients.all.send("Message", text)

    async def join(self, group: str) -> None:
        """Put the caller into a group. Whoever connects anew is in none."""
        _check_name(group)
        joined = self._joined()
        if group not in joined and len(joined) == MAX_GROUPS:
            raise HubError(f"You are in {MAX_GROUPS} groups: leave one first.")
        joined.add(group)
        await self.groups.add(self.context.connection_id, group)

    async def leave(self, group: str) -> None:
        """Take the caller out of a group."""
        self._joined().discard(group)
        await self.groups.remove(self.context.connection_id, group)

    async def broadcast_to(self, group: str, text: str) -> None:
        """Everyone's `Message(text)` in the group is called; the caller need not be in it."""
        await self.clients.group(group).send("Message", text)

    async def countdown(self, start: int) -> AsyncIterator[int]:
        """`start` and all whole numbers below it down to 0, each COUNTDOWN_STEP after the last."""
        if not 0 <= start <= MAX_COUNT:
            raise HubError(f"Count down from a number between 0 and {MAX_COUNT}.")
        yield start
        for number in reversed(range(start)):
            await trio.sleep(COUNTDOWN_STEP)
            yield number

    async def collect(self, items: AsyncIterator[str]) -> list[str]:
        """All that the caller streams, once it has come to its end."""
        collected: list[str] = []
        characters = 0
        async for item in items:
            collected.append(item)
            characters += len(item)
            if len(collected) > MAX_ITEMS or characters > MAX_CHARACTERS:
                raise HubError(
                    f"Send at most {MAX_ITEMS} items with {MAX_CHARACTERS} characters in all."
                )
        return collected

    async def ask(self, connection_id: str, question: str) -> str:
        """What the client of that id answers to `Answer(question)`, within ANSWER_TIMEOUT."""
        items = self.context.items
        if items.get("questions", 0) == MAX_QUESTIONS:
            raise HubError(f"Wait: {MAX_QUESTIONS} of your questions have no answer yet.")
        items["questions"] = items.get("questions", 0) + 1
        try:
            return await self.clients.client(connection_id).invoke("Answer", question, returns=str)
        except ClientDisconnected:
            raise HubError("Nobody with that connection id is here.") from None
        except TimeoutError:
            raise HubError(f"There was no answer within {ANSWER_TIMEOUT} s.") from None
        finally:
            items["questions"] -= 1

    def _joined(self) -> set[str]:
        joined: set[str] = self.context.items.setdefault("groups", set())
        return joined


def _check_name(group: str) -> None:
    if not 1 <= len(group) <= MAX_NAME:
        raise HubError(f"A group's name has 1 to {MAX_NAME} characters.")


def map_echo_hub(
    app: QuartTrio,
    *,
    allowed_origins: tuple[str, ...] = (),
    node: str = "",
    sticky: bool = True,
    backplane: Backplane | None = None,
) -> HubContext:
    """Serve the hub at `/hub`. To be called after `use_websockets()`.

    Args:
        app: to serve it.
        allowed_origins: whose pages may connect; see `HubOptions`.
        node: name of the process, for a proxy; see `HubOptions`.
        sticky: whether all requests of a connection reach this process; see `HubOptions`.
        backplane: through which the hub is one with that of other processes.

    Returns:
        What sends to the hub's clients from anywhere.
    """
    options = HubOptions(
        client_result_timeout=ANSWER_TIMEOUT,
        allowed_origins=allowed_origins,
        node=node,
        sticky=sticky,
    )
    return map_hub(app, PATH, EchoHub, options, backplane=backplane, name=NAME)
