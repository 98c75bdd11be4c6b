"""The measurements of `hsmd bench --scale`, in the order of the table."""

from __future__ import annotations

from hsmd.cli.bench.scale import agent, grant_change, key_generate, key_list, memory, worker_start
from hsmd.cli.bench.scale.row import Measurement, Row

__all__ = ["MEASUREMENTS", "Row"]

MEASUREMENTS: tuple[Measurement, ...] = (
    worker_start.MEASUREMENT,
    key_generate.MEASUREMENT,
    key_list.MEASUREMENT,
    grant_change.MEASUREMENT,
    agent.MEASUREMENT,
    memory.MEASUREMENT,
)
