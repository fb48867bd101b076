"""What a client uploads: a bounded stream between the one who reads it and a hub method.

Items may come before the method asks for them and wait here; when as many wait as may, whoever
feeds the stream waits too. The error that ends a stream is raised behind its last item.
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import trio

from echo.hubs.binding import BindingError, Converter
from echo.hubs.errors import UploadError
from echo.hubs.protocol import HubProtocol


class Upload:
    """A stream from a client: what its method iterates over.

    Args:
        converter: makes an item of what came.
        protocol: in which it came.
        capacity: how many items may wait.
        detailed: whether the error says why an item does not fit.
    """

    __slots__ = ("_converter", "_detailed", "_error", "_protocol", "_read", "_write")

    def __init__(
        self, converter: Converter, protocol: HubProtocol, capacity: int, *, detailed: bool
    ) -> None:
        self._converter = converter
        self._protocol = protocol
        self._detailed = detailed
        self._error: str | None = None
        self._write, self._read = trio.open_memory_channel[Any](capacity)

    # What the method does

    def __aiter__(self) -> Upload:
        return self

    async def __anext__(self) -> Any:
        """The next item. Raises `UploadError` if the client ended the stream so, or is gone."""
        try:
            try:
                return self._read.receive_nowait()
            except trio.WouldBlock:
                return await self._read.receive()
        except trio.EndOfChannel:
            if self._error is not None:
                raise UploadError(self._error) from None
        except trio.ClosedResourceError:  # by aclose()
            pass
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Want no more: what still comes is thrown away."""
        self.close()

    # What the connection does

    def offer(self, value: object) -> Coroutine[Any, Any, None] | None:
        """Take what came for the stream. What is returned waits for room and takes it then."""
        try:
            item = self._converter.convert(value, self._protocol)
        except BindingError as error:
            self.end(error.stream_text(detailed=self._detailed))
            return None
        try:
            self._write.send_nowait(item)
        except trio.WouldBlock:
            return self._put(item)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the method, or the stream, has ended
        return None

    async def _put(self, item: object) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._write.send(item)

    def end(self, error: str | None = None) -> None:
        """Nothing more comes. The first end counts."""
        if self._error is None:
            self._error = error
        self._write.close()

    def close(self) -> None:
        """Nobody reads any more."""
        self._read.close()
        self._write.close()
