"""Identities: who the daemon takes a connection for."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from hsmd.protocol.roles import Role


@dataclass(frozen=True, slots=True)
class Identity:
    """An authenticated client; only a `Snapshot` makes one for a connection.

    `credential` is the fingerprint of a public key, or `cert:<serial> <CA fingerprint>` for a certificate;
    `expires_at` (aware UTC) is when the certificate ends, None for public keys and certificates without end.
    """

    client: str
    role: Role
    credential: str
    expires_at: datetime | None = None
    marks: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    """What a revocation could name: see `RevocationRecord.mark`."""

    @property
    def anchor(self) -> str:
        """The fingerprint that the store must go on trusting: the public key's or the CA's."""
        return self.credential.rpartition(" ")[2]

    def expired(self, now: datetime) -> bool:
        """Whether the certificate has ended (OpenSSH PROTOCOL.certkeys: valid before, not at, its end)."""
        return self.expires_at is not None and now >= self.expires_at
