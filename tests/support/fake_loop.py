"""An event loop without I/O, of which the test makes the turns and tells the time."""

from __future__ import annotations

from collections.abc import Callable


class FakeLoop:
    """An event loop whose turns and time the test controls."""

    def __init__(self) -> None:
        self.now = 0.0
        self._soon: list[Callable[[], object]] = []
        self._later: list[tuple[float, Callable[[], object]]] = []

    def call_soon(self, callback: Callable[[], object]) -> None:
        self._soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        self._later.append((self.now + delay, callback))

    def turn(self) -> None:
        due = [each for each in self._later if each[0] <= self.now]
        self._later = [each for each in self._later if each not in due]
        ready, self._soon = self._soon + [callback for _, callback in due], []
        for callback in ready:
            callback()

    @property
    def next_timer(self) -> float | None:
        return min((at for at, _ in self._later), default=None)
