"""What carries a connection: WebSockets, server-sent events, long polling, and the way to them."""
