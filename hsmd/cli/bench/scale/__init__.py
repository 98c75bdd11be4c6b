"""`hsmd bench --scale`: what a daemon costs with many keys, one column for each number of keys.

One module measures one subject and adds a line to `measurements.py`. All sizes are measured on one site, which grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hsmd.cli.base.output import Output, note, table
from hsmd.cli.bench.scale.measurements import MEASUREMENTS, Row
from hsmd.cli.bench.scale.site import Site, growing_site

SIZES = (100, 1_000, 3_000, 10_000)

Values = dict[Row, dict[int, float | None]]


def run(output: Output, sizes: Sequence[int], directory: Path | None = None) -> None:
    """Measure with these numbers of keys, smallest first, and show all rows."""
    values: Values = {row: {} for measurement in MEASUREMENTS for row in measurement.rows}
    ordered = sorted(set(sizes))
    with growing_site(directory) as site:
        for size in ordered:
            note(f"{size:,} keys: filling token and store, starting the daemon")
            with site.grown(size):
                _measure(site, values)
    output.show(_document(ordered, values), lambda: _table(ordered, values))


def _measure(site: Site, values: Values) -> None:
    for measurement in MEASUREMENTS:
        note(f"{site.keys:,} keys: {', '.join(row.name for row in measurement.rows)}")
        for row, value in zip(measurement.rows, measurement.measure(site), strict=True):
            values[row][site.keys] = value


def _document(sizes: Sequence[int], values: Values) -> dict[str, Any]:
    rows = [
        {"name": row.name, "unit": row.unit, "values": {str(size): found[size] for size in sizes}}
        for row, found in values.items()
    ]
    return {"keys": list(sizes), "rows": rows}


def _table(sizes: Sequence[int], values: Values) -> Any:
    header = ["", "unit", *(f"{size:,} keys" for size in sizes)]
    cells = [[row.name, row.unit, *(_cell(found[size]) for size in sizes)] for row, found in values.items()]
    return table(header, cells)


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
