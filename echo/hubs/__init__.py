"""Hubs: calls between clients and server in SignalR's wire protocol, for Quart-Trio apps."""

from __future__ import annotations

from echo.hubs.clients import CallerClients, GroupManager, HubClients, HubContext
from echo.hubs.context import CallerContext
from echo.hubs.errors import (
    ClientDisconnected,
    ClientTimeout,
    HubError,
    SlowClient,
    UploadError,
    UsageError,
)
from echo.hubs.filters import HubFilter, HubInvocation
from echo.hubs.hub import Hub, authorize, hub_method
from echo.hubs.mapping import map_connection, map_hub
from echo.hubs.options import HubOptions
from echo.hubs.protocol import EncodingError, ProtocolError

__all__ = [
    "CallerClients",
    "CallerContext",
    "ClientDisconnected",
    "ClientTimeout",
    "EncodingError",
    "GroupManager",
    "Hub",
    "HubClients",
    "HubContext",
    "HubError",
    "HubFilter",
    "HubInvocation",
    "HubOptions",
    "ProtocolError",
    "SlowClient",
    "UploadError",
    "UsageError",
    "authorize",
    "hub_method",
    "map_connection",
    "map_hub",
]
