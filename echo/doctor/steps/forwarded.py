"""What the service sees of its client: the address, the scheme, the host.

A proxy has to say all three, and to overwrite what a client claims of them; so the service is
asked as usual, with false claims, and over a WebSocket.
"""

from __future__ import annotations

import json
from typing import Any, Final

from echo.doctor.case import Case, is_loopback, parsed_address
from echo.doctor.causes import service as causes
from echo.doctor.report import Cause, Finding, failed, ok, shown, warning
from echo.doctor.session import Closed
from echo.doctor.wire import Trouble

CLAIMED_ADDRESS: Final = "198.51.100.77"  # RFC 5737: nobody's
CLAIMED_HOST: Final = "doctor.invalid"
_SECURE: Final = {"https", "wss"}


def _claims(scheme: str) -> list[tuple[str, str]]:
    return [
        ("X-Forwarded-For", CLAIMED_ADDRESS),
        ("X-Real-IP", CLAIMED_ADDRESS),
        ("X-Forwarded-Proto", scheme),
        ("X-Forwarded-Host", CLAIMED_HOST),
        ("Forwarded", f"for={CLAIMED_ADDRESS};proto={scheme};host={CLAIMED_HOST}"),
    ]


async def _asked(case: Case, *headers: tuple[str, str]) -> dict[str, Any]:
    answer = await case.wire.get("/whoami", *headers)
    try:
        said = json.loads(answer.body)
    except (ValueError, RecursionError):
        said = None
    if answer.status != 200 or not isinstance(said, dict):
        raise Trouble(causes.WHOAMI_LOST, f"/whoami is answered {answer.status}")
    return said


async def _asked_by_socket(case: Case, *headers: tuple[str, str]) -> dict[str, Any] | None:
    """The same over a WebSocket; None if /whoami is none here."""
    try:
        async with case.dial("/whoami", headers=headers) as dial:
            if dial.session is None:
                return None
            said = json.loads(await dial.session.message())
    except (ValueError, RecursionError, Closed, Trouble):
        return None
    return said if isinstance(said, dict) else None


async def client(case: Case) -> Finding:
    """Does the service know the client's address, and only the true one?"""
    assert case.whoami is not None
    seen = case.whoami.get("client")
    own = case.wire.own_address
    for said in (
        await _asked(case, *_claims("https")),
        await _asked_by_socket(case, *_claims("wss")) or {},
    ):
        if _same(said.get("client"), CLAIMED_ADDRESS):
            return failed(
                f"we claim to be {CLAIMED_ADDRESS}, and the service believes it",
                causes.CLIENT_SPOOFED,
            )
    if seen is None:
        return failed("the service sees no address", causes.CLIENT_LOST)
    if is_loopback(seen) and not is_loopback(own):
        return failed(f"the service sees {shown(str(seen))}, we are {own}", causes.CLIENT_LOST)
    by_socket = await _asked_by_socket(case)
    if by_socket is not None and not _same(by_socket.get("client"), seen):
        return failed(
            f"over HTTP the service sees {shown(str(seen))}, "
            f"over a WebSocket {shown(str(by_socket.get('client')))}",
            causes.CLIENT_LOST,
        )
    if is_loopback(own) and not _same(seen, own):
        return warning(f"the service sees {shown(str(seen))}, we are {own}", causes.CLIENT_WRONG)
    return ok(f"the service sees {shown(str(seen))}, and believes no false claim")


def _same(one: object, other: object) -> bool:
    parsed = parsed_address(one)
    return parsed is not None and parsed == parsed_address(other)


async def scheme(case: Case) -> Finding:
    """Does the service know whether the client came over TLS?"""
    assert case.whoami is not None
    true = bool(case.target.tls)
    for way, said, claim in (
        ("HTTP", case.whoami, _asked),
        ("a WebSocket", await _asked_by_socket(case), _asked_by_socket),
    ):
        if said is None:
            continue
        seen = said.get("scheme") in _SECURE
        opposite = "http" if seen else "https"
        claimed = await claim(case, *_claims(opposite)) or said
        believed = (claimed.get("scheme") in _SECURE) != seen
        words = f"over {way} the service sees {shown(str(said.get('scheme')))}"
        if seen != true:
            return failed(f"{words}, though we came {_with_tls(true)}", _wrong(said, believed))
        if believed:
            return failed(f"{words}, but believes us if we claim {opposite}", causes.PROTO_SPOOFED)
    return ok(f"the service knows that we came {_with_tls(true)}")


def _wrong(said: dict[str, Any], believed: bool) -> Cause:
    """A claim that gets through was overwritten by nobody: the proxy says nothing itself."""
    missing = believed or said.get("forwarded") is not True
    return (
        causes.PROTO_MISSING
        if missing and said.get("scheme") not in _SECURE
        else (causes.PROTO_WRONG)
    )


def _with_tls(secure: bool) -> str:
    return "over TLS" if secure else "without TLS"


async def host(case: Case) -> Finding:
    """Does the service know which host the client asked for?"""
    assert case.whoami is not None
    asked, seen = case.target.authority.lower(), str(case.whoami.get("host")).lower()
    if _name(seen) != _name(asked):
        return failed(f"we asked {asked}, the service sees {shown(seen)}", causes.HOST_LOST)
    claimed = await _asked(case, *_claims("https"))
    if _name(str(claimed.get("host"))) == CLAIMED_HOST:
        return failed(
            f"we claim X-Forwarded-Host: {CLAIMED_HOST}, and the service believes it",
            causes.HOST_SPOOFED,
        )
    if seen != asked:
        return ok(f"the service sees {shown(seen)}, without the port")
    return ok(f"the service sees {shown(seen)}")


def _name(authority: str) -> str:
    """Without the port."""
    name, colon, port = authority.rpartition(":")
    return name if colon and port.isdigit() and not name.endswith(":") else authority
