"""`hsmd top`: who uses which keys, how often and how fast, as it happens."""

from __future__ import annotations

import json
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.output import escape, fields
from hsmd.cli.base.rates import LatencyView, UseRate, by_rate, latency_views, use_rates, use_table
from hsmd.errors import ErrorCode, HsmdError
from hsmd.protocol.messages import DaemonStatus, Metrics, MetricsRead, TokenStatus

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer(add_completion=False)

SORTS: dict[str, Callable[[UseRate], Any]] = {
    "rate": by_rate,
    "failures": lambda use: (-use.failing_per_s, -use.failed, use.client, use.key, use.purpose),
    "total": lambda use: (-use.performed - use.failed, use.client, use.key, use.purpose),
    "name": lambda use: (use.client, use.key, use.purpose),
}
_RESERVED_LINES = 4
"""Lines of a screen that are neither facts nor rows: headings, blank lines, the line about keys."""
_PASSING = (ErrorCode.UNAVAILABLE, ErrorCode.DRAINING, ErrorCode.DEADLINE, ErrorCode.OVERLOADED)
"""Errors that a live view waits out."""


class Reading:
    """The newest numbers, and what changed since the ones before."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._at = 0.0
        self.now: Metrics | None = None
        self.before: Metrics | None = None
        self.elapsed_s = 1.0

    def take(self) -> Metrics:
        """Ask the daemon. Raises HsmdError or CommandError."""
        taken = self._session.ask(MetricsRead(), Metrics)
        at = time.monotonic()
        restarted = self.now is not None and self.now.status.started_at != taken.status.started_at
        self.before = None if restarted else self.now
        self.now, self.elapsed_s, self._at = taken, max(at - self._at, 0.001), at
        return taken

    def uses(self, sort: str) -> list[UseRate]:
        """All rows, in this order."""
        return sorted(use_rates(self._taken(), self.before, self.elapsed_s), key=SORTS[sort])

    def latencies(self) -> list[LatencyView]:
        """Of what happened since the reading before."""
        return latency_views(self._taken(), self.before)

    def document(self, sort: str) -> dict[str, Any]:
        """One object for programs."""
        document = {"status": self._taken().status, "uses": self.uses(sort), "latencies": self.latencies()}
        return dict(msgspec.to_builtins(document))

    def _taken(self) -> Metrics:
        assert self.now is not None
        return self.now


@command(app, "top", example="hsmd top\nhsmd top --sort failures\nhsmd top --json --count 3 | jq .uses")
def top(
    session: Session,
    every: Annotated[
        float, typer.Option("--every", min=0.2, max=3600, help="Seconds between two looks.")
    ] = 1.0,
    count: Annotated[
        int, typer.Option("--count", "-n", min=0, help="Look so many times, then end; 0: until interrupted.")
    ] = 0,
    sort: Annotated[
        str, typer.Option("--sort", metavar="ORDER", help=f"Order of the rows: {', '.join(SORTS)}.")
    ] = "rate",
) -> None:
    """Show who uses which keys, how often and how fast, as it happens.

    In a terminal: q ends it, s changes the order. In a pipe it prints once, with what came in the last seconds. With --json it
    prints one object for each look, one on a line.
    """
    if sort not in SORTS:
        raise CommandError(f"{sort!r} is no order of rows", f"give one of {', '.join(SORTS)}", Exit.USAGE)
    reading = Reading(session)
    reading.take()
    if session.output.as_json:
        _stream(reading, every, count, sort)
    elif sys.stdout.isatty() and sys.stdin.isatty():
        _live(reading, every, count, sort)
    else:
        session.output.show({}, lambda: (*_facts(reading), use_table(reading.uses(sort))))


def _stream(reading: Reading, every: float, count: int, sort: str) -> None:
    """Objects on lines; ASCII, so that no name can break one."""
    printed = 0
    while True:
        document = json.dumps(
            reading.document(sort), separators=(",", ":"), ensure_ascii=True, allow_nan=False
        )
        print(document.replace("\x7f", "\\u007f"), flush=True)
        printed += 1
        if printed == count:
            return
        time.sleep(every)
        reading.take()


# --- on a terminal ---


def _live(reading: Reading, every: float, count: int, sort: str) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    orders = list(SORTS)
    looks, trouble = 1, ""
    with _keys() as key, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(_screen(reading, sort, trouble, console.size.height), refresh=True)
            if looks == count:
                return
            next_look = time.monotonic() + every
            while (left := next_look - time.monotonic()) > 0:
                pressed = key(left)
                if pressed in ("q", "Q", "\x04"):
                    return
                if pressed in ("s", "S"):
                    sort = orders[(orders.index(sort) + 1) % len(orders)]
                    live.update(_screen(reading, sort, trouble, console.size.height), refresh=True)
            try:
                reading.take()
                trouble = ""
            except HsmdError as error:
                if error.code not in _PASSING:
                    raise
                trouble = error.text
            looks += 1


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Single keys without Enter: a function that waits so many seconds for one; the terminal is as before afterwards."""
    import termios
    import tty

    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)

    def key(wait_s: float) -> str:
        readable, _, _ = select.select([stdin], [], [], wait_s)
        return sys.stdin.read(1) if readable else ""

    tty.setcbreak(stdin)
    try:
        yield key
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)


