"""The workers of a token as commands show them: in one line, or each in a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from hsmd.cli.base.output import table
from hsmd.protocol.messages import TokenStatus, WorkerStatus

if TYPE_CHECKING:
    from rich.console import RenderableType

_UP = ("ready", "busy", "spare")
_ORDER = "signing spare control"


def worker_role(worker: WorkerStatus) -> str:
    """What a worker is for: signing, spare or control; empty from daemons of earlier releases."""
    return "spare" if worker.state == "spare" else worker.role


def all_up(token: TokenStatus) -> bool:
    """Whether there is nothing to say about single workers."""
    return all(worker.state in _UP for worker in token.workers)


def token_line(token: TokenStatus) -> str:
    """State, workers and work of a token."""
    in_flight = sum(worker.in_flight for worker in token.workers)
    restarts = max((worker.restarts for worker in token.workers), default=0)
    work = f"{token.queued} queued, {in_flight} in flight, {restarts} restarts"
    return f"{token.name} {token.state}, {_workers_up(token)}, {work}"


def _workers_up(token: TokenStatus) -> str:
    """How many workers of each kind are up: `2 of 2 signing workers up, spare up, control up`."""
    up = Counter(worker_role(worker) for worker in token.workers if worker.state in _UP)
    all_of = Counter(worker_role(worker) for worker in token.workers)
    if not all_of.keys() <= {"signing", "spare", "control"}:  # a daemon of an earlier release
        return f"{up.total()} of {all_of.total()} workers up"
    others = "".join(f", {role} up" for role in ("spare", "control") if up[role])
    return f"{up['signing']} of {all_of['signing']} signing workers up{others}"


def worker_table(tokens: Iterable[TokenStatus]) -> RenderableType:
    """A row for each worker of these tokens, and one for a token without any."""
    rows = []
    for token in tokens:
        of_token = (token.name, token.label, token.state, str(token.queued))
        rows += [
            (
                *of_token,
                str(worker.pid),
                worker_role(worker),
                worker.state,
                str(worker.in_flight),
                str(worker.restarts),
            )
            for worker in sorted(token.workers, key=lambda worker: _ORDER.find(worker_role(worker)))
        ]
        if not token.workers:
            rows.append((*of_token, "-", "-", "none", "-", "-"))
    headers = ("TOKEN", "LABEL", "STATE", "QUEUED", "WORKER", "FOR", "WORKER STATE", "IN FLIGHT", "RESTARTS")
    return table(headers, rows)
