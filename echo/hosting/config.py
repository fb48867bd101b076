"""Hypercorn's configuration: a file of the operator's, and what our settings decide.

Hypercorn itself passes over what it does not know or cannot use; here a slip stops the start
with one line. The same file may serve Hypercorn's own command, so it may also hold what our
settings decide; then these win.
"""

from __future__ import annotations

import difflib
import logging
import tomllib
import typing
from typing import Any

from hypercorn.config import Config

from echo.hosting.listeners import BACKLOG
from echo.settings import Settings


class OptionsError(Exception):
    """A file of options cannot be used; `str()` is one line."""


def make_config(settings: Settings, path: str | None = None) -> Config:
    """Hypercorn's configuration, but for the sockets to listen on.

    Args:
        settings: what they decide wins over the file.
        path: of a TOML file with further options of Hypercorn, or None.

    Raises:
        OptionsError: the file cannot be read, is no TOML, has an option that is unknown or of
            the wrong type, or names another file that cannot be used.
    """
    config = Config.from_mapping(_read(path) if path is not None else {})
    config.backlog = BACKLOG
    config.graceful_timeout = settings.shutdown_timeout
    config.websocket_max_message_size = settings.max_message_size
    config.errorlog = logging.getLogger("hypercorn.error")  # as it is: no handler of its own
    config.insecure_bind, config.quic_bind = [], []
    # These are for Hypercorn's own command, and serving warns of them.
    config.debug, config.workers = False, 1
    if path is not None:
        _try(config, path)
    return config


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            options = tomllib.load(file)
    except OSError as error:
        raise OptionsError(f"Cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionsError(f"{path} is no TOML file: {error}") from error
    kinds = _kinds()
    for name, value in options.items():
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise OptionsError(f"{path}: Hypercorn has no option {name}{hint}")
        if not _fits(value, kinds[name]):
            raise OptionsError(f"{path}: {name} cannot be {value!r}")
    return options


def _kinds() -> dict[str, tuple[type, ...]]:
    """Every option, and the types its value may have: as its default or its annotation says."""
    hints = typing.get_type_hints(Config)
    kinds: dict[str, tuple[type, ...]] = {}
    for name in {**vars(Config), **hints}:
        default = getattr(Config, name, None)
        if name.startswith("_") or callable(default):
            continue
        if isinstance(default, property):
            if default.fset is not None and default.fget is not None:
                kinds[name] = (str, list)
        elif default is not None:
            kinds[name] = (type(default),)
        else:
            kinds[name] = typing.get_args(hints[name]) or (hints[name],)
    return kinds


def _fits(value: object, kinds: tuple[type, ...]) -> bool:
    if type(value) is int:  # which will do for any number, and for the enumerations of ssl
        return any(issubclass(kind, int | float) and kind is not bool for kind in kinds)
    if isinstance(value, list):
        return list in kinds and all(isinstance(each, str) for each in value)
    return type(value) in kinds


def _try(config: Config, path: str) -> None:
    """Open the files that are named in the file: at the first request it is too late."""
    try:
        _ = config.log
        config.create_ssl_context()
    except Exception as error:  # logging.config raises what it likes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OptionsError(f"{path}: a file that it names cannot be used: {reason}") from error
