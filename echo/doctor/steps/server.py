"""Who answers by HTTP, and what must be right beside the WebSocket."""

from __future__ import annotations

import json
from typing import Any, Final

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import trio

from echo.doctor.case import Case
from echo.doctor.causes import connection, handshake, service
from echo.doctor.refusals import author_of, describe, explain, front_of
from echo.doctor.report import Finding, failed, ok, shown, skipped, warning
from echo.doctor.wire import Response, Trouble

_GATEWAY_ERRORS: Final = {502, 503, 504}
_TICKS: Final = 4
_SPREAD: Final = 0.4  # seconds; the events are sent over 0.75
_OTHER_LOOPBACK: Final = "127.0.0.2"
_H2C: Final = (
    ("Connection", "Upgrade, HTTP2-Settings"),
    ("Upgrade", "h2c"),
    ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
)


async def server(case: Case) -> Finding:
    """Who is there: Echo or something else, and behind which proxy?"""
    try:
        page = await case.wire.get(case.target.page)
    except Trouble as trouble:
        if trouble.cause is connection.NO_ANSWER or not await _opens(case):
            raise
        case.answers = True
        return ok("a server that answers nothing but WebSockets")
    case.answers = True
    case.page = page
    case.front = front_of(page)
    answers = [page]
    # A proxy that does not reach the service says so once; each further time would cost a wait.
    if page.status not in _GATEWAY_ERRORS:
        for path in (case.target.path, "/whoami"):
            try:
                answers.append(await case.wire.get(path))
            except Trouble:
                continue
        case.whoami = _json(answers[-1])
        case.echo = (
            case.whoami is not None
            or b"<title>Echo: WebSocket test page" in page.body
            or any(b"This is a WebSocket: the header 'Upgrade" in each.body for each in answers)
        )
    case.served = any(
        each.status not in _GATEWAY_ERRORS and not author_of(each) for each in answers
    )
    case.front = next(iter([each for each in map(front_of, answers) if each]), "")
    return ok(_who(case, page))


async def _opens(case: Case) -> bool:
    try:
        async with case.dial() as dial:
            return dial.session is not None
    except Trouble:
        return False


def _who(case: Case, page: Response) -> str:
    name = "" if case.front == "hypercorn" else case.front
    if case.echo:
        if case.proxied:
            return f"Echo, behind {name or 'a proxy'}"
        return "Echo itself" + (", on its unix socket" if case.target.unix else ", without a proxy")
    says = shown(page.headers.get("server", ""), 40)
    if not case.served:
        return f"{name or says or 'a server'}; what is behind it is not seen"
    return f"not Echo, as far as can be seen{f'; it says {says!r}' if says else ''}"


def _json(response: Response) -> dict[str, Any] | None:
    """Who we are, if this is an answer of /whoami."""
    if response.status != 200:
        return None
    try:
        said = json.loads(response.body)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) and {"client", "scheme", "host"} <= said.keys() else None


async def page(case: Case) -> Finding:
    """Is there a page for people?"""
    answer = case.page
    assert answer is not None
    text = answer.text
    if answer.status == 200:
        if "<title>Welcome to nginx!" in text or "Default Page</title>" in text:
            return failed("200, the default page of the web server", handshake.DEFAULT_SITE)
        if not answer.whole:
            return failed(f"200, but only {len(answer.body):,} bytes arrive", connection.BODY_CUT)
        kind = shown(answer.headers.get("content-type", "no content type").partition(";")[0], 40)
        whose = "Echo's page" if "<title>Echo: WebSocket" in text else f"{kind}, not Echo's page"
        return ok(f"200, {whose}, {len(answer.body):,} bytes")
    seen = f"GET {case.target.page} is answered {describe(answer)}"
    cause = explain(answer, tls=bool(case.target.tls))
    if 200 <= answer.status < 300:
        return ok(seen)
    if 300 <= answer.status < 400:
        return warning(seen, cause) if cause is handshake.REDIRECTED_TO_TLS else ok(seen)
    if answer.status >= 500 or answer.status in {401, 429} or cause is connection.TLS_UNEXPECTED:
        return failed(seen, cause)
    if case.echo:
        return failed(seen, handshake.PAGE_MISSING)
    if author_of(answer):
        return warning(seen, handshake.PAGE_MISSING)
    return skipped(f"{seen}: no page, which a WebSocket does not need")


