"""What the doctor has to say: findings, their causes, and the report that a program can read.

Nothing here waits and nothing here prints. The ids of causes and the keys of the report are for
programs and stay; the sentences are for people and may get better.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

VERSION: Final = 1
"""Of the report; it grows when a key changes its meaning or goes."""

_PROXIES: Final = {"nginx", "Caddy", "HAProxy"}


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Fix:
    """What to do about a cause, in the language of one program."""

    program: str
    """nginx, Caddy, HAProxy, Echo, or "" for what is done by hand."""
    where: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cause:
    """Why something does not work, and what makes it work. `id` is stable."""

    id: str
    why: str
    fixes: tuple[Fix, ...] = ()

    def at(self, *, path: str, host: str, origin: str) -> Cause:
        """The same with the names of one case: the table has /ws, NAME and ORIGIN for them."""

        names = {"/ws": path, "NAME": host, "ORIGIN": origin}

        def put(text: str) -> str:
            # Whole words: not within ECHO_ALLOWED_ORIGINS, and not the directory /ws/.
            return re.sub(
                r"(?<= )/ws\b(?!/)|\bNAME\b|\bORIGIN\b", lambda found: names[found[0]], text
            )

        fixes = [
            replace(fix, where=put(fix.where), lines=tuple(map(put, fix.lines)))
            for fix in self.fixes
        ]
        return replace(self, fixes=tuple(fixes))


@dataclass(frozen=True, slots=True)
class Finding:
    """What one step found."""

    state: State
    seen: str
    """One sentence: what the server did, or why the step was skipped."""
    cause: Cause | None = None
    """Set if the state is warning or failed."""
    name: str = ""
    """The step's; set by the examination."""
    seconds: float = 0.0
    """How long the step took; set by the examination."""


def ok(seen: str) -> Finding:
    return Finding(State.OK, seen)


def warning(seen: str, cause: Cause) -> Finding:
    return Finding(State.WARNING, seen, cause)


def failed(seen: str, cause: Cause) -> Finding:
    return Finding(State.FAILED, seen, cause)


def skipped(why: str) -> Finding:
    return Finding(State.SKIPPED, why)


@dataclass(slots=True)
class Report:
    """The findings of one examination, in the order of the steps."""

    url: str
    front: str = ""
    """The program that answers in front of the service, if it is known: nginx, Caddy, HAProxy."""
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether nothing failed; warnings are allowed."""
        return not self.of(State.FAILED)

    def of(self, state: State) -> list[Finding]:
        return [each for each in self.findings if each.state is state]

    @property
    def first(self) -> Finding | None:
        """The finding to begin with: the first that failed, else the first warning.

        The steps build on each other, so the first that fails is the one that the later ones
        may only repeat.
        """
        return next(iter([*self.of(State.FAILED), *self.of(State.WARNING)]), None)

    @property
    def summary(self) -> str:
        """One sentence that names the first cause."""
        first = self.first
        if first is None or first.cause is None:
            return "All is well."
        if first.state is State.WARNING:
            return f"It works, with a warning: {first.cause.why}"
        return f"Begin with {first.name}: {first.cause.why}"

    def fixes(self, cause: Cause) -> list[Fix]:
        """The fixes for what runs here: of several proxies only the one that answers, if known."""
        others = _PROXIES - {self.front} if self.front in _PROXIES else set()
        return [fix for fix in cause.fixes if fix.program not in others]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        first = self.first
        return {
            "version": VERSION,
            "url": self.url,
            "ok": self.healthy,
            "summary": self.summary,
            "cause": first.cause.id if first is not None and first.cause is not None else None,
            "front": self.front or None,
            "seconds": round(self.seconds, 3),
            "counts": {state.value: len(self.of(state)) for state in State},
            "steps": [_step(each) for each in self.findings],
        }


def _step(finding: Finding) -> dict[str, Any]:
    cause = finding.cause
    return {
        "name": finding.name,
        "state": finding.state.value,
        "seen": finding.seen,
        "seconds": round(finding.seconds, 3),
        "cause": cause.id if cause else None,
        "why": cause.why if cause else None,
        "fixes": [
            {"program": fix.program or None, "where": fix.where, "lines": list(fix.lines)}
            for fix in (cause.fixes if cause else ())
        ],
    }


def shown(text: str | bytes, most: int = 80) -> str:
    """What a server sent, fit for a terminal: printable, on one line, not long."""
    if isinstance(text, bytes):
        text = text[: 4 * most].decode("utf-8", "replace")
    flat = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return flat if len(flat) <= most else flat[: most - 3] + "..."
