"""What can go wrong in a hub, and how much of it clients are told.

A `HubError` is the app's word to a client and reaches it as it is. Of any other error a client
learns that there was one; its type and text only with `detailed_errors`. The types are named to
clients as .NET names its own, because clients and their tests look for these names.
"""

from __future__ import annotations

from typing import ClassVar

from echo.hubs.protocol import ProtocolError


class HubError(Exception):
    """An error whose text goes to the client: raise it in hub methods and filters.

    Also what `invoke()` on a client raises if the client answers with an error.
    """

    kind: ClassVar[str] = "HubException"
    """The name under which clients learn of the error; other types may have one too."""


class UploadError(HubError):
    """Iterating over a client's stream: it ended with an error, or the client is gone."""


class ClientDisconnected(Exception):
    """Asking a client for a result: it is not connected, or left before it answered."""

    kind = "IOException"


class ClientTimeout(Exception):
    """Why a connection ended: the client was silent for longer than `client_timeout`."""

    kind = "OperationCanceledException"


class SlowClient(Exception):
    """Why a connection ended: more than `outbox_size` bytes waited for the client."""


class UsageError(RuntimeError):
    """The app used a hub in a way that cannot work; the message says how."""

    kind = "InvalidOperationException"


def error_text(sentence: str, error: BaseException, *, detailed: bool) -> str:
    """What a client is told of `error`, which happened while what `sentence` says."""
    if not (detailed or isinstance(error, HubError)):
        return sentence
    name = "InvalidDataException" if isinstance(error, ProtocolError) else type(error).__name__
    text = f"{sentence} {getattr(error, 'kind', name)}: {error}"
    return text.encode(errors="replace").decode()  # half a character cannot be sent


def unwrapped(error: Exception) -> Exception:
    """The error itself, where nurseries have put it into groups of one."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
