"""What goes through an open WebSocket, and how it ends.

The echo is asked by trio-websocket, a client as programs use it; where single frames matter, by
the doctor's own session.
"""

from __future__ import annotations

import os
import random
from typing import Any, Final

import trio
import trio_websocket
from wsproto.events import Ping

from echo.doctor.case import Case
from echo.doctor.causes import service as causes
from echo.doctor.refusals import explain
from echo.doctor.report import Cause, Finding, failed, ok, shown, skipped, warning
from echo.doctor.session import Closed
from echo.doctor.wire import Response, Trouble

MIB: Final = 1024 * 1024
_STRANGERS_LIMIT: Final = 2.0  # seconds; most servers that are not Echo do not echo
_FRAGMENTS: Final = ("in ", "three ", "pieces \N{SNOWMAN}")

MESSAGES: Final[dict[str, str | bytes]] = {
    "text": "h\N{LATIN SMALL LETTER E WITH ACUTE}llo \N{SNOWMAN}",
    "binary": bytes(range(256)),
    "an empty one": "",
    "1 MiB": random.Random(1).randbytes(MIB),
}


async def echo(case: Case) -> Finding:
    """Do messages come back as they were sent?"""
    came: list[str] = []
    finding: list[Finding] = []

    async def talk() -> None:
        async with case.wire.open() as stream, trio.open_nursery() as nursery:
            client = await _client(case, nursery, stream)
            for name, message in MESSAGES.items():
                stranger = not case.echo and not came
                with trio.move_on_after(
                    min(case.options.limit, _STRANGERS_LIMIT) if stranger else case.options.limit
                ) as scope:
                    await client.send_message(message)
                    if await client.get_message() == message:
                        came.append(name)
                        continue
                if stranger:
                    finding.append(skipped("messages do not come back: not a service that echoes"))
                elif scope.cancelled_caught:
                    finding.append(failed(f"{name} does not come back", causes.SILENT))
                else:
                    finding.append(failed(f"{name} comes back changed", causes.ALTERED))
                break
            nursery.cancel_scope.cancel()

    try:
        await talk()
    except BaseExceptionGroup as group:
        # trio-websocket's reader runs in the nursery, and its errors come in a group.
        finding.append(_ended(case, group, [*MESSAGES][len(came)]))
    if finding:
        case.echoes = bool(came)
        return finding[0]
    case.echoes = True
    return ok(f"{', '.join(came)} come back as they were sent")


async def _client(case: Case, nursery: trio.Nursery, stream: Any) -> Any:
    headers = [(b"Origin", case.origin.encode())] if case.origin_needed else []
    with trio.move_on_after(case.options.limit):
        return await trio_websocket.wrap_client_stream(
            nursery,
            stream,
            case.target.authority,
            case.target.path,
            extra_headers=headers,
            max_message_size=2 * MIB,
        )
    raise Trouble(causes.SILENT, f"no answer to a handshake within {case.options.limit:g} s")


def _ended(case: Case, group: BaseExceptionGroup[BaseException], name: str) -> Finding:
    """What a failure of trio-websocket means."""
    failures = group.split(trio.Cancelled)[1]
    error: BaseException | None = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if not isinstance(error, Exception):
        raise group
    if isinstance(error, Trouble):
        raise error
    if isinstance(error, trio_websocket.ConnectionRejected):
        raise _unopened(case, Response(error.status_code, {}, error.body or b""))
    if not isinstance(error, trio_websocket.ConnectionClosed):
        # It has no error of its own for most of what a server may not do.
        return failed(f"trio-websocket gives up: {shown(repr(error), 120)}", causes.BROKEN)
    ended = error.reason
    code, words = (ended.code, shown(ended.reason or "")) if ended is not None else (1006, "")
    seen = f"{name}: the connection ends with {code} {words}".rstrip()
    if code == 1009 and name == "1 MiB":
        return warning(seen, causes.TOO_BIG)
    if code in {1002, 1007, 1009}:  # of ours: it is the server that broke the rules
        return failed(seen, causes.BROKEN)
    return failed(seen, causes.CUT)


