"""The command line: `python -m echo`, which serves unless another command is named.

Options are settings by another name: an option is held to the rule of its setting and stands in
for its variable. Errors of the person who types are one line: 2 for a wrong value, 1 if the
service could not run.
"""

import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from functools import partial
from socket import socket
from typing import Any, NoReturn

import click

from echo.doctor.command import doctor
from echo.publish import publish
from echo.settings import Settings, SettingsError, rule_of, unknown_variables, variable

logger = logging.getLogger("echo")


class ServeByDefault(click.Group):
    """A group whose command `serve` need not be named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in {"--help", "--version"}):
            args = ["serve", *args]
        return super().parse_args(ctx, args)


class WithSettings(click.Command):
    """A command whose help names every setting."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Environment variables"):
            formatter.write_dl(
                [
                    (variable(each.name), f"{rule_of(each.name).allowed}; default {_shown(each)}")
                    for each in fields(Settings)
                ]
            )


def _shown(field: Field[Any]) -> str:
    """The default of a setting, as one would write it."""
    value = field.default
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(value) or "empty"
    return f"{value:g}" if isinstance(value, float) else str(value)


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


@main.command(cls=WithSettings)
@setting("host", "Name or address to listen on.")
@setting("port", "TCP port; 0 takes a free one.")
@setting("workers", "Processes that share the port.")
@setting("log_level", "Least level to log: debug, info, warning, error, critical.")
@click.option("--config", metavar="FILE", help="TOML file with further options of Hypercorn.")
def serve(config: str | None, **options: str | None) -> None:
    """Serve until SIGTERM or Ctrl+C.

    SIGUSR1 is for a restart: it ends the service too, and tells clients that they may come back
    at once (close code 1012).

    Sockets that systemd hands over (LISTEN_FDS) take the place of host and port. --config reads
    what Hypercorn's own --config does; what a setting decides wins over it.

    Every setting is an environment variable; see the list below. Times are in seconds.
    """
    given = {variable(name): value for name, value in options.items() if value is not None}
    settings = _settings({**os.environ, **given})

    # Only now: these take their time, and a typing error should not.
    from echo.hosting import listeners, server, supervisor, systemd
    from echo.hosting.config import OptionsError, make_config

    server.leave_on_signals()
    server.set_up_logging(settings)
    for line in unknown_variables(os.environ):
        logger.warning(line)
    try:
        configuration = make_config(settings, config)
        sockets, places = _listen(settings)
    except OptionsError as error:
        _fail(str(error), 2)
    except listeners.ListenError as error:
        _fail(str(error), 1)
    _check_backplane(settings)
    if settings.workers > 1 and not settings.backplane:
        logger.warning(
            "%d processes and no backplane: what a hub sends reaches only the clients of one of "
            "them. Set ECHO_BACKPLANE=redis://...",
            settings.workers,
        )
    manager = systemd.Systemd.take(os.environ)
    environ = {**os.environ, **given}
    if configuration.ssl_enabled:
        places = places.replace("http://", "https://")
    several = f" in {settings.workers} processes" if settings.workers > 1 else ""

    def announce() -> None:
        click.echo(f"Echo runs on {places}{several}. Ctrl+C ends it.")

    if settings.workers == 1:
        descriptors = [each.detach() for each in sockets]
        _serve(settings, descriptors, config=configuration, announce=announce, manager=manager)
    elif not server.run(
        partial(
            supervisor.supervise,
            settings,
            [each.fileno() for each in sockets],
            environ,
            announce=announce,
            systemd=manager,
            arguments=["--config", config] if config is not None else [],
        )
    ):
        sys.exit(1)


def _check_backplane(settings: Settings) -> None:
    """What is wrong with its URL is better said before anything is started."""
    if settings.backplane:
        from echo.hubs.backplane.engine import parse_url

        try:
            parse_url(settings.backplane)
        except ValueError as error:
            _fail(f"{variable('backplane')}: {error}", 2)


def _listen(settings: Settings) -> tuple[list[socket], str]:
    """The listening sockets, and where they can be reached."""
    from echo.hosting import listeners, systemd

    if sockets := systemd.take_listeners(os.environ):
        return sockets, ", ".join(map(listeners.place_of, sockets))
    sockets = listeners.open_listeners(settings.host, settings.port)
    return sockets, listeners.url_of(settings.host, listeners.port_of(sockets))


@main.command(hidden=True)
@click.option("--config")
@click.argument("descriptors", type=int, nargs=-1, required=True)
def worker(config: str | None, descriptors: tuple[int, ...]) -> None:
    """One process of `serve --workers N`; started by it, with its listening sockets."""
    settings = _settings(os.environ)

    from echo.hosting import server, supervisor
    from echo.hosting.config import OptionsError, make_config

    server.leave_on_signals()
    server.set_up_logging(settings)
    try:
        configuration = make_config(settings, config)
    except OptionsError as error:
        _fail(str(error), 2)
    _serve(settings, list(descriptors), config=configuration, manager=supervisor.Supervisor())


def _serve(settings: Settings, descriptors: list[int], **options: Any) -> None:
    from hypercorn.utils import LifespanFailureError

    from echo.application import create_app
    from echo.hosting import guest, lifecycle, server

    life = lifecycle.Lifecycle()
    app = guest.GuestApp(lambda: create_app(settings, life))
    try:
        server.run(partial(server.serve, app, settings, descriptors, lifecycle=life, **options))
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


main.add_command(doctor)
main.add_command(publish)
