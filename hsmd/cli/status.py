"""`hsmd status`: the daemon's status and the caller's identity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.output import fields, table, when
from hsmd.cli.base.permissions import may
from hsmd.cli.base.rates import UseRate, by_rate, use_rates, use_table
from hsmd.protocol.messages import DaemonStatus, Identity, Metrics, MetricsRead, TokenStatus, WhoAmI

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hsmd.cli.base.output import TextOutput

app = typer.Typer(add_completion=False)


@command(app, "status", example="hsmd status\nhsmd status --json | jq .daemon.tokens[0].state")
def status(session: Session) -> None:
    """Show the daemon's status and your identity: version, tokens and their workers, operations, audit log.

    Rates are averages of the last seconds; `hsmd top` shows them live. Clients that are neither operators nor auditors see
    only their identity.
    """
    identity = session.ask(WhoAmI(), Identity)
    metrics = session.ask(MetricsRead(), Metrics) if may(identity, MetricsRead) else None
    daemon = metrics.status if metrics is not None else None
    uses = use_rates(metrics, None, 1.0) if metrics is not None else []
    document = {"identity": identity, "daemon": daemon, "uses": uses}
    session.output.show(document, lambda: _text_output(identity, daemon, uses))


def _text_output(identity: Identity, daemon: DaemonStatus | None, uses: list[UseRate]) -> TextOutput:
    roles = ", ".join(identity.roles or [identity.role])
    which = "roles" if len(identity.roles) > 1 else "role"
    you = ("you", f"{identity.client} ({roles}), {identity.credential}")
    if daemon is None:
        return fields([("daemon", identity.daemon), you, ("state", f"not available to the {which} {roles}")])
    return (
        fields([("daemon", f"{identity.daemon}, version {daemon.version}"), you, *_facts(daemon)]),
        *(f"token {token.name}: {_problem(token)}" for token in daemon.tokens if _problem(token)),
        _workers(daemon.tokens),
        *(["", use_table(sorted(uses, key=by_rate))] if uses else []),
    )


def _problem(token: TokenStatus) -> str:
    """The reason why requests for the token's keys fail; empty if they do not."""
    if token.breaker == "closed" and not token.reason:
        return ""
    return f"breaker {token.breaker}: {token.reason or 'no reason given'}; see hsmd token list"


def _facts(daemon: DaemonStatus) -> list[tuple[str, str]]:
    audit = f"{daemon.audit_records} records, head {daemon.audit_head[:16]}"
    return [
        ("state", "draining" if daemon.draining else "running"),
        ("since", when(daemon.started_at)),
        ("connections", f"{daemon.connections} ({daemon.starting} logging in), {daemon.sessions} sessions"),
        ("store", f"keys {daemon.keys}, clients {daemon.clients}, grants {daemon.grants}"),
        ("audit warning", daemon.audit_warning),
        (
            "audit",
            audit if daemon.audit_writable else f"NOT WRITABLE, all key operations are refused; {audit}",
        ),
        (
            "operations",
            ", ".join(f"{name} {count}" for name, count in sorted(daemon.operations.items())) or "none yet",
        ),
    ]


def _workers(tokens: list[TokenStatus]) -> RenderableType:
    rows = [
        (
            token.name,
            token.label,
            token.state,
            str(token.queued),
            str(worker.pid),
            worker.state,
            str(worker.in_flight),
            str(worker.restarts),
        )
        for token in tokens
        for worker in token.workers
    ]
    rows += [
        (token.name, token.label, token.state, str(token.queued), "-", "none", "-", "-")
        for token in tokens
        if not token.workers
    ]
    return table(
        ("TOKEN", "LABEL", "STATE", "QUEUED", "WORKER", "WORKER STATE", "IN FLIGHT", "RESTARTS"), rows
    )
