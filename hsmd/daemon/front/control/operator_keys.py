"""The Ed25519 keys with which operators sign declarations, for the handlers that verify or show them."""

from __future__ import annotations

from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.errors import ProtocolError
from hsmd.transparency.declaration import operator_verifier
from hsmd.transparency.note import Verifier


async def keys_of(cache: SnapshotCache, identity: Identity) -> list[Verifier]:
    """The public keys of this operator that can sign a note."""
    record = await cache.read(lambda tx: tx.clients.get(identity.client))
    found = []
    for credential in record.credentials:
        try:
            found.append(operator_verifier(credential.public_key))
        except ProtocolError:
            continue
    return found
