"""Tells the person who waits what happened last and how long it will still take, on stderr."""

import sys
import time


class Progress:
    def __init__(self, cells: int, seconds: float) -> None:
        self._cells = cells
        self._expected = seconds
        self._begun = time.monotonic()
        self._done = 0
        self._behind = 0.0  # expected seconds of what is done
        self._line(f"{cells} measurements, about {_minutes(seconds)}")

    def step(self, text: str, seconds: float) -> None:
        """One measurement, expected to take so many seconds, has ended."""
        self._done += 1
        self._behind += seconds
        pace = (time.monotonic() - self._begun) / self._behind
        left = _minutes((self._expected - self._behind) * pace)
        self._line(f"[{self._done}/{self._cells}, {left} left] {text}")

    def end(self) -> None:
        if sys.stderr.isatty():
            print(file=sys.stderr)

    def _line(self, text: str) -> None:
        # On a terminal one line that changes; in a log file one line each.
        start, end = ("\r\x1b[K", "") if sys.stderr.isatty() else ("", "\n")
        print(start + text, end=end, file=sys.stderr, flush=True)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(seconds, 0):.0f} s"
