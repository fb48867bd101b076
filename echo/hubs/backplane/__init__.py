"""Backplanes: what makes the nodes of an app, processes and machines, one hub."""

from __future__ import annotations

from echo.hubs.backplane.backplane import Backplane, BackplaneError, BackplaneMetrics
from echo.hubs.backplane.lifetime import ScaleoutLifetime
from echo.hubs.backplane.memory import Exchange, MemoryBackplane

__all__ = [
    "Backplane",
    "BackplaneError",
    "BackplaneMetrics",
    "Exchange",
    "MemoryBackplane",
    "ScaleoutLifetime",
]
