"""The command `doctor`. It imports what it needs only when it runs."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import ssl

    from echo.doctor.case import Options
    from echo.doctor.target import Target

_SECONDS = click.FloatRange(0.1, 86400)


@click.command()
@click.argument("url")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of the table.")
@click.option(
    "--idle",
    type=click.FloatRange(0, 86400),
    default=0.0,
    metavar="SECONDS",
    help="Keep a socket silent for so long, to find the proxy's read timeout.",
)
@click.option("--path", metavar="PATH", help="The WebSocket's path.  [default: the URL's, or /ws]")
@click.option("--origin", metavar="ORIGIN", help="Of the page that connects.  [default: the URL's]")
@click.option("--ca", type=click.Path(exists=True, dir_okay=False), metavar="FILE",
              help="Trust the certificates of this authority, in PEM.")  # fmt: skip
@click.option("--no-verify", is_flag=True, help="Do not look at the certificate.")
@click.option("--timeout", type=_SECONDS, default=10.0, metavar="SECONDS",
              help="For each answer.  [default: 10]")  # fmt: skip
@click.option("--deadline", type=_SECONDS, default=60.0, metavar="SECONDS",
              help="For all steps; --idle comes on top.  [default: 60]")  # fmt: skip
@click.option("--no-color", is_flag=True, help="No colours; NO_COLOR does the same.")
def doctor(url: str, as_json: bool, no_color: bool, **given: Any) -> None:
    """Examine the service at URL as its clients see it.

    URL is http://, https://, ws:// or wss://, host:port, or unix:/run/echo.sock for the service
    behind its proxy. Each step says what works; what does not comes with its cause, the line to
    add, and where.

    The exit code is 0 if nothing failed, 1 if something did, 2 if the command is wrong.
    """
    target, options = prepare(url, **given)

    import trio

    from echo.doctor.examination import examine
    from echo.doctor.text import Printer

    if as_json:
        report = trio.run(examine, target, options)
        click.echo(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
    else:
        live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        colour = live and not no_color and not os.environ.get("NO_COLOR")
        printer = Printer(sys.stdout, colour=colour, live=live)
        printer.begin(str(target))
        report = trio.run(examine, target, options, printer.step, printer.finding)
        printer.end(report)
    sys.exit(0 if report.healthy else 1)


def prepare(
    url: str,
    *,
    idle: float,
    path: str | None,
    origin: str | None,
    ca: str | None,
    no_verify: bool,
    timeout: float,
    deadline: float,
) -> tuple[Target, Options]:
    """What the command line asks for.

    Raises:
        click.UsageError: what is wrong with it.
    """
    from echo.doctor.case import Options
    from echo.doctor.target import TargetError, parse

    try:
        target = parse(url, path)
    except TargetError as error:
        raise click.UsageError(str(error)) from None
    if origin is not None and not re.fullmatch(r"[!-~]+", origin):
        raise click.BadParameter(f"{origin!r} is no origin", param_hint="--origin")
    context = _context(ca, verify=not no_verify)
    return target, Options(limit=timeout, deadline=deadline, idle=idle, origin=origin, tls=context)


def _context(ca: str | None, *, verify: bool) -> ssl.SSLContext:
    import ssl

    if ca is not None and not verify:
        raise click.UsageError("--ca and --no-verify exclude each other")
    try:
        context = ssl.create_default_context(cafile=ca)
    except (ssl.SSLError, OSError):
        raise click.BadParameter(f"{ca!r} holds no certificate in PEM", param_hint="--ca") from None
    # From Python 3.13 on this refuses certificates of small authorities that browsers accept.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
