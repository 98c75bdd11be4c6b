"""What a measurement of the table consists of: its rows, and the function that measures all of them at one size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hsmd.cli.bench.scale.site import Site


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    name: str
    unit: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """Rows that are measured together. `measure` returns one value for each, None where there is nothing to measure.

    It leaves the site as it found it, but for keys that it generated.
    """

    rows: tuple[Row, ...]
    measure: Callable[[Site], Sequence[float | None]]
