"""Puts one question to one running server: runs the driver on its core and reads its answer.

A measurement with a single error in it is none: it raises, and the reason goes below the table.
"""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .catalogue import Kind, Shape
from .process import Process
from .toolbox import Toolbox

WARMUP = 0.25  # seconds
SETTLING = 0.5  # seconds between the last message and the reading of the memory
PATIENCE = 15.0  # seconds that opening and closing may take in all


class MeasurementFailed(Exception):
    """The driver saw an error, or could not finish."""


@dataclass(frozen=True, slots=True)
class Sample:
    value: float  # in the unit of the shape's kind
    p50_us: float | None = None
    p99_us: float | None = None


@dataclass(frozen=True, slots=True)
class Driver:
    toolbox: Toolbox
    core: int

    def measure(
        self,
        process: Process,
        shape: Shape,
        seconds: float,
        extra: Mapping[str, float] = {},
    ) -> Sample:
        """Put the question; `extra` are further options of the driver of hubs."""
        match shape.kind:
            case Kind.ECHO:
                return self._rate("echo", process, shape, seconds, {"text": shape.text})
            case Kind.OPEN:
                answer = self._load("open", process, shape, seconds, {"text": shape.text})
                return Sample(float(answer["opens_per_second"]))
            case Kind.MEMORY | Kind.HUB_MEMORY:
                return self._memory(process, shape)
            case Kind.BROADCAST | Kind.INVOKE:
                more = {**_protocol(process, shape), **extra}
                return self._rate(shape.kind.name.lower(), process, shape, seconds, more)

    def _rate(
        self,
        mode: str,
        process: Process,
        shape: Shape,
        seconds: float,
        more: Mapping[str, float],
    ) -> Sample:
        answer = self._load(mode, process, shape, seconds, more)
        rate, p50, p99 = (float(answer[key]) for key in ("messages_per_second", "p50_us", "p99_us"))
        return Sample(rate, p50, p99)

    def _load(
        self,
        mode: str,
        process: Process,
        shape: Shape,
        seconds: float,
        more: Mapping[str, float],
    ) -> dict[str, str]:
        options = {
            "connections": shape.connections,
            "size": shape.size,
            "depth": shape.depth,
            "seconds": seconds,
            "warmup": WARMUP,
            "deadline": seconds + WARMUP + PATIENCE,
            **more,
        }
        with self._start(mode, process, shape, options) as run:
            return _answer(run)

    def _memory(self, process: Process, shape: Shape) -> Sample:
        self._hold(process, shape, sockets=10)  # what is made once, on the first connections
        before = process.memory_kib()
        after = self._hold(process, shape, sockets=shape.connections)
        return Sample((after - before) / shape.connections)

    def _hold(self, process: Process, shape: Shape, *, sockets: int) -> float:
        """The server's memory in KiB while so many sockets are open, have echoed once, and rest."""
        options = {"connections": sockets, "seconds": PATIENCE, "deadline": 3 * PATIENCE}
        options.update(_protocol(process, shape))
        with self._start("idle", process, shape, options) as run:
            assert run.stdout is not None
            # By its deadline the driver ends in any case; its answer then comes as the first line.
            if (line := run.stdout.readline()) != "ready\n":
                _check(line, run)
            time.sleep(SETTLING)
            memory = process.memory_kib()
            _answer(run)  # closes its stdin, which lets it go
        time.sleep(SETTLING)
        return memory

    @contextlib.contextmanager
    def _start(
        self, mode: str, process: Process, shape: Shape, options: Mapping[str, float]
    ) -> Iterator[subprocess.Popen[str]]:
        program = self.toolbox.hub if shape.kind.is_of_hub else self.toolbox.load
        # A flag is a number to the driver, as all its options are.
        arguments = [f"{name}={+value}" for name, value in options.items()]
        run = subprocess.Popen(
            [program, mode, "127.0.0.1", str(process.port), process.server.path, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {self.core}),
        )
        with run:
            try:
                yield run
            except BaseException:
                run.kill()  # an interrupted person does not wait for the deadline
                raise


def _protocol(process: Process, shape: Shape) -> dict[str, float]:
    return {"socketio": process.server.is_socketio} if shape.kind.is_of_hub else {}


def _answer(run: subprocess.Popen[str]) -> dict[str, str]:
    output, _ = run.communicate()
    return _check(output, run)


def _check(line: str, run: subprocess.Popen[str]) -> dict[str, str]:
    try:
        answer: dict[str, str] = json.loads(line)
    except ValueError as error:
        raise MeasurementFailed(f"the driver ended with {run.wait()}") from error
    if answer["errors"]:
        raise MeasurementFailed(f"{answer['first_error']} (errors: {answer['errors']})")
    return answer
