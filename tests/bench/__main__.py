"""The command line and the order of a run: rounds, in each every suite, its shapes, their servers.

One server runs at a time. Tables go to stdout, everything else to stderr; an interrupted run still
prints what it has.
"""

import argparse
import itertools
import json
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .catalogue import PORTABLE, Server, Shape, Suite, suites
from .fleet import Fleet
from .measure import WARMUP, Driver, MeasurementFailed, Sample
from .process import ServerFailed
from .progress import Progress
from .report import Results, as_json, conditions, markdown
from .toolbox import SetupError, Toolbox, prepare

SPARE = 100  # files a server has open besides its sockets, generously
INTERRUPTED = 130  # the exit status a shell gives to Ctrl-C


@dataclass(frozen=True, slots=True)
class Options:
    suites: list[Suite]
    rounds: int
    seconds: float
    json: Path | None


def parse(arguments: Sequence[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    add = parser.add_argument
    known = suites(1, portable=True)
    names = dict.fromkeys(server.name for suite in known for server in suite.servers)
    questions = dict.fromkeys(shape.name for suite in known for shape in suite.shapes)
    add("--rounds", type=int, help="default 5, quick 3")
    add("--seconds", type=float, help="measured in each cell; default 2, quick 0.5")
    add("--quick", action="store_true", help="3 rounds of 0.5 s")
    add("--only", metavar="NAME,…", help="these servers: " + ", ".join(names))
    add("--shapes", metavar="NAME,…", help="these shapes: " + ", ".join(questions))
    add("--idle", type=int, default=1000, metavar="N", help="sockets for the memory; default 1000")
    add("--portable", action="store_true", help="also echo with ECHO_REACTOR=off")
    add("--json", type=Path, metavar="FILE", help="write every sample into this file")
    given = parser.parse_args(arguments)

    rounds = (3 if given.quick else 5) if given.rounds is None else given.rounds
    seconds = (0.5 if given.quick else 2.0) if given.seconds is None else given.seconds
    if rounds < 1 or seconds < 0.1 or given.idle < 1:
        parser.error("--rounds and --idle are at least 1, --seconds at least 0.1")
    try:
        wanted = _choose(given.only, names)
        asked = _choose(given.shapes, questions)
    except ValueError as error:
        parser.error(str(error))
    if given.portable:
        wanted.add(PORTABLE.name)
    chosen = [
        replace(
            suite,
            servers=tuple(server for server in suite.servers if server.name in wanted),
            shapes=tuple(shape for shape in suite.shapes if shape.name in asked),
        )
        for suite in suites(given.idle, portable=given.portable)
    ]
    if not any(suite.servers and suite.shapes for suite in chosen):
        parser.error("none of these servers can be asked any of these shapes")
    return Options(chosen, rounds, seconds, given.json)


def _choose(names: str | None, known: Iterable[str]) -> set[str]:
    wanted = set(names.split(",")) if names else set(known)
    if unknown := wanted.difference(known):
        raise ValueError(f"no such name: {', '.join(unknown)}; there are {', '.join(known)}")
    return wanted


class Run:
    """One run from beginning to end; what cannot be measured becomes a note."""

    def __init__(self, options: Options, toolbox: Toolbox) -> None:
        self._options = options
        self._toolbox = toolbox
        cores = sorted(os.sched_getaffinity(0))
        self._server_core = cores[0]
        self._driver = Driver(toolbox, cores[-1])
        notes: list[str] = []
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        for suite in options.suites:
            for server in suite.servers:
                if reason := toolbox.why_not(server):
                    notes.append(f"{server.title} was not measured: {reason}")
            if any(shape.connections + SPARE >= limit for shape in suite.shapes):
                notes.append(f"Shapes with more sockets than {limit} open files allow: left out.")
        possible = [
            replace(
                suite,
                servers=tuple(server for server in suite.servers if not toolbox.why_not(server)),
                shapes=tuple(shape for shape in suite.shapes if shape.connections + SPARE < limit),
            )
            for suite in options.suites
        ]
        self._suites = [suite for suite in possible if suite.servers and suite.shapes]
        kind = f"rounds: {options.rounds}, {options.seconds:g} s each; medians"
        where = conditions(toolbox.versions(), kind, self._server_core, cores[-1])
        self.results = Results(self._suites, where, notes=list(dict.fromkeys(notes)))

    def play(self) -> bool:
        """True when it went to its end."""
        cells = [shape for suite in self._suites for shape in suite.shapes for _ in suite.servers]
        rounds = self._options.rounds
        progress = Progress(rounds * len(cells), rounds * sum(map(self._expected, cells)))
        try:
            for number in range(1, self._options.rounds + 1):
                self._round(number, progress)
            return True
        except KeyboardInterrupt:
            self.results.note("This run was interrupted.")
            return False
        finally:
            progress.end()

    def _expected(self, shape: Shape) -> float:
        """Seconds a measurement takes with everything around it, for the time left."""
        if shape.kind.is_memory:
            return 5.0
        return self._options.seconds + WARMUP + (1.5 if shape.kind.is_of_hub else 0.3)

    def _round(self, number: int, progress: Progress) -> None:
        for suite in self._suites:
            with Fleet(self._toolbox, self._server_core) as fleet:
                for shape, server in itertools.product(suite.shapes, suite.servers):
                    sample = self._cell(fleet, server, shape)
                    self.results.add(server, shape, sample)
                    found = f"{sample.value:,.1f}" if sample else "failed"
                    text = f"round {number}, {shape.title}, {server.name}: {found}"
                    progress.step(text, self._expected(shape))

    def _cell(self, fleet: Fleet, server: Server, shape: Shape) -> Sample | None:
        lend = fleet.fresh if shape.kind.is_memory else fleet.running
        try:
            with lend(server) as process:
                try:
                    return self._driver.measure(process, shape, self._options.seconds)
                except MeasurementFailed:
                    process.check()  # if the server died, that is the better reason
                    raise
        except (MeasurementFailed, ServerFailed) as error:
            self.results.note(f"{server.title}, {shape.title}: a round failed: {error}")
            return None


def raise_file_limit() -> None:
    """A thousand sockets are more than the usual soft limit; the servers inherit this one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))


def main() -> int:
    options = parse()
    # Ended from outside, too, it takes its servers with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise_file_limit()
    with tempfile.TemporaryDirectory() as build:
        try:
            servers = [server for suite in options.suites for server in suite.servers]
            run = Run(options, prepare(Path(build), servers))
        except SetupError as error:
            print(error, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return INTERRUPTED
        complete = run.play()
    print(markdown(run.results))
    if options.json:
        options.json.write_text(json.dumps(as_json(run.results), indent=1, ensure_ascii=False))
    return 0 if complete else INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
