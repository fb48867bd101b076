"""An address of its own for the metrics of one process.

Several processes that share a listening socket cannot be asked one by one there. So each takes
the first free port of a range, keeps it as long as it runs, and answers there and for nothing
else. Who may reach the address may ask: it should be one of the machine or of a private network.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus

import h11
import trio

from echo.metrics.exposition import Exposition

logger = logging.getLogger("echo")

_PATH = b"/metrics"
_SECONDS = 10.0  # that one answer may take, request and all
_MOST_BYTES = 16_384  # of a request's head
_MOST_AT_ONCE = 16  # connections
_AGAIN = 5.0  # seconds until the next attempt to listen


async def listen(exposition: Exposition, host: str, ports: Sequence[int]) -> None:
    """Answer `GET /metrics` on the first of these ports that is free, for ever.

    That none is free is logged once, and tried again: the process before may still drain.

    Args:
        exposition: what answers.
        host: an IP address.
        ports: to be tried in this order; 0 lets the system choose.
    """
    told = False
    while True:
        listeners = await _open(host, ports)
        if listeners:
            break
        if not told:
            told = True
            logger.error("No metrics: cannot listen on %s port %s", host, _shown(ports))
        await trio.sleep(_AGAIN)
    logger.info("Metrics are on %s port %d", host, listeners[0].socket.getsockname()[1])
    await trio.serve_listeners(partial(_Server(exposition).serve), listeners)


async def _open(host: str, ports: Sequence[int]) -> list[trio.SocketListener]:
    for port in ports:
        try:
            return await trio.open_tcp_listeners(port, host=host)
        except OSError as error:
            logger.debug("Cannot listen on %s port %d: %s", host, port, error)
    return []


def _shown(ports: Sequence[int]) -> str:
    return str(ports[0]) if len(ports) == 1 else f"{ports[0]} to {ports[-1]}"


class _Server:
    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition
        self._busy = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer one request, within bounds; what goes wrong is the asker's affair."""
        async with stream:
            if self._busy >= _MOST_AT_ONCE:
                return
            self._busy += 1
            try:
                with trio.move_on_after(_SECONDS):
                    await self._answer(stream)
            except (OSError, trio.BrokenResourceError, h11.ProtocolError) as error:
                logger.debug("A request for the metrics failed: %r", error)
            finally:
                self._busy -= 1

    async def _answer(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_BYTES)
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(_MOST_BYTES)))
        if not isinstance(event, h11.Request):
            return
        status, headers, body = self._response(event)
        headers += [("Content-Length", str(len(body))), ("Connection", "close")]
        response = h11.Response(status_code=status, headers=headers)
        parts = [connection.send(response)]
        if event.method != b"HEAD":
            parts.append(connection.send(h11.Data(data=body)))
        await stream.send_all(b"".join(part for part in parts if part))

    def _response(self, request: h11.Request) -> tuple[int, list[tuple[str, str]], bytes]:
        text = [("Content-Type", "text/plain; charset=utf-8")]
        if request.target.partition(b"?")[0] != _PATH:
            return HTTPStatus.NOT_FOUND, text, b"Metrics are at /metrics.\n"
        if request.method not in (b"GET", b"HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, [*text, ("Allow", "GET, HEAD")], b"Use GET.\n"
        accepted = b", ".join(value for name, value in request.headers if name == b"accept")
        body, content_type = self._exposition.answer(accepted.decode("latin-1"))
        return HTTPStatus.OK, [("Content-Type", content_type), ("Cache-Control", "no-store")], body
