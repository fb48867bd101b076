"""The sockets a server listens on, opened before anything else is started.

A name stands for all its addresses: browsers try ::1 before 127.0.0.1 when they open
http://localhost. What cannot be had is told in one line that says how to choose another.
"""

import errno
import os
import socket
from typing import Any, Final

# As many handshakes as the kernel allows (net.core.somaxconn) may wait while a worker is busy or
# still starting. Listening anew takes the place of what a socket unit says.
BACKLOG: Final = 65_535

_ABSENT: Final = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}


class ListenError(Exception):
    """The address cannot be listened on; `str()` is one line."""


def open_listeners(host: str, port: int) -> list[socket.socket]:
    """Listening sockets for every address of `host`, all with the same port."""
    addresses = _resolve(host, port)
    listeners: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, address in addresses:
            if listeners:  # port 0: the first address chose one for all
                address = (address[0], port_of(listeners), *address[2:])
            try:
                listeners.append(_listen(family, address, alone=len(addresses) == 1))
            except OSError as error:
                # A container without IPv6 still names ::1 in its hosts file.
                if error.errno not in _ABSENT or len(addresses) == 1:
                    raise
                absent = error
        if absent is not None and not listeners:
            raise absent
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise ListenError(_reason(host, port, error)) from error
    return listeners


def port_of(listeners: list[socket.socket]) -> int:
    port = listeners[0].getsockname()[1]
    assert isinstance(port, int)
    return port


def url_of(host: str, port: int) -> str:
    """What to type into a browser on this machine."""
    if host in {"0.0.0.0", "::"}:  # every address of the machine, and no name of any
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def place_of(listener: socket.socket) -> str:
    """Where a listener that somebody else has opened can be reached."""
    address = listener.getsockname()
    if isinstance(address, tuple):
        return url_of(address[0], address[1])
    name = os.fsdecode(address)
    return "unix:" + ("@" + name[1:] if name.startswith("\0") else name)


def _resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[Any, ...]]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ListenError(_reason(host, port, error)) from error
    # A hosts file may name an address twice. IPv4 first: it is there more often.
    unique: dict[tuple[socket.AddressFamily, tuple[Any, ...]], None]
    unique = dict.fromkeys((family, address) for family, _, _, _, address in found)
    return sorted(unique, key=lambda each: each[0] != socket.AF_INET)


def _listen(family: int, address: tuple[Any, ...], *, alone: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and not alone:
            # The IPv4 address of the name has a socket of its own.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        # Only listening makes the port ours: two that are merely bound do not collide.
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _reason(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        other = port + 1 if port < 65535 else port - 1
        return (
            f"Port {port} is already in use; choose another with "
            f"--port {other} or ECHO_PORT={other}"
        )
    if error.errno == errno.EACCES:
        return (
            f"Port {port} needs more rights than this user has; choose one above 1023 "
            "with --port or ECHO_PORT"
        )
    # str(error) would name the address again; gaierror has no errno that os.strerror knows.
    detail = error.strerror or (os.strerror(error.errno) if error.errno else str(error))
    return f"Cannot listen on {host!r}: {detail}; choose another with --host or ECHO_HOST"
