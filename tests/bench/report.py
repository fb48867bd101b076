"""Turns samples into Markdown and JSON. Medians only, and ratios only within one round.

A ratio compares two samples taken seconds apart, and the table shows the median over the rounds:
what slows the whole machine for a while slows both sides of it.
"""

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from .catalogue import Kind, Server, Shape, Suite
from .measure import Sample

NOTHING = "–"  # noqa: RUF001


@dataclass(slots=True)
class Results:
    """What a run has found so far; `samples` has one entry for each round, None where it failed."""

    suites: Sequence[Suite]
    conditions: list[str]
    samples: dict[tuple[str, str], list[Sample | None]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, server: Server, shape: Shape, sample: Sample | None) -> None:
        self.samples.setdefault((server.name, shape.name), []).append(sample)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def good(self, server: Server, shape: Shape) -> list[Sample]:
        return [s for s in self.samples.get((server.name, shape.name), []) if s]

    def ratio(self, server: Server, reference: str, shape: Shape) -> float | None:
        ours = self.samples.get((server.name, shape.name), [])
        theirs = self.samples.get((reference, shape.name), [])
        # Not strict: an interrupted run may have one sample more on one side.
        pairs = zip(ours, theirs, strict=False)
        ratios = [a.value / b.value for a, b in pairs if a and b and b.value > 0]
        return median(ratios) if ratios else None


def conditions(versions: dict[str, str], run: str, server_core: int, driver_core: int) -> list[str]:
    """The lines above the tables: where and how this was measured."""
    place = f"server on core {server_core}, driver on core {driver_core}"
    if server_core == driver_core:
        place = "**server and driver share the one core: compare nothing with other runs**"
    return [
        f"{time.strftime('%Y-%m-%d')}; {_processor()}, {place}; "
        f"{platform.system()} {platform.release()}; Python {platform.python_version()}; {run}; "
        f"{_load_before()}.",
        ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
    ]


def _load_before() -> str:
    load = os.getloadavg()[0]
    return f"load average before: {load:.2f}" + (" (**busy: measure again**)" if load > 0.5 else "")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def markdown(results: Results) -> str:
    parts = [*results.conditions]
    for suite in results.suites:
        parts += [f"## {suite.title}", suite.legend, _table(results, suite, _absolute)]
        for reference in (server for server in suite.servers if server.name in suite.references):
            parts += [
                f"Ratios, {reference.title} = 1.00; for the memory, less is better:",
                _table(results, suite, partial(_ratio, reference.name)),
            ]
    if results.notes:
        parts += ["Notes:", "\n".join(f"- {note}" for note in results.notes)]
    return "\n\n".join(parts)


def _table(results: Results, suite: Suite, cell: Callable[[Results, Server, Shape], str]) -> str:
    rows = [
        ["server", *(shape.title for shape in suite.shapes)],
        ["---", *("---:" for _ in suite.shapes)],
        *(
            [server.title, *(cell(results, server, shape) for shape in suite.shapes)]
            for server in suite.servers
        ),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _absolute(results: Results, server: Server, shape: Shape) -> str:
    samples = results.good(server, shape)
    if not samples:
        return NOTHING
    value = _three_digits(median(s.value for s in samples))
    if shape.kind is Kind.OPEN or shape.kind.is_memory:
        return value
    p50, p99 = (
        _three_digits(median(time / 1000 for time in times if time is not None))
        for times in zip(*((s.p50_us, s.p99_us) for s in samples), strict=True)
    )
    return f"{value} ({p50} / {p99})"


def _ratio(reference: str, results: Results, server: Server, shape: Shape) -> str:
    ratio = results.ratio(server, reference, shape)
    return NOTHING if ratio is None else f"{ratio:.2f}"


def _three_digits(value: float) -> str:
    """More digits than that would claim what a benchmark cannot know."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:.3g}"


def as_json(results: Results) -> dict[str, Any]:
    return {
        "conditions": results.conditions,
        "notes": results.notes,
        "cells": [
            {
                "server": server,
                "shape": shape,
                "samples": [asdict(sample) if sample else None for sample in samples],
            }
            for (server, shape), samples in results.samples.items()
        ],
    }
