"""What systemd gives a service and wants to hear from it: sockets, readiness, status, watchdog.

Both sides are variables and sockets (sd_listen_fds(3), sd_notify(3)), so nothing of systemd need
be installed. The variables are taken out of the environment: they are for this process and not
for its children. Telling systemd something never fails the service.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Final

import trio

from echo.hosting.listeners import ListenError

logger = logging.getLogger("echo")

# Seconds between two looks at what has changed; less if the watchdog wants to hear more often.
_TICK: Final = 2.0

_FIRST: Final = 3  # SD_LISTEN_FDS_START
_MOST: Final = 1024


def take_listeners(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """The listening sockets that systemd has opened for this process; none if there are none.

    Takes LISTEN_PID, LISTEN_FDS and what else belongs to them out of `environ`.

    Raises:
        ListenError: what was handed over cannot be listened on.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    for name in ("LISTEN_FDNAMES", "LISTEN_PIDFDID"):
        environ.pop(name, None)
    if not pid or not count:
        return []
    if pid != str(os.getpid()):
        # As a rule a shell stands in between and has kept the sockets for itself.
        logger.warning(
            "LISTEN_FDS is for process %s, not for this one, %d: start Echo itself, with no "
            "other program in between; taking ECHO_HOST and ECHO_PORT",
            pid,
            os.getpid(),
        )
        return []
    if not count.isascii() or not count.isdecimal() or not 0 < int(count[:9]) <= _MOST:
        raise ListenError(
            f"LISTEN_FDS is {count[:20]!r}, but it must be a number from 1 to {_MOST}"
        )
    return [_inherit(descriptor) for descriptor in range(_FIRST, _FIRST + int(count))]


def _inherit(descriptor: int) -> socket.socket:
    named = f"Descriptor {descriptor} of LISTEN_FDS"
    try:
        inherited = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ListenError(f"{named} is no socket: {error.strerror}") from error
    os.set_inheritable(descriptor, False)
    if inherited.type != socket.SOCK_STREAM:
        wrong = "is no stream socket; use ListenStream= in the socket unit"
    elif not inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        wrong = "does not listen; use Accept=no in the socket unit"
    elif inherited.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        wrong = "is neither a TCP nor a unix socket"
    else:
        return inherited
    inherited.detach()
    raise ListenError(f"{named} {wrong}")


class Systemd:
    """The service manager, as a `Manager`. Without one nothing is sent."""

    def __init__(self, address: str = "", watchdog: float | None = None) -> None:
        """
        Args:
            address: of the notification socket; "@" begins an abstract one, "" is none.
            watchdog: seconds after which silence counts as frozen; None: it does not.
        """
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog = watchdog
        self._status = ""
        self._doing = "Starting"
        self._warned = False

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Systemd:
        """Who started this process. Takes NOTIFY_SOCKET and the watchdog's out of `environ`."""
        address = environ.pop("NOTIFY_SOCKET", "")
        pid, microseconds = environ.pop("WATCHDOG_PID", ""), environ.pop("WATCHDOG_USEC", "")
        watched = pid in ("", str(os.getpid())) and microseconds.isascii()
        if not watched or not microseconds.isdecimal() or int(microseconds[:18]) == 0:
            return cls(address)
        return cls(address, int(microseconds[:18]) / 1e6)

    def ready(self) -> None:
        self._doing = "Serving"
        self._notify("READY=1", *self._new_status(0))

    def stopping(self, sockets: int) -> None:
        self._doing = "Draining"
        self._notify("STOPPING=1", *self._new_status(sockets))

    async def attend(
        self,
        sockets: Callable[[], int],
        end: Callable[[], object],
        *,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        """Send the status when it has changed, and signs of life while the event loop turns.

        Args:
            sockets: how many WebSockets are open.
            end: unused: systemd sends signals.
            alive: whether all that must not freeze has shown life since the last call.
        """
        if not self._address:
            return
        tick = min(self._watchdog / 2, _TICK) if self._watchdog is not None else _TICK
        while True:
            await trio.sleep(tick)
            life = ["WATCHDOG=1"] if alive() and self._watchdog is not None else []
            self._notify(*life, *self._new_status(sockets()))

    def _new_status(self, sockets: int) -> list[str]:
        """The line for systemctl, if it differs from the last."""
        status = f"STATUS={self._doing}, open sockets: {sockets}"
        if status == self._status:
            return []
        self._status = status
        return [status]

    def _notify(self, *lines: str) -> None:
        if not self._address or not lines:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                out.setblocking(False)
                out.sendto("\n".join(lines).encode(), self._address)
        except (OSError, ValueError) as error:
            if not self._warned:
                self._warned = True
                logger.warning("Cannot notify systemd at NOTIFY_SOCKET: %s", error)
