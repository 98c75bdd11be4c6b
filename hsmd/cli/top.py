"""`hsmd top`: live rates and latencies of key use by client."""

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
from hsmd.cli.base.health import health_line
from hsmd.cli.base.output import escape, fields
from hsmd.cli.base.rates import LatencyView, UseRate, by_rate, latency_views, use_rates, use_table
from hsmd.cli.base.workers import token_line
from hsmd.errors import ErrorCode, HsmdError
from hsmd.health.daemon import judge
from hsmd.health.levels import level_of
from hsmd.protocol.messages import DaemonStatus, Metrics, MetricsRead

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer(add_completion=False)

SORTS: dict[str, Callable[[UseRate], Any]] = {
    "rate": by_rate,
    "failures": lambda use: (-use.failing_per_s, -use.failed, use.client, use.key, use.purpose),
    "total": lambda use: (-use.performed - use.failed, use.client, use.key, use.purpose),
    "name": lambda use: (use.client, use.key, use.purpose),
}
MOST_FINDINGS = 3
"""Findings that are shown."""
_RESERVED_LINES = 5
"""Screen lines for headings, blank lines and the line about keyboard shortcuts."""
_TEMPORARY = (ErrorCode.UNAVAILABLE, ErrorCode.DRAINING, ErrorCode.DEADLINE, ErrorCode.OVERLOADED)
"""Errors after which the live view tries again."""


class Reading:
    """The latest metrics and the ones before, to compute rates from."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._at = 0.0
        self.now: Metrics | None = None
        self.before: Metrics | None = None
        self.elapsed_s = 1.0

    def take(self) -> Metrics:
        """Fetch metrics from the daemon. Raises HsmdError or CommandError."""
        taken = self._session.ask(MetricsRead(), Metrics)
        at = time.monotonic()
        restarted = self.now is not None and self.now.status.started_at != taken.status.started_at
        self.before = None if restarted else self.now
        self.now, self.elapsed_s, self._at = taken, max(at - self._at, 0.001), at
        return taken

    def uses(self, sort: str) -> list[UseRate]:
        """All rows, in the order `sort`."""
        return sorted(use_rates(self._taken(), self.before, self.elapsed_s), key=SORTS[sort])

    def latencies(self) -> list[LatencyView]:
        """Latencies since the previous reading."""
        return latency_views(self._taken(), self.before)

    def document(self, sort: str) -> dict[str, Any]:
        """The current reading as a JSON document."""
        document = {"status": self._taken().status, "uses": self.uses(sort), "latencies": self.latencies()}
        return dict(msgspec.to_builtins(document))

    def _taken(self) -> Metrics:
        assert self.now is not None
        return self.now


@command(app, "top", example="hsmd top\nhsmd top --sort failures\nhsmd top --json --count 3 | jq .uses")
def top(
    session: Session,
    every: Annotated[float, typer.Option("--every", min=0.2, max=3600, help="Interval in seconds.")] = 1.0,
    count: Annotated[
        int, typer.Option("--count", "-n", min=0, help="Number of readings; 0: until interrupted.")
    ] = 0,
    sort: Annotated[
        str, typer.Option("--sort", metavar="ORDER", help=f"Order of the rows: {', '.join(SORTS)}.")
    ] = "rate",
) -> None:
    """Show live rates and latencies of key use by client.

    In a terminal, press q to quit and s to change the order. In a pipe it prints one reading, with the rates of the last
    seconds. With --json it prints one object per reading, each on one line.
    """
    if sort not in SORTS:
        raise CommandError(
            f"--sort {sort!r} is not a valid order", f"give one of {', '.join(SORTS)}", Exit.USAGE
        )
    reading = Reading(session)
    reading.take()
    if session.output.as_json:
        _stream(reading, every, count, sort)
    elif sys.stdout.isatty() and sys.stdin.isatty():
        _live(reading, every, count, sort)
    else:
        session.output.show({}, lambda: (*_facts(reading), use_table(reading.uses(sort))))


def _stream(reading: Reading, every: float, count: int, sort: str) -> None:
    """Print one object per line, in ASCII, so that no name can contain a line break."""
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
    readings, problem = 1, ""
    with _keys() as key, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(_screen(reading, sort, problem, console.size.height), refresh=True)
            if readings == count:
                return
            next_reading = time.monotonic() + every
            while (left := next_reading - time.monotonic()) > 0:
                pressed = key(left)
                if pressed in ("q", "Q", "\x04"):
                    return
                if pressed in ("s", "S"):
                    sort = orders[(orders.index(sort) + 1) % len(orders)]
                    live.update(_screen(reading, sort, problem, console.size.height), refresh=True)
            try:
                reading.take()
                problem = ""
            except HsmdError as error:
                if error.code not in _TEMPORARY:
                    raise
                problem = error.text
            readings += 1


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Read single keys without Enter: yields a function that waits up to a number of seconds; restores the terminal."""
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


def _screen(reading: Reading, sort: str, problem: str, height: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    facts = _facts(reading)
    uses = reading.uses(sort)
    status = reading.now.status if reading.now is not None else None
    used = _RESERVED_LINES + 3 + (len(status.tokens) if status is not None else 0) + len(reading.latencies())
    rows = max(1, height - used)
    left = f"; {len(uses) - rows} more rows" if len(uses) > rows else ""
    foot = f"q quit, s sort (by {sort}){left}"
    if problem:
        return Group(
            *facts,
            use_table(uses[:rows]),
            Text(f"NO ANSWER: {escape(problem)}; trying again", style="bold red"),
        )
    return Group(*facts, use_table(uses[:rows]), Text(foot, style="dim"))


# --- what is shown ---


def _facts(reading: Reading) -> tuple[RenderableType, ...]:
    status = reading._taken().status
    tokens = [("token", token_line(token)) for token in status.tokens]
    return (fields([*_daemon(status), *tokens, *map(_latency, reading.latencies())]), "")


def _daemon(status: DaemonStatus) -> list[tuple[str, str]]:
    findings = status.findings if status.level else judge(status)
    sessions = f"{status.connections} connections ({status.starting} logging in), {status.sessions} sessions"
    return [
        ("health", health_line(status.level or level_of(findings), findings[:MOST_FINDINGS])),
        ("daemon", sessions),
        (
            "audit",
            f"{status.audit_records} records, {status.audit_covered} covered by a signed checkpoint",
        ),
    ]


def _latency(view: LatencyView) -> tuple[str, str]:
    return (
        "latency",
        f"{view.purpose} {view.key_type}: p50 {_bound(view.p50_ms)}, p99 {_bound(view.p99_ms)}",
    )


def _bound(bound_ms: float | None) -> str:
    return "above all buckets" if bound_ms is None else f"<= {bound_ms:g} ms"
