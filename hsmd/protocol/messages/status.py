"""Control requests about the connection and the daemon itself."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Struct

from hsmd.protocol.messages.base import ANY_ROLE, AUDITOR, NO_SUBJECT, OPERATOR, Request
from hsmd.protocol.messages.enumerations import (
    BREAKER_STATE,
    CALLER_ROLE,
    CERTIFICATE_STATE,
    CONDITION,
    LEVEL,
    ROLE,
    TOKEN_STATE,
    WORKER_ROLE,
    WORKER_STATE,
)
from hsmd.protocol.messages.health import Finding

__all__ = [
    "CertificateEnd",
    "DaemonStatus",
    "Identity",
    "ListEnd",
    "Status",
    "TokenStatus",
    "UpstreamDaemon",
    "WhoAmI",
    "WorkerStatus",
]


class UpstreamDaemon(Struct):
    """A daemon in the configuration of an agent."""

    address: str
    connected: bool
    """Whether it would be sent requests now."""


class Identity(Struct, omit_defaults=True):
    """The client that the daemon or agent takes the caller for."""

    client: str
    role: Annotated[str, CALLER_ROLE.meta]
    credential: str
    """SHA-256 fingerprint of the public key; of a certificate `cert:SERIAL FINGERPRINT-OF-ITS-CA`; from an agent `uid:UID`."""
    daemon: str
    """Name of the daemon; from an agent the address of the daemon in use, empty if there is none."""
    problems: list[str] = []
    """From an agent: why it refuses daemons."""
    notices: list[str] = []
    """From an agent: breaks of audit logs that it accepted because an operator declared them."""
    roles: list[Annotated[str, ROLE.meta]] = []
    """From a daemon: all roles that the client has at this address; `role` is the first."""
    warnings: list[str] = []
    """From an agent: what it does not serve."""
    daemons: list[UpstreamDaemon] = []
    """From an agent: the daemons of its configuration, in the order in which it tries them."""

    def __post_init__(self) -> None:
        if self.role != "agent" and not self.roles:  # from a daemon of a release with one role per client
            self.roles = [self.role]


class WhoAmI(Request, tag="whoami"):
    """Return the identity of the caller."""

    Result = Identity
    roles = ANY_ROLE
    changes = False
    subject = NO_SUBJECT
    agents = True


class WorkerStatus(Struct):
    """One token worker process."""

    pid: int
    state: Annotated[str, WORKER_STATE.meta]
    in_flight: int
    """Operations that the worker has and has not answered."""
    restarts: int
    """Workers of this token that were lost and replaced; the same number for all its workers."""
    role: Annotated[str, WORKER_ROLE.meta] = ""
    """Empty from earlier versions."""


class TokenStatus(Struct):
    """One token and its workers."""

    name: str
    """Its name in the daemon's configuration."""
    label: str
    serial: str
    state: Annotated[str, TOKEN_STATE.meta]
    queued: int
    """Operations that wait for a worker."""
    workers: list[WorkerStatus]
    abilities: list[str]
    """Names of the PKCS#11 mechanisms that the daemon can use, without `CKM_`."""
    breaker: Annotated[str, BREAKER_STATE.meta] = "closed"
    reason: str = ""
    """Why requests fail; empty if they do not."""
    wrapping: list[str] = []
    """What the token was found to do with wrapped keys when its control worker started: `rsa-oaep-HASH`, `aes-kwp-NUMBER`
    (RFC 5649, by the mechanism with this number), `aes-key-wrap` (RFC 3394)."""
    write_protected: bool = False
    """Whether the token refused a session that could make keys. Its keys are used nevertheless."""


class CertificateEnd(Struct):
    """When the certificate that is stored for a key ends."""

    key: str
    not_after: datetime
    state: Annotated[str, CERTIFICATE_STATE.meta]


class ListEnd(Struct):
    """When the newest revocation list of an authority ends."""

    authority: str
    state: Annotated[str, CERTIFICATE_STATE.meta]
    """`ended` also if there is no list yet."""
    ends: datetime | None = None
    """Null if there is none."""


class DaemonStatus(Struct):
    """The state of a daemon. Counters run since its start."""

    version: str
    started_at: datetime
    draining: bool
    """Whether the daemon is stopping and accepts nothing new."""
    connections: int
    """SSH connections that have logged in."""
    tokens: list[TokenStatus]
    keys: int
    clients: int
    grants: int
    """Combinations of client, key and purpose that are granted."""
    audit_records: int
    audit_head: str
    """Leaf hash of the newest record, hexadecimal."""
    audit_writable: bool
    operations: dict[str, int]
    """Key operations by [Outcome](#outcome)."""
    sessions: int = 0
    """Channels that speak the hsmd protocol."""
    starting: int = 0
    """Connections that have not logged in yet."""
    audit_covered: int = 0
    """Records that the newest checkpoint covers."""
    audit_uncovered_s: int = 0
    """Seconds since the newest checkpoint if there are records that it does not cover, otherwise 0."""
    audit_free_bytes: int = 0
    """Free space on the file system of the log."""
    audit_warning: str = ""
    """That space for the log is short, or why keys are not used although the log can be written."""
    certificates: int = 0
    """Keys for which a certificate is stored."""
    certificates_ended: int = 0
    """Those whose certificate has ended."""
    certificates_ending: int = 0
    """Those whose certificate ends soon ([CertificateState](#certificatestate) `ending`)."""
    first_certificate_ends: list[CertificateEnd] = []
    """The certificates that end first, at most 10, in that order; those that have ended come before the others."""
    audit_fault: str = ""
    """Why the log cannot be written; empty if it can."""
    held: list[Annotated[str, CONDITION.meta]] = []
    """The conditions, of [Condition](#condition), for which no key is used: `log-broken`, `disk-full`, `store-stale`."""
    store_away_s: int = 0
    """Seconds since the store was last reached; 0 if it can be reached."""
    level: Annotated[str, LEVEL.meta] = ""
    """The daemon's health; empty from earlier versions."""
    findings: list[Finding] = []
    """What it follows from, the worst first."""
    first_list_ends: list[ListEnd] = []
    """The revocation lists that end first, at most 10, of authorities whose lists are kept up to date."""


class Status(Request, tag="status"):
    """Return the state of the daemon and its tokens."""

    Result = DaemonStatus
    roles = OPERATOR | AUDITOR
    changes = False
    subject = NO_SUBJECT