async def events(case: Case) -> Finding:
    """Do server-sent events come one by one?"""
    answer = await _ticks(case)
    if answer.status == 404:
        return skipped(f"GET /ticks is answered {describe(answer)}")
    if answer.status != 200:
        return failed(
            f"GET /ticks is answered {describe(answer)}",
            explain(answer, tls=bool(case.target.tls)),
        )
    if _buffered(answer):
        answer = await _ticks(case)  # once more: this machine may have been busy
    plain = "content-encoding" not in answer.headers
    count = answer.text.count("data:") if plain else _TICKS
    if not answer.whole or count < _TICKS:
        return failed(f"{count} of {_TICKS} events arrive", service.SSE_CUT)
    first, last = (answer.arrivals[0], answer.arrivals[-1]) if answer.arrivals else (0.0, 0.0)
    if _buffered(answer):
        return failed(
            f"{_TICKS} events arrive within {(last - first) * 1000:.0f} ms of each other, "
            "though they are sent over 750 ms",
            service.SSE_BUFFERED,
        )
    return ok(f"{_TICKS} events arrive one by one, over {(last - first) * 1000:.0f} ms")


async def _ticks(case: Case) -> Response:
    # As a browser asks; a proxy that compresses the events may hold them back for it.
    accept = (("Accept", "text/event-stream"), ("Accept-Encoding", "gzip"))
    return await case.wire.get("/ticks", *accept)


def _buffered(answer: Response) -> bool:
    times = answer.arrivals
    return answer.whole and bool(times) and times[-1] - times[0] < _SPREAD


async def h2c(case: Case) -> Finding:
    """Is a change to HTTP/2 without TLS refused? It would tunnel past the proxy's rules."""
    for path in (case.target.path, case.target.page):
        async with case.wire.open() as stream:
            answer = await case.wire.exchange(stream, path, _H2C, body=False)
        if answer.status == 101:
            # nginx and HAProxy never follow it themselves; other servers may.
            if case.proxied and (case.echo or case.front in {"nginx", "HAProxy"}):
                where = path.partition("?")[0]
                return failed(f"`Upgrade: h2c` at {where} is answered 101", service.H2C)
            return ok("101 from the service itself; there are no rules of a proxy to go past")
    return ok(f"`Upgrade: h2c` is not followed ({answer.status})")


async def http2(case: Case) -> Finding:
    """Does HTTP/2 carry WebSockets (RFC 8441)? It is well if not: browsers use HTTP/1.1 then."""
    if not case.target.tls:
        return skipped("browsers speak HTTP/2 only over TLS")
    async with case.wire.open(alpn=("h2", "http/1.1")) as stream:
        chosen: Any = stream
        if chosen.selected_alpn_protocol() != "h2":
            return ok("no HTTP/2; browsers use HTTP/1.1")
        with trio.move_on_after(case.options.limit):
            carries = await _extended_connect(stream)
            if carries is None:
                return ok("HTTP/2 is chosen but not spoken; browsers use HTTP/1.1")
            return ok(
                "HTTP/2, and WebSockets over it"
                if carries
                else "HTTP/2, without WebSockets; for these browsers use HTTP/1.1"
            )
    return ok("HTTP/2 is chosen, but its settings do not come")


async def _extended_connect(stream: trio.abc.Stream) -> bool | None:
    """Whether the server's settings allow it; None if it breaks HTTP/2."""
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    peer.initiate_connection()
    received = 0
    try:
        await stream.send_all(peer.data_to_send())
        while received < 64 * 1024:
            data = bytes(await stream.receive_some(4096))
            received += len(data)
            for event in peer.receive_data(data):
                if isinstance(event, h2.events.RemoteSettingsChanged):
                    return bool(peer.remote_settings.enable_connect_protocol)
            if not data:
                break
    except (h2.exceptions.H2Error, trio.BrokenResourceError):
        pass
    return None


async def health(case: Case) -> Finding:
    """Are the health endpoints kept from the public?"""
    public = [path for path in ("/healthz", "/readyz") if await _tells(case, path)]
    if not public:
        return ok("/healthz and /readyz are not answered from here")
    seen = f"{' and '.join(public)} can be asked"
    if case.target.unix or not case.proxied:
        return ok(f"{seen}, by whoever reaches the service without a proxy")
    if not case.on_loopback:
        return failed(f"{seen} from {case.wire.own_address}", service.HEALTH_PUBLIC)
    # This machine itself may ask. Only a rule for exactly its address refuses another of them.
    try:
        if await _tells(case, public[0], source=_OTHER_LOOPBACK):
            return warning(
                f"{seen} from {_OTHER_LOOPBACK} too: look from another machine",
                service.HEALTH_PUBLIC,
            )
    except Trouble:  # there is no such address, or none for IPv6
        return ok(f"{seen} from this machine, which may; look from another one as well")
    return ok(f"{seen} from this machine only")


async def _tells(case: Case, path: str, source: str | None = None) -> bool:
    answer = await case.wire.get(path, source=source)
    try:
        said = json.loads(answer.body)
    except (ValueError, RecursionError):
        return False
    return answer.status in {200, 503} and isinstance(said, dict) and "status" in said
