"""Measures what a backplane costs and brings: `python -m tests.bench.scaleout`.

One node alone, one with an engine, two with an engine, under the same broadcasts to the same number
of clients. On two cores the second node shares its core with the engine and the driver, so beside
what came out stands what the nodes could do with a core each: deliveries per second of processor
time, of the busier one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

from tests.hubs.backplane.engines import Engine

from .catalogue import HUB, Kind, Shape
from .measure import Driver
from .process import Process, processor_seconds
from .report import conditions
from .toolbox import Toolbox, prepare

MANY = Shape(
    name="many", title="1,000 clients", kind=Kind.BROADCAST, connections=1000, size=100, depth=8
)
TWO = replace(MANY, name="two", title="two clients", connections=2, depth=1)
_TICK = 0.05  # seconds


@dataclass(frozen=True, slots=True)
class Setup:
    title: str
    nodes: int
    engine: bool


SETUPS = (
    Setup("one node, no backplane", 1, engine=False),
    Setup("one node, backplane", 1, engine=True),
    Setup("two nodes, backplane", 2, engine=True),
)


@dataclass(frozen=True, slots=True)
class Sample:
    rate: float
    """Deliveries per second."""
    capacity: float
    """Deliveries per second if each node had a core of its own."""
    engine_share: float
    """Seconds of the engine's processor time per second."""
    p50: float
    """Milliseconds from a call to its delivery at the other client; there are two."""
    p99: float


class Clock:
    """Notes the processor time of processes while a driver runs."""

    def __init__(self, clocks: Sequence[Callable[[], float]]) -> None:
        self._clocks = clocks
        self._notes: list[tuple[float, list[float]]] = []
        self._over = threading.Event()

    def __enter__(self) -> Clock:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(_TICK):
            self._notes.append((time.monotonic(), [read() for read in self._clocks]))

    def shares(self, seconds: float) -> list[float]:
        """The seconds of each per second, over the last so many seconds but for their edges."""
        end = self._notes[-1][0] - 0.1 * seconds
        window = [note for note in self._notes if end - 0.8 * seconds <= note[0] <= end]
        (begun, before), (ended, after) = window[0], window[-1]
        return [(b - a) / (ended - begun) for a, b in zip(before, after, strict=True)]


class Bench:
    def __init__(self, toolbox: Toolbox, seconds: float) -> None:
        self._toolbox = toolbox
        self._seconds = seconds
        cores = sorted(os.sched_getaffinity(0))
        self._cores = [cores[0], cores[-1]]
        self._driver = Driver(toolbox, cores[-1])

    def measure(self, setup: Setup) -> Sample:
        with self._nodes(setup) as (nodes, clocks):
            extra = {"second": nodes[-1].port}
            with Clock(clocks) as clock:
                many = self._driver.measure(nodes[0], MANY, self._seconds, extra)
            shares = clock.shares(self._seconds)
            few = self._driver.measure(nodes[0], TWO, self._seconds, extra)
        assert few.p50_us is not None
        assert few.p99_us is not None
        return Sample(
            many.value,
            many.value / max(shares[: setup.nodes]),
            shares[-1] if setup.engine else 0.0,
            few.p50_us / 1000,
            few.p99_us / 1000,
        )

    @contextlib.contextmanager
    def _nodes(self, setup: Setup) -> Iterator[tuple[list[Process], list[Callable[[], float]]]]:
        with contextlib.ExitStack() as stack:
            environment: dict[str, str] = {}
            clocks: list[Callable[[], float]] = []
            if setup.engine:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                engine = stack.enter_context(Engine(folder))
                os.sched_setaffinity(engine.pid, {self._cores[-1]})
                environment["ECHO_BACKPLANE"] = engine.unix_url
                clocks.append(partial(processor_seconds, engine.pid))
            nodes = []
            for number in range(setup.nodes):
                server = replace(HUB, name=f"node-{number}", environment=environment)
                nodes.append(Process(server, self._toolbox, self._cores[number]))
                stack.callback(nodes[-1].end)
            yield nodes, [*(node.processor_seconds for node in nodes), *clocks]


def table(samples: dict[Setup, list[Sample]]) -> str:
    lines = [
        "| | deliveries/s | with a core for each node | engine's core | p50, ms | p99, ms |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for setup, found in samples.items():
        rate, capacity, share, p50, p99 = (
            median(getattr(sample, name) for sample in found) for name in Sample.__slots__
        )
        engine = f"{share:.0%}" if setup.engine else ""
        row = f"{rate:,.0f} | {capacity:,.0f} | {engine} | {p50:.2f} | {p99:.2f}"
        lines.append(f"| {setup.title} | {row} |")
    ratios = [
        two.capacity / one.capacity
        for one, two in zip(samples[SETUPS[1]], samples[SETUPS[2]], strict=True)
    ]
    lines += ["", f"Two nodes with a core each: {median(ratios):.2f} times one."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scaleout", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured in each; default 3")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as build:
        toolbox = prepare(Path(build), [HUB])
        bench = Bench(toolbox, given.seconds)
        samples: dict[Setup, list[Sample]] = {setup: [] for setup in SETUPS}
        for number in range(1, given.rounds + 1):
            for setup in SETUPS:
                samples[setup].append(bench.measure(setup))
                rate = samples[setup][-1].rate
                print(f"round {number}, {setup.title}: {rate:,.0f}", file=sys.stderr)
        cores = sorted(os.sched_getaffinity(0))
        kind = f"rounds: {given.rounds}, {given.seconds:g} s each; medians"
        lines = conditions(toolbox.versions(), kind, cores[0], cores[-1])
        print(*lines, "", table(samples), sep="\n")


if __name__ == "__main__":
    main()
