"""A pytest plugin: what a machine lacks, and which tests that left out, told at the very end.

A skipped test is easy to overlook in the scroll, and a suite that skips much looks as green as
one that skips nothing. Mark a test with `needs("chromium")` if it cannot do without a program.
"""

import shutil
from collections import Counter

import pytest


def needs(program: str, package: str | None = None) -> pytest.MarkDecorator:
    """Skip unless `program` is on the PATH; `package` is its name for apt-get if it differs."""
    return pytest.mark.skipif(
        shutil.which(program) is None,
        reason=f"{program} is missing: apt-get install {package or program}",
    )


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Each reason once, with the number of tests it left out in each file."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons: dict[str, Counter[str]] = {}
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        files = reasons.setdefault(reason.removeprefix("Skipped: "), Counter())
        files[report.nodeid.partition("::")[0]] += 1
    if not reasons:
        return
    terminalreporter.section(f"left out: {len(skipped)} tests", yellow=True)
    for reason, files in sorted(reasons.items()):
        terminalreporter.line(reason)
        for file, count in sorted(files.items()):
            terminalreporter.line(f"    {file} ({count})")
