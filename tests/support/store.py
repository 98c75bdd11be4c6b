"""Records for tests of the store."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256

from hsmd.algorithms import KeyType
from hsmd.daemon.store import KeyRecord
from hsmd.purposes import expand, with_daemon_purposes

NOW = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)


def key_record(
    name: str,
    *,
    purposes: tuple[str, ...] = ("tls-server",),
    seed: str = "",
    key_type: KeyType = KeyType.P256,
) -> KeyRecord:
    """A key record; the same seed (default: its name) gives the same key pair."""
    public_key = f"public key of {seed or name}".encode()
    return KeyRecord(
        name=name,
        key_type=key_type,
        digest=sha256(public_key).digest(),
        public_key=public_key,
        purposes=with_daemon_purposes(expand(purposes)),
        token="main",
        created_at=NOW,
        warnings=("extractable",),
    )
