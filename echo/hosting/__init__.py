"""The server around the service: how it starts, what it runs on, how it ends."""
