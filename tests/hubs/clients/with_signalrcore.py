"""signalrcore against the test host: prints {case: None or what went wrong} as JSON.

`python with_signalrcore.py URL CASE,... TRANSPORT json|messagepack`. It works with threads, knows
no client results, and has a single place for the errors of all calls. When it stops, it waits for
one more message; so it gets hubs that ping often.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import sys
import traceback
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.request import urlopen

from signalrcore.hub.handlers import StreamHandler
from signalrcore.hub_connection_builder import HubConnectionBuilder
from signalrcore.messages.stream_invocation_message import StreamInvocationMessage
from signalrcore.protocol.json_hub_protocol import JsonHubProtocol
from signalrcore.protocol.messagepack_protocol import MessagePackHubProtocol
from signalrcore.subject import Subject
from signalrcore.types import HttpTransportType

URL, WANTED, TRANSPORT, PROTOCOL = sys.argv[1:5]
LIMIT = 60.0
TRANSPORTS = {
    "WebSockets": HttpTransportType.web_sockets,
    "ServerSentEvents": HttpTransportType.server_sent_events,
    "LongPolling": HttpTransportType.long_polling,
}

Case = Callable[[], None]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


class Session:
    """A running client, with calls that wait for their answers."""

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        protocol = JsonHubProtocol(1) if PROTOCOL == "json" else MessagePackHubProtocol(1)
        self.opened: queue.Queue[None] = queue.Queue()
        self.closed: queue.Queue[None] = queue.Queue()
        self._answers: queue.Queue[Any] = queue.Queue()
        self.connection = (
            HubConnectionBuilder()
            .with_url(URL + path, options={"transport": TRANSPORTS[TRANSPORT], **options})
            .configure_logging(logging.CRITICAL)
            .with_hub_protocol(protocol)
            .build()
        )
        self.connection.on_open(lambda: self.opened.put(None))
        self.connection.on_close(lambda: self.closed.put(None))
        self.connection.on_error(self._answers.put)

    def invoke(self, method: str, *arguments: Any) -> Any:
        """The result; an error is raised as a RuntimeError with its text."""
        self.connection.invoke(method, list(arguments), self._answers.put)
        message = self._answers.get(timeout=LIMIT)
        if message.error:
            raise RuntimeError(message.error)
        return message.result

    def stream(self, method: str, *arguments: Any) -> list[Any]:
        """All items; an error is raised as a RuntimeError with its text."""
        items: list[Any] = []
        # What its own stream() does, which sends before one can subscribe.
        id = str(uuid.uuid4())
        handler = StreamHandler(method, id)
        handler.subscribe({"next": items.append, "complete": self._answers.put, "error": print})
        self.connection.stream_handlers[id].append(handler)
        self.connection.transport.send(
            StreamInvocationMessage(id, method, list(arguments), headers=self.connection.headers)
        )
        message = self._answers.get(timeout=LIMIT)
        if message.error:
            raise RuntimeError(message.error)
        return items

    def inbox(self, method: str) -> queue.Queue[Any]:
        called: queue.Queue[Any] = queue.Queue()
        self.connection.on(method, called.put)
        return called


@contextlib.contextmanager
def session(path: str = "/livelyhub", **options: Any) -> Iterator[Session]:
    made = Session(path, options)
    made.connection.start()
    made.opened.get(timeout=LIMIT)
    try:
        yield made
    finally:
        made.connection.stop()
        made.closed.get(timeout=LIMIT)


def error_of(call: Callable[[], Any]) -> str:
    try:
        result = call()
    except RuntimeError as error:
        return str(error)
    raise AssertionError(f"{result!r} instead of an error")


@case
def a_call_gets_its_answer() -> None:
    with session() as hub:
        assert hub.invoke("Echo", "你好 👋") == "你好 👋"
        assert hub.invoke("EchoAny", {"a": [1, None, -2.5]}) == {"a": [1, None, -2.5]}
        assert hub.invoke("GetActiveTransportName") == TRANSPORT


@case
def an_error_has_its_text() -> None:
    text = "An unexpected error occurred invoking 'ThrowException' on the server."
    detail = " InvalidOperationException: An error occurred."
    with session() as hub:
        seen = error_of(lambda: hub.invoke("ThrowException", "An error occurred."))
        assert seen == text + detail
    with session("/quickhub") as hub:
        assert error_of(lambda: hub.invoke("ThrowException", "secret")) == text


@case
def the_server_calls_the_client() -> None:
    with session() as hub:
        called = hub.inbox("Message")
        hub.invoke("InvokeWithString", "hello")
        assert called.get(timeout=LIMIT) == ["hello"]


@case
def a_stream_comes_down() -> None:
    with session() as hub:
        assert hub.stream("Stream") == ["a", "b", "c"]
        assert hub.stream("EmptyStream") == []
        assert hub.stream("Counter", 5, 0.001) == list(range(5))


@case
def a_stream_goes_up() -> None:
    with session() as hub:
        summed = hub.inbox("Sum")
        subject = Subject()
        hub.connection.send("TellSum", subject)
        for number in range(5):
            subject.next(number)
        subject.complete()
        assert summed.get(timeout=LIMIT) == [10]


@case
def groups_are_reached() -> None:
    group = f"signalrcore {TRANSPORT} {PROTOCOL}"
    with session() as first, session() as second:
        inboxes = [hub.inbox("Message") for hub in (first, second)]
        for hub in (first, second):
            hub.invoke("Join", group)
        first.invoke("SendToGroup", "hello", group)
        assert [inbox.get(timeout=LIMIT) for inbox in inboxes] == [["hello"], ["hello"]]


@case
def a_token_names_the_user() -> None:
    with urlopen(f"{URL}/generateJwtToken?user=testuser", timeout=LIMIT) as response:
        token = response.read().decode()
    with session("/livelyauthorizedhub", access_token_factory=lambda: token) as hub:
        assert hub.invoke("GetUserNameIdentifier") == "testuser"


def run(each: Case) -> str | None:
    try:
        each()
    except Exception:
        return traceback.format_exc()
    return None


json.dump({name: run(CASES[name]) for name in WANTED.split(",")}, sys.stdout)
sys.stdout.flush()
os._exit(0)  # its threads need not agree
