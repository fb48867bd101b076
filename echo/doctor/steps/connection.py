"""The first steps: the name, the port, TLS."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import trio

from echo.doctor.case import Case, is_loopback
from echo.doctor.causes import connection as causes
from echo.doctor.report import Cause, Finding, failed, ok, shown, skipped, warning
from echo.doctor.wire import Trouble, Wire, tls_trouble

_MOST_ADDRESSES: Final = 8
_SOON: Final = 21  # days; certbot renews 30 days ahead

_GUESSES: Final = {443: True, 80: False}
"""The ports to try for a bare host, and whether they have TLS."""

_BY_VERIFY_CODE: Final[dict[int, Cause]] = {
    9: causes.CERTIFICATE_EARLY,
    10: causes.CERTIFICATE_EXPIRED,
    18: causes.CERTIFICATE_SELF_SIGNED,
    62: causes.CERTIFICATE_NAME,
    64: causes.CERTIFICATE_NAME,
}
"""OpenSSL's X509_V_ERR_*; the rest is about the chain."""


async def address(case: Case) -> Finding:
    """Does the name have addresses?"""
    target = case.target
    if target.unix:
        return skipped("a unix socket has no name to look up")
    try:
        ipaddress.ip_address(target.host)
    except ValueError:
        pass
    else:
        case.addresses = [target.host]
        return ok("the URL has an address, no name")
    with trio.move_on_after(case.options.limit) as scope:
        try:
            found = await trio.socket.getaddrinfo(
                target.host, target.port or 80, type=trio.socket.SOCK_STREAM
            )
        except OSError as error:
            return failed(
                f"{target.host}: {shown(error.strerror or str(error))}", causes.NAME_UNKNOWN
            )
    if scope.cancelled_caught:
        return failed(
            f"{target.host}: no answer from the name server within {case.options.limit:g} s",
            causes.NAME_UNKNOWN,
        )
    case.addresses = list(dict.fromkeys(str(each[4][0]) for each in found))[:_MOST_ADDRESSES]
    return ok(f"{target.host} is {', '.join(case.addresses)}")


async def tcp(case: Case) -> Finding:
    """Does the port take connections, at each address?"""
    target = case.target
    begun = trio.current_time()
    if target.unix:
        await trio.aclose_forcefully(await case.wire.connect())
        case.connected = True
        return ok(f"unix:{target.unix} takes connections")
    if not case.addresses:
        return skipped("needs an address")
    results: dict[str, Trouble | None] = {}
    guesses = {target.port: target.tls} if target.port is not None else _GUESSES
    for port, tls in guesses.items():
        case.learn(replace(target, port=port, tls=tls))
        results = await _try_all(case)
        if None in results.values():
            break
    alive = [each for each, trouble in results.items() if trouble is None]
    if not alive:
        # Of several the one that says most: someone refused.
        troubles = [each for each in results.values() if each is not None]
        best = min(troubles, key=lambda each: each.cause is not causes.REFUSED)
        return failed(best.seen, best.cause)
    case.wire.address = alive[0]
    case.connected = True
    where = f"port {case.target.port}"
    dead = [
        each
        for each, trouble in results.items()
        if trouble is not None and trouble.cause is not causes.NO_ROUTE and not is_loopback(each)
    ]
    if dead:
        return warning(f"{where} takes connections at {alive[0]}, not at {', '.join(dead)}",
                       causes.ADDRESS_DEAD)  # fmt: skip
    took = (trio.current_time() - begun) * 1000
    return ok(f"{where} takes connections, {took:.0f} ms")


async def _try_all(case: Case) -> dict[str, Trouble | None]:
    """What comes of a connection to each address, in the order of the addresses."""
    results: dict[str, Trouble | None] = dict.fromkeys(case.addresses)

    async def attempt(one: str) -> None:
        try:
            wire = Wire(case.target, case.options.limit, address=one)
            await trio.aclose_forcefully(await wire.connect())
        except Trouble as trouble:
            results[one] = trouble

    async with trio.open_nursery() as nursery:
        for each in case.addresses:
            nursery.start_soon(attempt, each)
    return results


async def tls(case: Case) -> Finding:
    """Is there TLS, and does a browser accept the certificate?"""
    target, context = case.target, case.options.tls
    if target.tls is False:
        return skipped("a unix socket" if target.unix else "the URL says plain HTTP")
    finding: Finding
    try:
        finding = await _accepted(case, context)
    except ssl.SSLCertVerificationError as error:
        finding = await _refused(case, context, error)
    except ssl.SSLError as error:
        trouble = tls_trouble(error)
        if target.tls is None:
            case.learn(replace(target, tls=False))
            return skipped("the port speaks plain HTTP")
        case.connected = False
        return failed(trouble.seen, trouble.cause)
    except Trouble as trouble:
        if target.tls is None:  # it may wait for HTTP
            case.learn(replace(target, tls=False))
            return skipped("the port does not answer to TLS; plain HTTP is tried")
        case.connected = False
        raise
    case.learn(replace(target, tls=True))
    return finding


async def _accepted(case: Case, context: ssl.SSLContext) -> Finding:
    transport = await case.wire.connect()
    try:
        stream: Any = await case.wire.secure(transport, context)
        version, certificate = stream.version(), stream.getpeercert()
    finally:
        await trio.aclose_forcefully(transport)
    case.wire.tls = context
    if not certificate:
        return ok(f"{version}; the certificate was not looked at (--no-verify)")
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
    days = (ends - datetime.now(UTC)).days
    seen = f"{version}, certificate for {case.target.host}{_issuer(certificate)}, {days} days left"
    if days < _SOON:
        return warning(f"{seen} (until {ends:%Y-%m-%d})", causes.CERTIFICATE_EXPIRES)
    return ok(seen)


async def _refused(
    case: Case, context: ssl.SSLContext, error: ssl.SSLCertVerificationError
) -> Finding:
    """The certificate is not accepted: say why, and go on as if it were."""
    case.wire.tls = _blind()
    cause = _BY_VERIFY_CODE.get(error.verify_code, causes.CERTIFICATE_CHAIN)
    seen = shown(error.verify_message or str(error), 160).rstrip(".")
    if cause is causes.CERTIFICATE_NAME and (names := await _names(case, context)):
        seen = f"the certificate is for {names}, not for {case.target.host}"
    return failed(seen, cause)


async def _names(case: Case, context: ssl.SSLContext) -> str:
    """Whose certificate it is; "" if it cannot be told."""
    context.check_hostname = False
    try:
        transport = await case.wire.connect()
        try:
            stream: Any = await case.wire.secure(transport, context)
            names = [str(name) for _, name in stream.getpeercert().get("subjectAltName", ())]
        finally:
            await trio.aclose_forcefully(transport)
    except (ssl.SSLError, Trouble):
        return ""
    finally:
        context.check_hostname = True
    return shown(", ".join(names), 120)


def _blind() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _issuer(certificate: dict[str, Any]) -> str:
    fields = {name: value for part in certificate.get("issuer", ()) for name, value in part}
    name = fields.get("organizationName") or fields.get("commonName")
    return f" by {shown(name, 40)}" if name else ""
