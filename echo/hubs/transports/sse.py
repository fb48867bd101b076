"""Server-sent events: one response that never ends carries what the hub sends, as text.

The link lives as long as its response, and a client that takes nothing of what is sent to it for
`transport_send_timeout` is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import TracebackType
from typing import Any

from quart.wrappers.response import ResponseBody

from echo.hubs.protocol import TransferFormat
from echo.hubs.transports.deadline import Deadline
from echo.hubs.transports.options import ConnectionOptions
from echo.hubs.transports.posted import PostedLink
from echo.websocket.clock import Clock

HEADERS = (
    ("Cache-Control", "no-cache,no-store"),
    ("Pragma", "no-cache"),
    ("Content-Encoding", "identity"),
    ("X-Accel-Buffering", "no"),
)
CONTENT_TYPE = "text/event-stream"

# Some browsers do not say that a stream is open before its first bytes.
_FIRST = b":\r\n"
_LINE_END = re.compile(rb"\r\n|\r|\n")


def event(data: bytes) -> bytes:
    """The event that carries `data`; the client sees each end of a line in it as a newline."""
    if b"\n" in data or b"\r" in data:
        data = b"\r\ndata: ".join(_LINE_END.split(data))
    return b"data: " + data + b"\r\n\r\n"


class ServerSentEventsLink(PostedLink):
    __slots__ = ("_hang_up", "_progress", "_under_way")

    transport = "ServerSentEvents"
    transfer_formats = ("Text",)

    def __init__(
        self,
        options: ConnectionOptions,
        clock: Clock,
        hang_up: Callable[[], None],
        **about: Any,
    ) -> None:
        super().__init__(options, clock, **about)
        self._hang_up = hang_up
        self._under_way = 0  # bytes that the server is writing
        self._progress = Deadline(
            clock, options.transport_send_timeout, lambda: self.abort("the client does not read")
        )

    def set_format(self, transfer_format: TransferFormat) -> None:
        if transfer_format != "Text":
            raise ValueError("server-sent events carry text only")

    def _encode(self, data: bytes) -> bytes:
        return event(data)

    @property
    def unsent(self) -> int:
        return self._outbox_size + self._under_way

    def opened(self) -> None:
        """The response has begun."""
        self._absence.end()

    async def next_piece(self) -> bytes:
        """The next bytes of the response, the last ones being written; b"" at its end."""
        self._written()
        while not self._outbox:
            if self._is_over:
                self.end("we closed it")
                return b""
            await self._outward.park()
        piece = self._take(self._options.transport_buffer_size)
        self._under_way = len(piece)
        self._progress.begin()
        return piece

    def _written(self) -> None:
        if self._under_way:
            self._under_way = 0
            self._progress.end()
            self._outward.unpark_all()

    def end(self, why: str) -> None:
        super().end(why)
        if self._under_way:  # the server waits for the client, for who knows how long
            self._hang_up()

    def left(self) -> None:
        """The response has ended, by whomever."""
        self._written()
        self.end("the client is gone")


class EventStream(ResponseBody):
    """The body of the response."""

    def __init__(self, link: ServerSentEventsLink) -> None:
        self._link = link
        self._begun = False

    async def __aenter__(self) -> EventStream:
        self._link.opened()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._link.left()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> bytes:
        if not self._begun:
            self._begun = True
            return _FIRST
        if piece := await self._link.next_piece():
            return piece
        raise StopAsyncIteration
