"""Options are refused when they are made, by name and with their range."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from echo.websocket import WebSocketOptions


def test_the_defaults_are_good() -> None:
    options = WebSocketOptions()
    assert all(getattr(options, each.name) == each.default for each in dataclasses.fields(options))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[
            (name, value)
            for name in (
                "keep_alive_interval",
                "keep_alive_timeout",
                "send_timeout",
                "close_timeout",
            )
            for value in (0, -1, math.inf, math.nan, "1")
        ],
        ("send_timeout", None),
        ("close_timeout", None),
        *[
            (name, value)
            for name in (
                "receive_buffer_size",
                "inbox_size",
                "max_message_size",
                "send_buffer_size",
            )
            for value in (0, -1, 1.5, None, "1", True)
        ],
        ("server_max_window_bits", 8),
        ("server_max_window_bits", 16),
        ("shutdown_code", 1000),
        ("allowed_origins", "https://example.org"),
        ("allowed_origins", ("example.org",)),
        ("allowed_origins", ("https://example.org/",)),
        ("allowed_origins", ("https://example.org/path",)),
        ("allowed_origins", ("https://",)),
    ],
)
def test_a_value_out_of_its_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        WebSocketOptions(**{name: value})


@pytest.mark.parametrize(
    "values",
    [
        {"keep_alive_interval": None, "keep_alive_timeout": None},
        {"keep_alive_interval": 1, "close_timeout": 0.001},
        {"receive_buffer_size": 1, "inbox_size": 1, "send_buffer_size": 1},
        {"server_max_window_bits": 9, "shutdown_code": 1012},
        {"allowed_origins": ("*", "null", "https://Example.org", "http://[::1]:8080")},
    ],
)
def test_values_in_their_range_are_taken(values: dict[str, Any]) -> None:
    options = WebSocketOptions(**values)
    assert all(getattr(options, name) == value for name, value in values.items())


def test_options_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        WebSocketOptions().inbox_size = 1  # type: ignore[misc]
