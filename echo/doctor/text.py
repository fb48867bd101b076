"""The report for people: a line for each step as it is taken, and what to do about the rest.

On a terminal the running step shows too, and marks have colours; a pipe gets plain lines.
"""

from __future__ import annotations

import shutil
import textwrap
from typing import IO, Final

import click

from echo.doctor.report import Cause, Finding, Fix, Report, State

_MARKS: Final = {
    State.OK: ("\N{CHECK MARK}", "ok", "green"),
    State.WARNING: ("!", "!!", "yellow"),
    State.FAILED: ("\N{MULTIPLICATION X}", "XX", "red"),
    State.SKIPPED: ("\N{MIDDLE DOT}", "--", "bright_black"),
}
_INDENT: Final = 4
_NAME: Final = 13


class Printer:
    """Writes an examination to `out` while it runs.

    Args:
        colour: whether to use colours.
        live: whether `out` is a terminal, on which a line can be written again.
    """

    def __init__(self, out: IO[str], *, colour: bool, live: bool) -> None:
        self._out = out
        self._colour = colour
        self._live = live
        self._unicode = _can_encode(out, "".join(mark for mark, _, _ in _MARKS.values()))
        self._skipped: list[Finding] = []
        self._width = min(shutil.get_terminal_size().columns, 100) if live else 100

    def begin(self, url: str) -> None:
        self._line(self._style(f"Echo doctor: {url}", bold=True))
        self._line("")

    def step(self, name: str) -> None:
        """A step begins."""
        if self._live:
            self._out.write(f"\r\x1b[K  {self._style('…', fg='cyan')} {name}")
            self._out.flush()

    def finding(self, finding: Finding) -> None:
        """A step has ended. What is skipped for one reason shares a line."""
        if self._live:
            self._out.write("\r\x1b[K")
        if self._skipped and self._skipped[0].seen != finding.seen:
            self._skips()
        if finding.state is State.SKIPPED:
            self._skipped.append(finding)
            return
        mark, colour = self._mark(finding.state)
        lines = self._wrapped(finding.seen, _INDENT + _NAME)
        name = self._style(f"{finding.name:<{_NAME}}", bold=True)
        text = ("\n" + " " * (_INDENT + _NAME)).join(lines)
        self._line(f"  {self._style(mark, fg=colour)} {name}{text}")

    def _skips(self) -> None:
        mark, colour = self._mark(State.SKIPPED)
        reason = self._skipped[0].seen
        if len(self._skipped) == 1:
            text = f"{self._skipped[0].name:<{_NAME}}{reason}"
        else:
            text = f"{', '.join(each.name for each in self._skipped)}: {reason}"
        first, *rest = self._wrapped(text, _INDENT, keep=True)
        self._line(self._style(f"  {mark} {first}", fg=colour))
        for line in rest:
            self._line(self._style(" " * _INDENT + line, fg=colour))
        self._skipped.clear()

    def end(self, report: Report) -> None:
        """What is not well and how to mend it, and the sentence to remember."""
        if self._skipped:
            self._skips()
        told: set[str] = set()
        for finding in [*report.of(State.FAILED), *report.of(State.WARNING)]:
            cause = finding.cause
            if cause is not None and cause.id not in told:
                told.add(cause.id)
                names = [each.name for each in report.findings if each.cause == cause]
                self._advice(names, finding, cause, report.fixes(cause))
        self._line("")
        counts = [f"{len(found)} {state}" for state in State if (found := report.of(state))]
        colour = self._mark(report.first.state if report.first is not None else State.OK)[1]
        for line in self._wrapped(report.summary, 0):
            self._line(self._style(line, fg=colour, bold=True))
        self._line(self._style(f"{', '.join(counts)}; {report.seconds:.1f} s", fg="bright_black"))

    def _mark(self, state: State) -> tuple[str, str]:
        mark, plain, colour = _MARKS[state]
        return mark if self._unicode else plain, colour

    def _advice(self, names: list[str], finding: Finding, cause: Cause, fixes: list[Fix]) -> None:
        _, colour = self._mark(finding.state)
        self._line("")
        title = f"{', '.join(names)}: {cause.id}"
        self._line(self._style(title, fg=colour, bold=True))
        for line in self._wrapped(cause.why, 2):
            self._line(f"  {line}")
        for fix in fixes:
            where = f"{fix.program}: {fix.where}" if fix.program else fix.where
            first, *rest = self._wrapped(where, 2)
            self._line(f"  {self._style(first, fg='bright_black')}")
            for line in rest:
                self._line(f"  {self._style(line, fg='bright_black')}")
            for line in fix.lines:  # never wrapped: they are to be copied
                self._line(f"      {self._style(line, fg='cyan')}")

    def _wrapped(self, text: str, indent: int, *, keep: bool = False) -> list[str]:
        """Lines that fit; `keep` keeps runs of blanks, which columns are made of."""
        lines = textwrap.wrap(
            text if keep else " ".join(text.split()),
            max(self._width - indent, 30),
            break_long_words=False,
            break_on_hyphens=False,
        )
        return lines or [""]

    def _style(self, text: str, *, fg: str | None = None, bold: bool = False) -> str:
        return click.style(text, fg=fg, bold=bold or None) if self._colour else text

    def _line(self, text: str) -> None:
        self._out.write(
            f"{text}\n" if self._unicode else f"{text.encode('ascii', 'replace').decode()}\n"
        )
        self._out.flush()


def _can_encode(out: IO[str], text: str) -> bool:
    try:
        text.encode(getattr(out, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
