"""The seam: the only package that knows Hypercorn's private names (0.18).

Under Hypercorn's Trio worker an ASGI `send` is a bound method, and behind it stands what carries
the bytes of its connection. The seam finds it, answers the handshake, and gives the connection to
our socket; Hypercorn keeps the listening, HTTP, TLS and the tearing down.
`tests/hosting/test_hypercorn.py` fails when these names move.
"""

from __future__ import annotations

import hypercorn.protocol
import hypercorn.protocol.h2
import hypercorn.protocol.h11
import hypercorn.trio.run

from echo.hosting.hypercorn.connection import Connection
from echo.hosting.hypercorn.http2 import Protocol
from echo.hosting.hypercorn.seam import HypercornSeam
from echo.hosting.hypercorn.stream import Stream
from echo.websocket.carriers import seams

__all__ = ["install"]


def install() -> None:
    """Let the socket layer find Hypercorn, and put our classes in the place of Hypercorn's."""
    if not any(isinstance(seam, HypercornSeam) for seam in seams):
        seams.append(HypercornSeam())
        setattr(hypercorn.protocol.h11, "WSStream", Stream)  # noqa: B010
        setattr(hypercorn.protocol.h2, "WSStream", Stream)  # noqa: B010
        setattr(hypercorn.protocol, "H2Protocol", Protocol)  # noqa: B010
        setattr(hypercorn.trio.run, "TCPServer", Connection)  # noqa: B010
