"""The opening handshake: whether it works, for whom, and what is agreed in it."""

from __future__ import annotations

from collections import Counter
from typing import Final

import trio

from echo.doctor.case import Case
from echo.doctor.causes import handshake as causes
from echo.doctor.causes import service
from echo.doctor.refusals import author_of, describe, explain
from echo.doctor.report import Finding, failed, ok, shown
from echo.doctor.session import Closed, Dial
from echo.doctor.wire import Response, Trouble

FOREIGN: Final = "https://doctor.invalid"
SUBPROTOCOLS: Final = ("echo.doctor.one", "echo.doctor.two")
AT_ONCE: Final = 20


def refused(case: Case, answer: Response, what: str = "the handshake") -> Finding:
    return failed(
        f"{what} is answered {describe(answer)}", explain(answer, tls=bool(case.target.tls))
    )


async def handshake(case: Case) -> Finding:
    """Does the server switch to WebSocket?"""
    async with case.dial() as first:
        answer = first.response
    if answer.status == 403:
        # Who refuses what has no Origin is a browser's server, and well; who refuses the page's
        # own as well has its say in the step on origins.
        async with case.dial(origin=case.origin) as second:
            if second.session is not None:
                case.opens = case.origin_needed = case.served = True
                return ok("101, for requests with an Origin only")
    if answer.status != 101:
        return refused(case, answer)
    case.opens = case.served = True
    return ok(f"101 at {case.target.location}")


async def answer(case: Case) -> Finding:
    """Is the answer 101 the one to our key, with all that belongs to it? Else clients fail it."""
    finding = await _answer(case)
    case.opens = finding.cause is None
    return finding


async def _answer(case: Case) -> Finding:
    async with case.dial() as dial:
        headers = dial.response.headers
        if dial.session is None:
            return refused(case, dial.response, "a second handshake")
    accept = headers.get("sec-websocket-accept", "")
    if accept != dial.accept:
        got = f"is {shown(accept, 40)!r}" if accept else "is missing"
        return failed(f"Sec-WebSocket-Accept {got}, not {dial.accept!r}", causes.ACCEPT_WRONG)
    if headers.get("upgrade", "").lower() != "websocket":
        return failed(f"Upgrade is {shown(headers.get('upgrade', ''))!r}", causes.ANSWER_WRONG)
    if "upgrade" not in [each.strip().lower() for each in headers.get("connection", "").split(",")]:
        return failed(
            f"Connection is {shown(headers.get('connection', ''))!r}", causes.ANSWER_WRONG
        )
    for name in ("sec-websocket-protocol", "sec-websocket-extensions"):
        if headers.get(name):
            return failed(f"{name}: {shown(headers[name])}, unasked", causes.UNASKED)
    return ok("Sec-WebSocket-Accept is right")


async def dials(case: Case) -> Finding:
    """Are several sockets at once served, as after a restart?"""
    answers: Counter[int] = Counter()
    worst: list[Response | Trouble] = []
    settled = trio.Event()

    async def attempt() -> None:
        try:
            async with case.dial() as one:
                answers[one.response.status] += 1
                if one.session is None:
                    worst.append(one.response)
                if answers.total() == AT_ONCE:
                    settled.set()
                await settled.wait()  # all are open at the same time
        except Trouble as trouble:
            worst.append(trouble)
            answers[0] += 1
            if answers.total() == AT_ONCE:
                settled.set()

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(attempt)
    if not worst:
        return ok(f"{AT_ONCE} sockets open at the same time")
    first = worst[0]
    seen = f"only {answers[101]} of {AT_ONCE} sockets open at the same time"
    if isinstance(first, Trouble):
        return failed(f"{seen}: {first.seen}", causes.BURST)
    seen = f"{seen}: {describe(first)}"
    if first.status == 502:
        return failed(seen, causes.BURST)
    return failed(seen, explain(first, tls=bool(case.target.tls)))


async def origins(case: Case) -> Finding:
    """Whose pages may connect?"""
    async with case.dial(origin=case.origin) as own:
        if own.session is None:
            return _own_refused(case, own)
    async with case.dial(origin=FOREIGN) as foreign:
        if foreign.session is not None:
            return ok(f"pages of {case.origin} may connect, and those of any other site")
        if foreign.response.status != 403:
            return refused(case, foreign.response, f"the origin {FOREIGN}")
    return ok(f"pages of {case.origin} may connect, those of other sites get 403")


def _own_refused(case: Case, own: Dial) -> Finding:
    if own.response.status != 403:
        return refused(case, own.response, f"the origin {case.origin}")
    who = author_of(own.response) or "the service"
    return failed(f"the origin {case.origin} gets 403 from {who}", causes.ORIGIN_REFUSED)


async def subprotocol(case: Case) -> Finding:
    """Is one of the offered subprotocols chosen?"""
    async with case.dial(subprotocols=SUBPROTOCOLS) as dial:
        if dial.session is None:
            return refused(case, dial.response, "a handshake with subprotocols")
        chosen = dial.response.headers.get("sec-websocket-protocol")
    if chosen is None:
        if case.echo:
            return failed("none of the offered ones is chosen", causes.SUBPROTOCOL_LOST)
        return ok("none of the offered ones is chosen: this server knows others or none")
    if chosen not in SUBPROTOCOLS:
        return failed(f"{shown(chosen)!r} is chosen, which was not offered", causes.UNASKED)
    return ok("the first that was offered" if chosen == SUBPROTOCOLS[0] else "one that was offered")


async def compression(case: Case) -> Finding:
    """Is compression taken, and does it work?"""
    async with case.dial(deflate=True) as dial:
        if dial.session is None:
            return refused(case, dial.response, "a handshake with compression")
        taken = dial.response.headers.get("sec-websocket-extensions", "")
        if not taken:
            return ok("offered and not taken: off, which is well")
        if not dial.session.extensions:
            return failed(f"{shown(taken)!r} is taken, which was not offered", causes.UNASKED)
        if not case.echo:
            return ok(f"taken: {shown(taken)}")
        text = "compress me, " * 1000
        try:
            await dial.session.text(text)
            back = await dial.session.message()
        except Closed as error:
            return failed(f"a compressed message ends the connection: {error}", service.CUT)
    if back != text:
        return failed("a compressed message comes back changed", service.ALTERED)
    return ok(f"taken, and a message comes back: {shown(taken)}")
