"""An HTTP answer of a hub's endpoint, before it becomes the framework's response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echo.hubs.transports.sse import EventStream

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes | EventStream = b""
    content_type: str = "text/plain"
    headers: Headers = ()


def refuse(status: int, sentence: str, *headers: tuple[str, str]) -> Answer:
    """An answer whose text says why."""
    return Answer(status, sentence.encode(), headers=headers)
