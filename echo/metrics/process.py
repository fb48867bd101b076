"""The process itself: processor, memory, descriptors, start, under Prometheus's usual names.

prometheus-client's own collector wants /proc/stat, which a sandboxed service (ProcSubset=pid)
does not see, and is silent without. Where there is no /proc, only what Python knows is told.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

_PROC = "/proc/self"


class ProcessCollector(Collector):
    """Collects what all processes have; `node` is its name among several."""

    def __init__(self, node: str = "") -> None:
        self._about = {"pid": str(os.getpid()), "node": node}
        self._began = _start_time()

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("echo_process", "Which process has answered.", self._about)
        yield GaugeMetricFamily(
            "process_start_time_seconds",
            "Start of the process, in seconds since 1970.",
            self._began,
        )
        yield CounterMetricFamily(
            "process_cpu_seconds",
            "Processor time of the process, in user and system mode, in seconds.",
            time.process_time(),
        )
        with suppress(OSError, ImportError):
            yield from _from_proc()


def _from_proc() -> Iterator[Metric]:
    import resource  # not on Windows

    with open(f"{_PROC}/statm", "rb") as file:
        virtual, resident, *_ = map(int, file.read().split())
    page = resource.getpagesize()
    yield GaugeMetricFamily(
        "process_virtual_memory_bytes", "Virtual memory, in bytes.", virtual * page
    )
    yield GaugeMetricFamily(
        "process_resident_memory_bytes", "Resident memory, in bytes.", resident * page
    )
    # Linux 6.2 and later tell the number without listing them all.
    directory = f"{_PROC}/fd"
    descriptors = os.stat(directory).st_size or len(os.listdir(directory))
    yield GaugeMetricFamily("process_open_fds", "Open descriptors.", descriptors)
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield GaugeMetricFamily("process_max_fds", "Descriptors that may be open.", most)


def _start_time() -> float:
    """When the process began; without /proc, when it was first asked."""
    now = time.time()
    try:
        with open(f"{_PROC}/stat", "rb") as file:
            # The name, in parentheses, may hold anything.
            fields = file.read().rpartition(b")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return now
    return now - age
