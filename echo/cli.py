"""The command line: `python -m echo`, which serves unless another command is named.

Options are settings by another name: an option is held to the rule of its setting and stands in
for its variable. Errors of the person who types are one line: 2 for a wrong value, 1 if the
service could not run.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn

import click

from echo.settings import Settings, SettingsError, rule_of, unknown_variables, variable

logger = logging.getLogger("echo")


class ServeByDefault(click.Group):
    """A group whose command `serve` need not be named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in {"--help", "--version"}):
            args = ["serve", *args]
        return super().parse_args(ctx, args)


def setting(name: str, help: str) -> Callable[[Any], Any]:
    """The option for the setting `name`, with the setting's rule."""
    rule = rule_of(name)

    def check(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
        try:
            if value is not None:
                rule.parse(value.strip())
        except (ValueError, KeyError):
            raise click.BadParameter(f"{value!r} is not {rule.allowed}") from None
        return value

    return click.option(
        "--" + name.replace("_", "-"),
        callback=check,
        metavar=name.rpartition("_")[2].upper(),
        help=f"{help}  [env {variable(name)}; default {getattr(Settings(), name)}]",
    )


@click.group(cls=ServeByDefault)
@click.version_option(package_name="echo-trio", prog_name="echo")
def main() -> None:
    """Echo: WebSockets on Trio. Without a command: serve."""


@main.command()
@setting("host", "Name or address to listen on.")
@setting("port", "TCP port; 0 takes a free one.")
@setting("workers", "Processes that share the port.")
@setting("log_level", "Least level to log: debug, info, warning, error, critical.")
def serve(**options: str | None) -> None:
    """Serve until SIGTERM or Ctrl+C.

    The other settings are environment variables: see echo/settings.py.
    """
    given = {variable(name): value for name, value in options.items() if value is not None}
    environ = {**os.environ, **given}
    settings = _settings(environ)

    # Only now: these take their time, and a typing error should not.
    from echo.hosting import listeners, server

    server.leave_on_signals()
    server.set_up_logging(settings)
    for line in unknown_variables(environ):
        logger.warning(line)
    try:
        sockets = listeners.open_listeners(settings.host, settings.port)
    except listeners.ListenError as error:
        _fail(str(error), 1)
    url = listeners.url_of(settings.host, listeners.port_of(sockets))
    several = f" in {settings.workers} processes" if settings.workers > 1 else ""

    def announce() -> None:
        click.echo(f"Echo runs on {url}{several}. Ctrl+C ends it.")

    if settings.workers == 1:
        _serve(settings, [each.detach() for each in sockets], announce=announce)
    else:
        descriptors = [each.fileno() for each in sockets]
        if not server.run(
            partial(server.supervise, settings, descriptors, environ, announce=announce)
        ):
            sys.exit(1)


@main.command(hidden=True)
@click.argument("descriptors", type=int, nargs=-1, required=True)
def worker(descriptors: tuple[int, ...]) -> None:
    """One process of `serve --workers N`; started by it, with its listening sockets."""
    settings = _settings(os.environ)

    from echo.hosting import server

    server.leave_on_signals()
    server.set_up_logging(settings)
    with server.worker_socket() as supervisor:

        def announce() -> None:
            # A supervisor that is gone by now is noticed where its end is waited for.
            with contextlib.suppress(OSError):
                supervisor.send(b"!")

        _serve(settings, list(descriptors), announce=announce, supervisor=supervisor)


def _serve(settings: Settings, descriptors: list[int], **options: Any) -> None:
    from hypercorn.utils import LifespanFailureError

    from echo.application import create_app
    from echo.hosting import guest, server

    app = guest.GuestApp(lambda: create_app(settings))
    try:
        server.run(partial(server.serve, app, settings, descriptors, **options))
    except BaseExceptionGroup as group:
        failures, others = group.split(LifespanFailureError)
        if failures is None or others is not None:
            raise
        # The application has logged the reason with its traceback.
        _fail(str(server.leaves(failures)[0]), 1)


def _settings(environ: Mapping[str, str]) -> Settings:
    try:
        return Settings.from_environ(environ)
    except SettingsError as error:
        _fail(str(error), 2)


def _fail(line: str, code: int) -> NoReturn:
    click.echo(line, err=True)
    sys.exit(code)
