"""pysignalr against the test host: prints {case: None or what went wrong} as JSON.

`python with_pysignalr.py URL CASE,... json|messagepack`. It has WebSockets only, and asks negotiate
for version 0, where the id is the token.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.request import urlopen

from pysignalr.client import SignalRClient
from pysignalr.exceptions import AuthorizationError
from pysignalr.messages import CompletionMessage
from pysignalr.protocol.json import JSONProtocol
from pysignalr.protocol.messagepack import MessagepackProtocol

URL, WANTED, PROTOCOL = sys.argv[1:4]
LIMIT = 60.0

Case = Callable[[], Awaitable[None]]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


class Session:
    """A running client, with calls that wait for their answers."""

    def __init__(self, path: str, host: str = "127.0.0.1", **options: Any) -> None:
        protocol = JSONProtocol() if PROTOCOL == "json" else MessagepackProtocol()
        url = URL.replace("127.0.0.1", host) + path
        self.client = SignalRClient(url, protocol=protocol, **options)
        self.client.on_error(self._ignore)

    async def _ignore(self, message: CompletionMessage) -> None:
        """The answer's own callback gets the error too."""

    async def invoke(self, method: str, *arguments: Any) -> Any:
        """The result; an error is raised as a RuntimeError with its text."""
        answer: asyncio.Future[CompletionMessage] = asyncio.get_running_loop().create_future()

        async def done(message: Any) -> None:
            answer.set_result(message)

        await self.client.send(method, list(arguments), done)
        message = await answer
        if message.error:
            raise RuntimeError(message.error)
        return message.result

    async def stream(self, method: str, *arguments: Any) -> list[Any]:
        """All items; an error is raised as a RuntimeError with its text."""
        items: list[Any] = []
        over: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

        async def next_item(item: Any) -> None:
            items.append(item)

        async def complete(message: Any) -> None:
            over.set_result(None)

        async def failed(message: CompletionMessage) -> None:
            over.set_result(message.error)

        await self.client.stream(method, list(arguments), next_item, complete, failed)
        error = await over
        if error:
            raise RuntimeError(error)
        return items


@contextlib.asynccontextmanager
async def session(path: str = "/testhub", **options: Any) -> AsyncIterator[Session]:
    made = Session(path, **options)
    opened = asyncio.Event()

    async def on_open() -> None:
        opened.set()

    made.client.on_open(on_open)
    running = asyncio.create_task(made.client.run())
    waiting = asyncio.create_task(opened.wait())
    try:
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running  # raises
        yield made
    finally:
        for task in (running, waiting):
            task.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)


async def error_of(call: Awaitable[Any]) -> str:
    try:
        result = await call
    except RuntimeError as error:
        return str(error)
    raise AssertionError(f"{result!r} instead of an error")


@case
async def a_call_gets_its_answer() -> None:
    async with session() as hub:
        assert await hub.invoke("Echo", "你好 👋") == "你好 👋"
        assert await hub.invoke("EchoAny", {"a": [1, None, -2.5]}) == {"a": [1, None, -2.5]}
        assert await hub.invoke("GetActiveTransportName") == "WebSockets"


@case
async def an_error_has_its_text() -> None:
    async with session() as hub:
        text = "An unexpected error occurred invoking 'ThrowException' on the server."
        detail = " InvalidOperationException: An error occurred."
        assert await error_of(hub.invoke("ThrowException", "An error occurred.")) == text + detail
    async with session("/plainhub") as hub:
        assert await error_of(hub.invoke("ThrowException", "secret")) == text


@case
async def the_server_calls_the_client() -> None:
    async with session() as hub:
        called: asyncio.Queue[Any] = asyncio.Queue()
        hub.client.on("Message", called.put)
        await hub.client.send("InvokeWithString", ["hello"])  # type: ignore[list-item]
        assert await called.get() == ["hello"]


@case
async def a_stream_comes_down() -> None:
    async with session() as hub:
        assert await hub.stream("Stream") == ["a", "b", "c"]
        assert await hub.stream("EmptyStream") == []
        assert await hub.stream("Counter", 200, 0) == list(range(200))
        text = "An error occurred on the server while streaming results."
        detail = " InvalidOperationException: Out of numbers."
        assert await error_of(hub.stream("CountAndFail", 3)) == text + detail


@case
async def a_stream_goes_up() -> None:
    async with session() as hub:
        summed: asyncio.Queue[Any] = asyncio.Queue()
        hub.client.on("Sum", summed.put)
        async with hub.client.client_stream("TellSum") as stream:
            for number in range(100):
                await stream.send(number)
        assert await summed.get() == [4950]


@case
async def the_client_answers_the_server() -> None:
    async with session() as hub:

        async def result(arguments: Any) -> int:
            return 10

        hub.client.on("Result", result)
        connection_id = await hub.invoke("GetCallerConnectionId")
        assert await get(f"/clientresult/{connection_id}") == "10"


@case
async def a_client_without_an_answer_says_so() -> None:
    async with session() as hub:
        connection_id = await hub.invoke("GetCallerConnectionId")
        answer = await get(f"/clientresult/{connection_id}")
        assert answer == "Client didn't provide a result."


@case
async def groups_are_reached() -> None:
    async with session() as first, session() as second:
        called: asyncio.Queue[Any] = asyncio.Queue()
        for hub in (first, second):
            hub.client.on("Message", called.put)
            await hub.invoke("Join", f"pysignalr {PROTOCOL}")
        await first.invoke("SendToGroup", "hello", f"pysignalr {PROTOCOL}")
        assert [await called.get(), await called.get()] == [["hello"], ["hello"]]


@case
async def nobody_gets_in_without_a_token() -> None:
    try:
        async with session("/authorizedhub"):
            raise AssertionError("connected")
    except AuthorizationError:
        pass


@case
async def a_token_names_the_user() -> None:
    token = await get("/generateJwtToken?user=testuser")
    headers = {"Authorization": f"Bearer {token}"}
    async with session("/authorizedhub", headers=headers) as hub:
        assert await hub.invoke("GetUserNameIdentifier") == "testuser"


@case
async def cookies_of_negotiate_come_back() -> None:
    async with session("/testhub", host="localhost") as hub:  # its jar takes none of an address
        assert await hub.invoke("GetCookie", "testCookie") == "testValue"


async def get(path: str) -> str:
    def read() -> str:
        with urlopen(URL + path, timeout=LIMIT) as response:
            text: str = response.read().decode()
            return text

    return await asyncio.to_thread(read)


async def run(each: Case) -> str | None:
    try:
        await asyncio.wait_for(each(), LIMIT)
    except Exception:
        return traceback.format_exc()
    return None


async def main() -> None:
    # One after the other: a failure of one is then no other's.
    json.dump({name: await run(CASES[name]) for name in WANTED.split(",")}, sys.stdout)


asyncio.run(main())
