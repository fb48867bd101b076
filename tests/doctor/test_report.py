"""What people and programs get to read."""

from __future__ import annotations

import io
import re

import pytest

from echo.doctor.causes import ALL
from echo.doctor.report import Cause, Finding, Fix, Report, State, failed, ok, shown, skipped
from echo.doctor.report import warning as warned
from echo.doctor.text import Printer

LOST = Cause("upgrade-lost", "It is lost.", (
    Fix("nginx", "in `location = /ws`", ("allow /ws for NAME from ORIGIN;",)),
    Fix("Caddy", "the Caddyfile", ("caddy line",)),
    Fix("", "by hand", ("do it",)),
))  # fmt: skip
LATE = Cause("late", "It is late.", (Fix("Echo", "echo.env", ("ECHO_X=1",)),))


def report(*findings: Finding, front: str = "") -> Report:
    return Report("http://example.org", front, 1.234, list(findings))


def text(report: Report, *, colour: bool = False, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding)
    printer = Printer(out, colour=colour, live=False)
    printer.begin(report.url)
    for each in report.findings:
        printer.finding(each)
    printer.end(report)
    out.flush()
    return raw.getvalue().decode(encoding)


def test_the_first_failure_is_the_one_to_begin_with() -> None:
    mixed = report(warned("a", LATE), ok("b"), failed("c", LOST), failed("d", LATE))
    assert mixed.first is mixed.findings[2]
    assert not mixed.healthy
    only = report(ok("b"), warned("a", LATE))
    assert only.first is only.findings[1]
    assert only.healthy
    assert only.summary == "It works, with a warning: It is late."
    assert report(ok("b")).summary == "All is well."
    assert report(ok("b")).first is None


def test_a_program_reads_everything_and_no_key_changes() -> None:
    said = report(ok("b"), failed("c", LOST), front="nginx").as_dict()
    assert said == {
        "version": 1,
        "url": "http://example.org",
        "ok": False,
        "summary": "Begin with : It is lost.",
        "cause": "upgrade-lost",
        "front": "nginx",
        "seconds": 1.234,
        "counts": {"ok": 1, "warning": 0, "failed": 1, "skipped": 0},
        "steps": [
            {
                "name": "",
                "state": "ok",
                "seen": "b",
                "seconds": 0.0,
                "cause": None,
                "why": None,
                "fixes": [],
            },
            {
                "name": "",
                "state": "failed",
                "seen": "c",
                "seconds": 0.0,
                "cause": "upgrade-lost",
                "why": "It is lost.",
                "fixes": [
                    {"program": fix.program or None, "where": fix.where, "lines": [*fix.lines]}
                    for fix in LOST.fixes
                ],
            },
        ],
    }


@pytest.mark.parametrize(
    ("front", "programs"),
    [("nginx", ["nginx", ""]), ("Caddy", ["Caddy", ""]), ("HAProxy", [""]),
     ("", ["nginx", "Caddy", ""]), ("hypercorn", ["nginx", "Caddy", ""])],
)  # fmt: skip
def test_advice_is_for_the_proxy_that_answers(front: str, programs: list[str]) -> None:
    fixes = report(failed("c", LOST), front=front).fixes(LOST)
    assert [fix.program for fix in fixes] == programs


def test_advice_has_the_names_of_the_case() -> None:
    cause = LOST.at(path="/chat", host="example.org", origin="https://example.org")
    assert cause.fixes[0].where == "in `location = /chat`"
    assert cause.fixes[0].lines == ("allow /chat for example.org from https://example.org;",)


def test_people_read_each_cause_once_with_all_its_steps() -> None:
    said = text(report(
        Finding(State.FAILED, "c", LOST, "handshake"),
        Finding(State.FAILED, "d", LOST, "origin"),
        Finding(State.WARNING, "e", LATE, "tls"),
    ))  # fmt: skip
    assert said.count("It is lost.") == 2  # and in the summary
    assert "\nhandshake, origin: upgrade-lost\n" in said
    assert said.index("upgrade-lost") < said.index("tls: late")
    assert said.endswith("Begin with handshake: It is lost.\n1 warning, 2 failed; 1.2 s\n")


def test_what_is_skipped_for_one_reason_shares_a_line() -> None:
    skips = [Finding(State.SKIPPED, "no door", name=name) for name in ("a", "b", "c")]
    other = Finding(State.SKIPPED, "no key", name="d")
    lines = text(report(*skips, other)).splitlines()
    assert "  · a, b, c: no door" in lines
    assert "  · d            no key" in lines


def test_lines_to_copy_are_never_wrapped_and_others_are() -> None:
    line = "proxy_set_header X " + "y" * 200 + ";"
    cause = Cause("long", "word " * 60, (Fix("nginx", "where " * 40, (line,)),))
    said = text(report(Finding(State.FAILED, "seen " * 60, cause, "step")))
    assert f"      {line}\n" in said
    assert all(len(each) <= 100 for each in said.splitlines() if line not in each)


def test_colours_are_only_there_if_wanted() -> None:
    one = report(Finding(State.FAILED, "c", LOST, "handshake"))
    assert "\x1b[31m" in text(one, colour=True)
    assert "\x1b" not in text(one)
    assert re.sub(r"\x1b\[\d+m", "", text(one, colour=True)) == text(one)


def test_a_terminal_without_unicode_gets_ascii() -> None:
    said = text(report(Finding(State.OK, "2 ≤ 3", name="a"), skipped("b")), encoding="ascii")
    assert "  ok a            2 ? 3\n" in said
    assert "  -- " in said


def test_what_a_server_said_is_made_fit_to_show() -> None:
    assert shown(b"a\x1b[31m\r\n\tb\xff") == "a [31m b\N{REPLACEMENT CHARACTER}"
    assert shown("x" * 100, 10) == "xxxxxxx..."
    assert shown("\u202edlrow") == "dlrow"  # the override of direction is not printable


def test_every_cause_has_an_id_of_its_own_and_something_to_do() -> None:
    for name, cause in ALL.items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
        assert cause.id == name
        assert cause.why.endswith(".")
        assert cause.fixes
        for fix in cause.fixes:
            assert fix.program in {"nginx", "Caddy", "HAProxy", "Echo", ""}
            assert fix.where
            assert fix.lines
