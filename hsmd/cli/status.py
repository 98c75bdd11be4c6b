"""`hsmd status`: whether handshakes work now, the daemon's status and the caller's identity."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.health import end, health_foot, health_text
from hsmd.cli.base.output import fields, when
from hsmd.cli.base.permissions import may
from hsmd.cli.base.rates import UseRate, by_rate, use_rates, use_table
from hsmd.cli.base.workers import all_up, token_line, worker_table
from hsmd.errors import BadRequest, Refused
from hsmd.health.daemon import judge
from hsmd.health.levels import level_of
from hsmd.protocol.messages import (
    DaemonStatus,
    Health,
    HealthRead,
    Identity,
    Metrics,
    MetricsRead,
    WhoAmI,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hsmd.cli.base.output import TextOutput

app = typer.Typer(add_completion=False)
START_S, PAUSE_S = 5.0, 0.2
"""How long a token that is starting is waited for: `hsmd status` is often the first command after a start."""
MOST_USES = 5
"""Rows of uses that are shown. With them the status of a daemon that is well fits into a terminal of 24 lines."""


@command(
    app,
    "status",
    example="hsmd status\nhsmd status --workers\nhsmd status --json | jq .daemon.tokens[0].state",
)
def status(
    session: Session,
    workers: Annotated[
        bool, typer.Option("--workers", help="Show each worker, also while all of them are up.")
    ] = False,
) -> None:
    """Show whether handshakes work now and what to do if not; then version, tokens, operations, audit log and key uses.

    Workers have a line each if one of their token is not up. Of the uses of keys the most frequent ones are shown.

    Exit code 0: handshakes work, and nothing needs attention. 5: they work, but may not for long. 4: handshakes fail, all
    or some. 3: the daemon cannot be reached. A token that is just starting is waited for, up to 5 seconds. Rates are
    averages of the last seconds; `hsmd top` shows them live. Clients that are neither operators nor auditors see the health
    without reasons, and their identity; those that make no handshakes, such as owners and checkers, whether the daemon works.
    """
    identity = session.ask(WhoAmI(), Identity)
    metrics = _metrics(session) if may(identity, MetricsRead) else None
    daemon = metrics.status if metrics is not None else None
    health = _health_of(daemon) if daemon is not None else _health_alone(session)
    uses = use_rates(metrics, None, 1.0) if metrics is not None else []
    document = {"identity": identity, "daemon": daemon, "uses": uses, "health": health}
    session.output.show(document, lambda: _text_output(identity, daemon, uses, health, every_worker=workers))
    if health is not None:
        end(health.level)


def _metrics(session: Session) -> Metrics:
    """Status and counters; a token that is just starting has a moment to become ready."""
    until = time.monotonic() + START_S
    while True:
        metrics = session.ask(MetricsRead(), Metrics)
        starting = {each.condition for each in metrics.status.findings} == {"token-starting"}
        if not starting or time.monotonic() >= until:
            return metrics
        time.sleep(PAUSE_S)


def _health_of(daemon: DaemonStatus) -> Health:
    """As the daemon judges itself. One of an earlier release does not; what it tells is judged here then."""
    if daemon.level:
        return Health(daemon.level, daemon.findings)
    findings = judge(daemon)
    return Health(level_of(findings), findings)


def _health_alone(session: Session) -> Health | None:
    """What any client may know; None from a daemon of an earlier release."""
    try:
        return session.ask(HealthRead(), Health)
    except (BadRequest, Refused):
        return None


def _text_output(
    identity: Identity,
    daemon: DaemonStatus | None,
    uses: list[UseRate],
    health: Health | None,
    *,
    every_worker: bool,
) -> TextOutput:
    roles = ", ".join(identity.roles or [identity.role])
    which = "roles" if len(identity.roles) > 1 else "role"
    you = ("you", f"{identity.client} ({roles}), {identity.credential}")
    first = (
        ()
        if health is None
        else health_text(health.level, health.findings, handshakes=_makes_handshakes(identity))
    )
    last = () if health is None else health_foot(health.level)
    if daemon is None:
        unknown = ("status", f"not available to the {which} {roles}")
        return (*first, fields([("daemon", identity.daemon), you, unknown]))
    about = f"{identity.daemon}, version {daemon.version}, since {when(daemon.started_at)}"
    told = [token for token in daemon.tokens if every_worker or not all_up(token)]
    return (
        *first,
        fields([("daemon", about), you, *_facts(daemon)]),
        *(["", worker_table(told)] if told else []),
        *_uses(uses),
        *last,
    )


def _makes_handshakes(identity: Identity) -> bool:
    """Whether handshakes are what the client is there for, or looks after."""
    return may(identity, MetricsRead) or bool({"front-end"} & {identity.role, *identity.roles})


def _uses(uses: list[UseRate]) -> tuple[str | RenderableType, ...]:
    if not uses:
        return ()
    shown = use_table(sorted(uses, key=by_rate)[:MOST_USES])
    more = len(uses) - MOST_USES
    return ("", shown, f"and {more:,} more: hsmd top, hsmd status --json") if more > 0 else ("", shown)


def _facts(daemon: DaemonStatus) -> list[tuple[str, str]]:
    return [
        ("connections", f"{daemon.connections} ({daemon.starting} logging in), {daemon.sessions} sessions"),
        ("store", f"keys {daemon.keys}, clients {daemon.clients}, grants {daemon.grants}"),
        ("certificates", _certificates(daemon)),
        ("audit", f"{daemon.audit_records} records, head {daemon.audit_head[:16]}"),
        (
            "operations",
            ", ".join(f"{name} {count}" for name, count in sorted(daemon.operations.items())) or "none yet",
        ),
        *(("token", token_line(token)) for token in daemon.tokens),
    ]


def _certificates(daemon: DaemonStatus) -> str:
    """How many there are, and which ends first; empty if there are none."""
    if not daemon.certificates:
        return ""
    ends = [each for each in daemon.first_certificate_ends if each.state != "ended"]
    first = f"; next to end: {ends[0].key}, {when(ends[0].not_after)}" if ends else ""
    return f"{daemon.certificates}, {daemon.certificates_ended} ended, {daemon.certificates_ending} end soon{first}"
