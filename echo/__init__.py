"""Echo: WebSockets on Trio.

`hypercorn -k trio echo:app` serves the echo and its page. `echo.websocket` is the socket layer,
for anyone's Quart-Trio app. A wrong `ECHO_*` variable stops whoever imports this, in one line.
"""

from __future__ import annotations

import logging
import os
import sys

from echo.hosting import hypercorn as _hypercorn
from echo.hosting.guest import ASGIApp, GuestApp
from echo.settings import Settings, SettingsError, unknown_variables

_hypercorn.install()

try:
    _settings = Settings.from_environ(os.environ)
except SettingsError as error:
    print(error, file=sys.stderr)
    raise SystemExit(2) from None


def _create_app() -> ASGIApp:
    # Only now: who imports `echo.websocket` alone need not load the service.
    from echo.application import create_app

    for line in unknown_variables(os.environ):
        logging.getLogger("echo").warning(line)
    # The app beneath Quart's own __call__, which would only stand between.
    return create_app(_settings).asgi_app


app = GuestApp(_create_app)
"""The ASGI application; made when it is first called, under Trio or asyncio."""
