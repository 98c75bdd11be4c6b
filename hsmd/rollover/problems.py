"""Errors of topologies and plans, and the list that faults are collected in."""

from __future__ import annotations

from collections.abc import Iterable

from hsmd.errors import ConfigurationError, ErrorCode, HsmdError

MAX_FAULTS = 20
"""Faults that are named; of the rest there is the count."""
MAX_NAMES = 8
"""Names that a list or a cycle in a message shows."""


class TopologyInvalid(ConfigurationError):
    """A topology is malformed or contradicts itself; `faults` names each place with the fix."""


class PlanRefused(HsmdError):
    """The topology is well formed, but has no safe plan as asked; each reason names the edge, cycle or date.

    `advice` is what to do.
    """

    code = ErrorCode.BAD_REQUEST

    def __init__(self, reasons: list[str], advice: str) -> None:
        self.reasons = tuple(reasons)
        self.advice = advice
        super().__init__("\n".join(reasons))


class PlanInvalid(HsmdError):
    """A plan is malformed, or is not what its topology demands."""

    code = ErrorCode.BAD_REQUEST


class Faults:
    """Faults in the order in which they were found. Only the first ones are kept, so that a large file has a short answer."""

    def __init__(self) -> None:
        self._kept: list[str] = []
        self._count = 0

    def add(self, text: str) -> None:
        """Note one."""
        self._count += 1
        if self._count <= MAX_FAULTS:
            self._kept.append(text)

    @property
    def room(self) -> bool:
        """Whether one more would be kept: what only words a fault need not be looked up otherwise."""
        return self._count < MAX_FAULTS

    def __bool__(self) -> bool:
        return self._count > 0

    def listed(self) -> list[str]:
        """Those that were kept, and how many there are beyond them."""
        more = self._count - len(self._kept)
        return [*self._kept, f"and {more} more like these"] if more else list(self._kept)


def named(names: Iterable[str]) -> str:
    """Names in a sentence: `a, b and c`, and of a long list the first ones and the number of the others."""
    listed = list(names)
    if len(listed) > MAX_NAMES:
        listed = [*listed[: MAX_NAMES - 1], f"{len(listed) - MAX_NAMES + 1} more"]
    return " and ".join(filter(None, (", ".join(listed[:-1]), listed[-1]))) if listed else ""


def cycle(names: Iterable[str]) -> str:
    """A cycle, in words: `a -> b -> a`. A long one is shortened in its middle."""
    listed = list(names)
    if len(listed) > MAX_NAMES:
        listed = [*listed[: MAX_NAMES - 2], f"... ({len(listed) - MAX_NAMES + 1} more) ...", listed[-1]]
    return " -> ".join([*listed, listed[0]])