async def fragments(case: Case) -> Finding:
    """Does a message in pieces come back, with a ping between them?"""
    async with case.dial() as dial:
        session = dial.session
        if session is None:
            raise _unopened(case, dial.response)
        try:
            await session.text(_FRAGMENTS[0], end=False)
            await session.send(Ping(payload=b"between"))
            await session.text(_FRAGMENTS[1], end=False)
            await session.text(_FRAGMENTS[2])
            back = await session.message()
        except Closed as closed:
            return failed(f"a message in three pieces ends the connection: {closed}", causes.CUT)
    if back != "".join(_FRAGMENTS):
        return failed("a message in three pieces comes back changed", causes.ALTERED)
    return ok("a message in three pieces comes back, a ping in between")


async def ping(case: Case) -> Finding:
    """Is a ping answered, and by the service itself?"""
    async with case.dial() as dial:
        session = dial.session
        if session is None:
            raise _unopened(case, dial.response)
        try:
            trips = [await session.ping(os.urandom(8)) for _ in range(3)]
            if not case.echoes:
                return ok(f"a pong with our payload after {min(trips) * 1000:.1f} ms")
            echoes = []
            for number in range(3):
                begun = trio.current_time()
                await session.text(str(number))
                await session.message()
                echoes.append(trio.current_time() - begun)
        except Closed as closed:
            return failed(f"the connection ends at a ping: {closed}", causes.PING_LOST)
    pong, back = min(trips) * 1000, min(echoes) * 1000
    seen = f"a pong with our payload after {pong:.1f} ms, an echo after {back:.1f} ms"
    # Whoever is nearer than the service answers sooner; below some ms that cannot be told apart.
    if back > 20 and pong < back / 3:
        return ok(f"{seen}: the pong may come from something in between")
    return ok(f"{seen}: end to end")


async def close(case: Case) -> Finding:
    """Do the close code and the reason arrive, from us and from the service?"""
    async with case.dial() as dial:
        if dial.session is None:
            raise _unopened(case, dial.response)
        ours = await dial.session.close(4000, "doctor")
    if ours.code == 1006:
        return failed("our close frame is not answered: 1006", causes.CLOSE_LOST)
    if not case.echo or not case.echoes:
        return ok(f"our 4000 is answered with {ours}")
    if (ours.code, ours.reason) != (4000, "doctor"):
        return failed(f"our 4000 'doctor' is answered with {ours}", causes.CLOSE_ALTERED)
    async with case.dial() as dial:
        if dial.session is None:
            raise _unopened(case, dial.response)
        await dial.session.text("ServerClose")
        theirs = await dial.session.closed()
    if theirs.code == 1006:
        return failed("the service's close frame does not arrive: 1006", causes.CLOSE_LOST)
    if (theirs.code, theirs.reason) != (1000, "Closing from Server"):
        return failed(
            f"the service's 1000 'Closing from Server' arrives as {theirs}", causes.CLOSE_ALTERED
        )
    return ok("code and reason arrive in both directions")


async def idle(case: Case) -> Finding:
    """Does a socket live on when nothing is sent?"""
    wanted = case.options.idle
    if not wanted:
        return skipped("asked for with --idle SECONDS")
    begun = trio.current_time()
    async with case.dial() as dial:
        session = dial.session
        if session is None:
            raise _unopened(case, dial.response)
        try:
            with trio.move_on_after(wanted):
                while True:
                    await session.event()
        except Closed as closed:
            lived = f"{trio.current_time() - begun:.1f} s"
            pings = f"{_pings(session.pings)} came from the service until then"
            if closed.code == 1006:
                return failed(f"cut after {lived} without a close frame; {pings}", causes.IDLE_CUT)
            return failed(f"closed after {lived} with {closed}; {pings}", causes.IDLE_CLOSED)
        # A connection that was cut without a word shows only when it is used.
        try:
            await session.ping(b"still there")
        except (Closed, Trouble):
            return failed(f"dead after {wanted:g} s, without a word", causes.IDLE_CUT)
    return ok(f"open after {wanted:g} s; {_pings(session.pings)} came from the service")


def _pings(count: int) -> str:
    return {0: "no ping", 1: "one ping"}.get(count, f"{count} pings")


def _unopened(case: Case, answer: Any) -> Trouble:
    cause: Cause = explain(answer, tls=bool(case.target.tls))
    return Trouble(cause, f"a further handshake is answered {answer.status}")
