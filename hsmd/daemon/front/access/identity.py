"""Identities: the client that the daemon takes a connection for, and what proved it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from hsmd.daemon.front.access.credentials import Credential, DaemonCredential
from hsmd.protocol.roles import Role

NO_END = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Identity:
    """An authenticated client; only `Identities` makes one for a connection.

    `expires_at` (aware UTC) is when its certificate ends; it has expired at that moment, not only after it (OpenSSH
    PROTOCOL.certkeys). `NO_END` for public keys and certificates without end.
    """

    client: str
    roles: frozenset[Role]
    """Those that the client has at the address that it connected to."""
    credential: Credential
    expires_at: datetime = NO_END
    marks: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    """What a revocation could name: see `RevocationRecord.mark`."""
    binding: bytes = field(default=b"", compare=False, repr=False)
    """The session identifier of the SSH connection (RFC 4253, section 7.2), which proofs of management keys name."""

    def at(self, admitted: frozenset[Role]) -> Identity:
        """The identity at an address that admits these roles; without any role if it admits none of the client's."""
        return self if self.roles <= admitted else replace(self, roles=self.roles & admitted)


DAEMON = Identity("", frozenset({Role.OPERATOR}), DaemonCredential())
"""The daemon itself: it makes the key for checkpoints, and signs them."""
