"""Memory of the processes: resident without what they share with others (proc(5), Pss in smaps_rollup)."""

from __future__ import annotations

import re
from pathlib import Path

from hsmd.cli.bench.scale.row import Measurement, Row
from hsmd.cli.bench.scale.site import Site


def _measure(site: Site) -> tuple[float, ...]:
    signing, control = site.workers()
    with site.agent() as (_, agent):
        return tuple(_mib(pid) for pid in (site.front_pid(), signing[0], control, agent))


def _mib(pid: int) -> float:
    found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


MEASUREMENT = Measurement(
    (
        Row("memory of the front", "MiB"),
        Row("memory of a signing worker", "MiB"),
        Row("memory of the control worker", "MiB"),
        Row("memory of an agent that has connected", "MiB"),
    ),
    _measure,
)
