"""Identities: the client that the daemon takes a connection for, and what proved it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from hsmd.daemon.front.access.credentials import Credential, DaemonCredential
from hsmd.protocol.roles import Role


@dataclass(frozen=True, slots=True)
class Identity:
    """An authenticated client; only a `Snapshot` makes one for a connection.

    `expires_at` (aware UTC) is when the certificate ends, None for public keys and certificates without end.
    """

    client: str
    role: Role
    credential: Credential
    expires_at: datetime | None = None
    marks: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    """What a revocation could name: see `RevocationRecord.mark`."""

    def expired(self, now: datetime) -> bool:
        """Whether the certificate has ended (OpenSSH PROTOCOL.certkeys: valid before, not at, its end)."""
        return self.expires_at is not None and now >= self.expires_at


DAEMON = Identity("", Role.OPERATOR, DaemonCredential())
"""The daemon itself: it makes the key for checkpoints, and signs them."""
