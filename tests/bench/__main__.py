"""The command line and the order of a run: rounds, in each round every shape, for it every server.

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
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from .catalogue import PEER_SERVERS, PORTABLE, PRODUCT, Kind, Server, Shape, shapes
from .fleet import Fleet
from .measure import WARMUP, Driver, MeasurementFailed, Sample
from .process import ServerFailed
from .progress import Progress
from .report import Results, as_json, conditions, markdown
from .toolbox import SetupError, Toolbox, prepare

SPARE = 100  # files a server has open besides its sockets, generously
INTERRUPTED = 130  # the exit status a shell gives to Ctrl-C

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    servers: list[Server]
    shapes: list[Shape]
    rounds: int
    seconds: float
    json: Path | None


def parse(arguments: Sequence[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, help="default 5, quick 3")
    add("--seconds", type=float, help="measured in each cell; default 2, quick 0.5")
    add("--quick", action="store_true", help="3 rounds of 0.5 s")
    add("--only", metavar="NAME,…", help="these servers: " + _names((PRODUCT, *PEER_SERVERS)))
    add("--shapes", metavar="NAME,…", help="these shapes: " + _names(shapes(1)))
    add("--idle", type=int, default=1000, metavar="N", help="sockets for the memory; default 1000")
    add("--portable", action="store_true", help="also echo with ECHO_REACTOR=off")
    add("--json", type=Path, metavar="FILE", help="write every sample into this file")
    given = parser.parse_args(arguments)

    rounds = (3 if given.quick else 5) if given.rounds is None else given.rounds
    seconds = (0.5 if given.quick else 2.0) if given.seconds is None else given.seconds
    if rounds < 1 or seconds < 0.1 or given.idle < 1:
        parser.error("--rounds and --idle are at least 1, --seconds at least 0.1")
    try:
        servers = _choose(given.only, {server.name: server for server in (PRODUCT, *PEER_SERVERS)})
        chosen = _choose(given.shapes, {shape.name: shape for shape in shapes(given.idle)})
    except ValueError as error:
        parser.error(str(error))
    if given.portable:
        servers.insert(1, PORTABLE)
    return Options(servers, chosen, rounds, seconds, given.json)


def _names(things: Iterable[Server | Shape]) -> str:
    return ", ".join(thing.name for thing in things)


def _choose(names: str | None, choices: dict[str, T]) -> list[T]:
    wanted = set(names.split(",")) if names else set(choices)
    if unknown := wanted - choices.keys():
        raise ValueError(f"no such name: {', '.join(unknown)}; there are {', '.join(choices)}")
    return [choice for name, choice in choices.items() if name in wanted]


class Run:
    """One run from beginning to end; what cannot be measured becomes a note."""

    def __init__(self, options: Options, toolbox: Toolbox) -> None:
        self._options = options
        self._toolbox = toolbox
        cores = sorted(os.sched_getaffinity(0))
        self._server_core = cores[0]
        self._driver = Driver(toolbox.driver, cores[-1])
        self._servers: list[Server] = []
        absent = []
        for server in options.servers:
            if reason := toolbox.why_not(server):
                absent.append(f"{server.title} was not measured: {reason}")
            else:
                self._servers.append(server)
        kind = f"rounds: {options.rounds}, {options.seconds:g} s each; medians"
        where = conditions(toolbox.versions(), kind, self._server_core, cores[-1])
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._shapes = [shape for shape in options.shapes if shape.connections + SPARE < limit]
        if len(self._shapes) < len(options.shapes):
            absent.append(f"Shapes with more sockets than {limit} open files allow were left out.")
        self.results = Results(self._servers, self._shapes, where, notes=absent)

    def play(self) -> bool:
        """True when it went to its end."""
        times = self._options.rounds * len(self._servers)
        once = sum(self._expected(shape) for shape in self._shapes)
        progress = Progress(times * len(self._shapes), times * once)
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
        return 5.0 if shape.kind is Kind.MEMORY else self._options.seconds + WARMUP + 0.3

    def _round(self, number: int, progress: Progress) -> None:
        with Fleet(self._toolbox, self._server_core) as fleet:
            for shape, server in itertools.product(self._shapes, self._servers):
                sample = self._cell(fleet, server, shape)
                self.results.add(server, shape, sample)
                found = f"{sample.value:,.1f}" if sample else "failed"
                text = f"round {number}, {shape.title}, {server.name}: {found}"
                progress.step(text, self._expected(shape))

    def _cell(self, fleet: Fleet, server: Server, shape: Shape) -> Sample | None:
        lend = fleet.fresh if shape.kind is Kind.MEMORY else fleet.running
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
            run = Run(options, prepare(Path(build), options.servers))
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
