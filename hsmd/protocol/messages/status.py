"""Control requests about the connection and the daemon itself."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from hsmd.protocol.messages.base import ANY_ROLE, AUDITOR, NO_SUBJECT, OPERATOR, Request

__all__ = ["DaemonStatus", "Identity", "Status", "TokenStatus", "WhoAmI", "WorkerStatus"]


class Identity(Struct, omit_defaults=True):
    """The client that the daemon takes the caller for, and the credential that proved it.

    An agent also returns `problems`: why it refuses daemons, and `notices`: breaks of audit logs that it accepted.
    """

    client: str
    role: str
    credential: str
    daemon: str
    problems: list[str] = []
    notices: list[str] = []


class WhoAmI(Request, tag="whoami"):
    """Return the caller's identity."""

    Result = Identity
    roles = ANY_ROLE
    changes = False
    subject = NO_SUBJECT


class WorkerStatus(Struct):
    """One token worker: its process id, state, operations in flight, and how often workers of the token were restarted."""

    pid: int
    state: str
    in_flight: int
    restarts: int


class TokenStatus(Struct):
    """One token and the workers on it.

    `state` is ready, starting, away or login-refused; `breaker` closed, open or probing; `reason` says why requests fail.
    """

    name: str
    label: str
    serial: str
    state: str
    queued: int
    workers: list[WorkerStatus]
    abilities: list[str]
    breaker: str = "closed"
    reason: str = ""


class DaemonStatus(Struct):
    """The state of a daemon; counters run since its start.

    The newest checkpoint covers `audit_covered` records; there have been others for `audit_uncovered_s` seconds.
    """

    version: str
    started_at: datetime
    draining: bool
    connections: int
    tokens: list[TokenStatus]
    keys: int
    clients: int
    grants: int
    audit_records: int
    audit_head: str
    audit_writable: bool
    operations: dict[str, int]
    sessions: int = 0
    starting: int = 0
    """Connections that have not logged in yet."""
    audit_covered: int = 0
    audit_uncovered_s: int = 0
    audit_free_bytes: int = 0
    audit_warning: str = ""
    """Little room for the log, or why keys are not used although the log can be written."""


class Status(Request, tag="status"):
    """Return the daemon's state."""

    Result = DaemonStatus
    roles = OPERATOR | AUDITOR
    changes = False
    subject = NO_SUBJECT
