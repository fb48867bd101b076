"""The order of the steps, and the one loop that takes them.

A step that cannot be asked is skipped with the reason; one that meets trouble has failed with its
cause. The deadline is for all of them: whatever a server does, there is a report in time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import trio

from echo.doctor.case import (
    Case,
    Options,
    Step,
    answers,
    connection,
    echo,
    handshake,
    messages,
    outside,
    page,
    service,
    whoami,
)
from echo.doctor.causes import connection as causes
from echo.doctor.report import Finding, Report, failed, shown, skipped
from echo.doctor.session import Closed
from echo.doctor.steps import connection as connecting
from echo.doctor.steps import forwarded, server, talking
from echo.doctor.steps import handshake as shaking
from echo.doctor.target import Target
from echo.doctor.wire import Trouble

STEPS: Final = (
    Step("address", connecting.address),
    Step("tcp", connecting.tcp),
    Step("tls", connecting.tls, (connection,)),
    Step("server", server.server, (connection,)),
    Step("page", server.page, (page,)),
    Step("handshake", shaking.handshake, (answers,)),
    Step("answer", shaking.answer, (handshake,)),
    Step("origin", shaking.origins, (handshake,)),
    Step("subprotocol", shaking.subprotocol, (handshake,)),
    Step("compression", shaking.compression, (handshake,)),
    Step("echo", talking.echo, (handshake,)),
    Step("fragments", talking.fragments, (handshake, messages)),
    Step("ping", talking.ping, (handshake,)),
    Step("close", talking.close, (handshake,)),
    Step("dials", shaking.dials, (handshake,)),
    Step("client", forwarded.client, (service, echo, whoami, outside)),
    Step("scheme", forwarded.scheme, (service, echo, whoami, outside)),
    Step("host", forwarded.host, (service, echo, whoami)),
    Step("events", server.events, (service, echo)),
    Step("h2c", server.h2c, (page,)),
    Step("http2", server.http2, (connection,)),
    Step("health", server.health, (service, echo)),
    Step("idle", talking.idle, (handshake,)),
)


async def examine(
    target: Target,
    options: Options,
    begins: Callable[[str], None] = lambda name: None,
    ends: Callable[[Finding], None] = lambda finding: None,
    *,
    steps: Sequence[Step] = STEPS,
) -> Report:
    """Take the steps; `begins` and `ends` hear of each as it goes."""
    case = Case(target, options)
    report = Report(str(target))
    begun = trio.current_time()
    with trio.move_on_at(begun + options.deadline + options.idle) as deadline:
        for step in steps:
            begins(step.name)
            since = trio.current_time()
            finding = await _take(step, case)
            report.url, report.front = str(case.target), case.front
            took = trio.current_time() - since
            report.findings.append(_placed(finding, step.name, took, case))
            ends(report.findings[-1])
    if deadline.cancelled_caught:
        _run_out(report, case, ends, steps[len(report.findings) :])
    report.seconds = trio.current_time() - begun
    return report


async def _take(step: Step, case: Case) -> Finding:
    for need in step.needs:
        reason = need(case)
        if reason is not None:
            return skipped(reason)
    try:
        return await step.ask(case)
    except Trouble as trouble:
        return failed(trouble.seen, trouble.cause)
    except Closed as closed:
        return failed(f"the connection ends: {closed}", causes.ENDED_EARLY)
    except Exception as error:
        # The examination goes on: the other findings are worth having.
        return failed(shown(repr(error), 160), causes.INTERNAL)


def _placed(finding: Finding, name: str, seconds: float, case: Case) -> Finding:
    cause = finding.cause and finding.cause.at(
        path=case.target.location, host=case.target.host, origin=case.origin
    )
    return replace(finding, name=name, seconds=seconds, cause=cause)


def _run_out(
    report: Report, case: Case, ends: Callable[[Finding], None], left: Sequence[Step]
) -> None:
    """The step that was being taken has failed, those behind it were not taken."""
    finding = failed(f"the {case.options.deadline:g} s for all steps are over", causes.DEADLINE)
    for step in left:
        report.findings.append(_placed(finding, step.name, 0.0, case))
        ends(report.findings[-1])
        finding = skipped("the time is over")