def _screen(reading: Reading, sort: str, trouble: str, height: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    facts = _facts(reading)
    uses = reading.uses(sort)
    status = reading.now.status if reading.now is not None else None
    used = _RESERVED_LINES + 3 + (len(status.tokens) if status is not None else 0) + len(reading.latencies())
    room = max(1, height - used)
    left = f"; {len(uses) - room} more rows below" if len(uses) > room else ""
    foot = f"q quit, s sort (by {sort}){left}"
    if trouble:
        return Group(
            *facts, use_table(uses[:room]), Text(f"NO ANSWER: {escape(trouble)}; trying on", style="bold red")
        )
    return Group(*facts, use_table(uses[:room]), Text(foot, style="dim"))


# --- what is shown ---


def _facts(reading: Reading) -> tuple[RenderableType, ...]:
    status = reading._taken().status
    return (fields([*_daemon(status), *map(_token, status.tokens), *map(_latency, reading.latencies())]), "")


def _daemon(status: DaemonStatus) -> list[tuple[str, str]]:
    state = "draining" if status.draining else "running"
    audit = f"{status.audit_records} records, {status.audit_covered} of them under a signed checkpoint"
    return [
        (
            "daemon",
            f"{state}, {status.connections} connections ({status.starting} logging in), {status.sessions} sessions",
        ),
        ("audit", audit if status.audit_writable else f"NOT WRITABLE, so no key is used; {audit}"),
    ]


def _token(token: TokenStatus) -> tuple[str, str]:
    in_flight = sum(worker.in_flight for worker in token.workers)
    restarts = max((worker.restarts for worker in token.workers), default=0)
    ready = sum(worker.state in ("ready", "busy", "spare") for worker in token.workers)
    work = f"{token.queued} queued, {in_flight} in flight, {restarts} restarts"
    breaker = (
        ""
        if token.breaker == "closed"
        else f" (breaker {token.breaker}: {token.reason or 'no reason given'})"
    )
    return "token", f"{token.name} {token.state}{breaker}, {ready} of {len(token.workers)} workers up, {work}"


def _latency(view: LatencyView) -> tuple[str, str]:
    return (
        "latency",
        f"{view.purpose} {view.key_type}: half {_bound(view.p50_ms)}, 99 of 100 {_bound(view.p99_ms)}",
    )


def _bound(bound_ms: float | None) -> str:
    return "longer than any bucket" if bound_ms is None else f"within {bound_ms:g} ms"
