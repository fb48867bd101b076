"""The names of Quart-Trio that `echo.websocket.quart` touches."""

from __future__ import annotations

import inspect

from quart.asgi import ASGIWebsocketConnection
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIWebsocketConnection


def test_a_connection_reads_messages_with_a_nursery_and_the_servers_receive() -> None:
    parameters = list(inspect.signature(TrioASGIWebsocketConnection.handle_messages).parameters)
    assert parameters in (
        ["self", "nursery", "receive"],  # 0.12
        ["self", "nursery", "websocket", "receive"],  # 0.13
    )


def test_a_connection_runs_its_route_with_a_websocket_and_the_servers_send() -> None:
    parameters = list(inspect.signature(ASGIWebsocketConnection.handle_websocket).parameters)
    assert parameters == ["self", "websocket", "send"]
    created = TrioASGIWebsocketConnection._create_websocket_from_scope
    assert list(inspect.signature(created).parameters) == ["self", "send"]


def test_an_app_lets_its_connections_be_replaced() -> None:
    assert QuartTrio.asgi_websocket_class is TrioASGIWebsocketConnection
