"""The command `publish`: calls the clients of a hub on all of its servers, from a shell.

It imports what it needs only when it runs.
"""

from __future__ import annotations

import json
import logging
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from echo.hubs.clients import ClientProxy, HubClients


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--url", envvar="ECHO_BACKPLANE", help="Redis or Valkey.  [env ECHO_BACKPLANE]")
@click.option("--hub", help="Name of the hub: module and class.  [default: the hub at /hub]")
@click.option("--group", "groups", multiple=True, help="Only a group; may be repeated.")
@click.option("--user", "users", multiple=True, help="Only a user; may be repeated.")
@click.option("--client", "clients", multiple=True, help="Only a connection id; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Tell the outcome as JSON.")
@click.argument("target")
@click.argument("arguments", nargs=-1)
def publish(
    url: str | None,
    hub: str | None,
    groups: tuple[str, ...],
    users: tuple[str, ...],
    clients: tuple[str, ...],
    as_json: bool,
    target: str,
    arguments: tuple[str, ...],
) -> None:
    """Call TARGET on the clients of a hub, wherever they are connected.

    ARGUMENTS are JSON; what is no JSON is a text. Without --group, --user and --client all
    clients are called. A node is a process that serves the hub, ours or .NET's.

    Exit code: 0 if the backplane has taken it, 1 if not, 2 for a wrong option.
    """
    if sum(map(bool, (groups, users, clients))) > 1:
        raise click.UsageError("Choose one of --group, --user and --client.")
    if not url:
        raise click.UsageError("Name the backplane: --url redis://HOST, or set ECHO_BACKPLANE.")

    def chosen(hub: HubClients) -> ClientProxy:
        if groups:
            return hub.groups(groups)
        if users:
            return hub.users(users)
        return hub.clients(clients) if clients else hub.all

    import trio

    from echo.echohub import NAME
    from echo.hubs import EncodingError
    from echo.hubs.backplane import BackplaneError

    logging.getLogger("echo").addHandler(logging.NullHandler())  # we tell it ourselves
    values = [_value(each) for each in arguments]
    try:
        nodes = trio.run(partial(_publish, url, hub or NAME, chosen, target, values))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except (BackplaneError, EncodingError) as error:
        click.echo(json.dumps({"error": str(error)}) if as_json else error, err=not as_json)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps({"nodes": nodes}))
    elif nodes == 0:
        click.echo("Taken, but no node has such clients.")
    else:
        click.echo("Taken." if nodes is None else f"Taken, for {nodes} node{'s'[: nodes > 1]}.")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


async def _publish(
    url: str,
    hub: str,
    chosen: Callable[[HubClients], ClientProxy],
    target: str,
    values: list[Any],
) -> int | None:
    from echo.hubs.backplane.publisher import HubPublisher

    async with HubPublisher(url, hub) as publisher:
        await chosen(publisher).send(target, *values)
        return publisher.reached
