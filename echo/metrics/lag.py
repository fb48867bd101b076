"""How late the event loop is: a task that sleeps a second and looks how long it was."""

from __future__ import annotations

import trio

from echo.websocket.counters import Histogram

INTERVAL = 1.0  # seconds


async def observe_lag(lag: Histogram) -> None:
    """Observe for ever by how much a sleep is too long. What stood still for a moment between two
    wakings is not seen, and what stood still for long is seen once."""
    while True:
        due = trio.current_time() + INTERVAL
        await trio.sleep_until(due)
        lag.observe(max(trio.current_time() - due, 0.0))
