"""The hub layer: calls between clients and server in SignalR's wire protocol."""
