"""Keep-alive: off, unsolicited pongs, or pings with a deadline for a sign of life.

One entry in the worker's clock a socket, no task. Any bytes from the peer count as a sign of
life: its pong may have to wait behind a large message. While we ourselves have paused reading,
no peer can be blamed for silence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echo.websocket.clock import Timer
    from echo.websocket.socket import WebSocket


class KeepAlive:
    __slots__ = ("_interval", "_socket", "_timeout", "_timer")

    def __init__(self, socket: WebSocket) -> None:
        interval = socket.options.keep_alive_interval
        assert interval is not None
        self._socket = socket
        self._interval = interval
        self._timeout = socket.options.keep_alive_timeout
        self._timer: Timer = socket.worker.clock.call_in(interval, self._beat)

    def stop(self) -> None:
        self._timer.cancel()

    def _beat(self) -> None:
        socket = self._socket
        clock = socket.worker.clock
        if self._timeout is None:
            socket.send_pong()
            self._timer = clock.call_in(self._interval, self._beat)
        else:
            socket.heard = False
            socket.send_ping()
            self._timer = clock.call_in(self._timeout, self._judge)

    def _judge(self) -> None:
        socket = self._socket
        assert self._timeout is not None
        if socket.heard or socket.full:
            rest = max(self._interval - self._timeout, 0)
            self._timer = socket.worker.clock.call_in(rest, self._beat)
        else:
            socket.drop("no pong: keep_alive_timeout passed", "keep_alive")
