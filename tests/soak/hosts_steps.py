"""What `scripts/soak hosts` prints: a line for each step with its time, and a table in the end."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.support.hosts.documents import Step, carry_out, steps
from tests.support.hosts.site import Site


@dataclass(slots=True)
class Report:
    """Lines and results of all sites; used by several threads."""

    failed: int = 0
    _current: dict[str, str] = field(default_factory=dict)  # the journey that a site is on
    _steps: Counter[tuple[str, str]] = field(default_factory=Counter)
    _results: dict[tuple[str, str], tuple[float, str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def step(self, site: str, journey: str, title: str) -> Iterator[list[str]]:
        """Time a step and print its line; texts that the block appends to the list stand at the line's end."""
        began = time.monotonic()
        notes: list[str] = []
        try:
            yield notes
        except Exception as error:
            self._line(site, journey, title, time.monotonic() - began, f"FAILED: {_shortened(error)}")
            raise
        self._line(site, journey, title, time.monotonic() - began, " ".join(notes))

    def document(self, site: Site, journey: str) -> str:
        """Carry out the documents' steps of a journey; return what they printed."""
        return "".join(self.done(site, step) for step in steps(journey))

    def done(self, site: Site, step: Step) -> str:
        """Carry out one step of the documents; return what it printed."""
        with self.step(site.name, step.journey, f"{step.host}: {step.title}  [{step.place}]"):
            return carry_out(step, site.hosts)

    def journey(self, site: str, name: str, travel: Callable[[], None]) -> bool:
        """Do a journey; return whether nothing failed."""
        began = time.monotonic()
        result = "ok"
        self._current[site] = name
        try:
            travel()
        except Exception as error:  # whatever it was, the other journeys are tried
            result = f"FAILED {str(error).splitlines()[0][:90] if str(error) else type(error).__name__}"
            with self._lock:
                self.failed += 1
        with self._lock:
            self._results[site, name] = (time.monotonic() - began, result)
        return result == "ok"

    def table(self) -> str:
        """One line for each site and journey, in their order."""
        rows = [
            f"{site:10}{name:16}{self._steps[site, name]:>6}{seconds:>9.1f} s  {result}"
            for (site, name), (seconds, result) in sorted(self._results.items(), key=lambda row: row[0][0])
        ]
        return "\n".join(["", f"{'release':10}{'journey':16}{'steps':>6}{'time':>9}    result", *rows])

    def _line(self, site: str, journey: str, title: str, seconds: float, notes: str) -> None:
        with self._lock:
            print(f"{site:10}{journey:14}{seconds:7.2f} s  {title}{'  ' if notes else ''}{notes}", flush=True)
            self._steps[site, self._current.get(site, journey)] += 1


def _shortened(error: Exception) -> str:
    """The first line and the last 25 of an error's text."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return "\n    ".join([lines[0], *lines[1:][-25:]])
