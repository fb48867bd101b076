"""The table of causes: what may be missing, why that breaks, and the line that mends it.

Data only, by subject: the way to the server, the handshake, and what the service sees. Lines for
nginx come first; Caddy and HAProxy are named where they need something at all. A `location = /ws`
stands for the WebSocket's own path.
"""

from echo.doctor.causes import connection, handshake, service
from echo.doctor.report import Cause

ALL: dict[str, Cause] = {
    cause.id: cause
    for module in (connection, handshake, service)
    for cause in vars(module).values()
    if isinstance(cause, Cause)
}
"""Every cause by its id."""
