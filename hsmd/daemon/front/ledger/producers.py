"""Events that are appended in the transaction of what they tell; docs/events.md lists all kinds."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hsmd.daemon.store import ClientRecord, KeyRecord, LoginStop, Readers, Transaction
from hsmd.daemon.store.audience import WATCHING
from hsmd.errors import NotFound
from hsmd.protocol.roles import in_order
from hsmd.transparency.lines import format_time

LONGEST_REASON = 500
"""Characters of a reason, which may name paths and tokens, so that a payload with it is never too long."""


def replace_certificate(
    tx: Transaction,
    key: KeyRecord,
    chain_pem: str,
    not_after: datetime,
    now: datetime,
    not_before: datetime | None = None,
) -> None:
    """Store the chain of a key, and append `certificate.replaced`, unless it is the one that is stored."""
    before = _chain_of(tx, key.name)
    if before == chain_pem:
        return
    tx.certificates.set(key.name, chain_pem, not_after, not_before)
    certificate_replaced(tx, key.name, before, now)


def certificate_replaced(tx: Transaction, name: str, previous_pem: str, now: datetime) -> None:
    """Append `certificate.replaced` for a key that had this chain before, or another key of its name; empty for none."""
    stored = tx.certificates.get(name)
    payload = {
        "key": tx.keys.get(name).digest.hex(),
        "certificate": digest_of_leaf(stored.chain_pem),
        "previous": digest_of_leaf(previous_pem) if previous_pem else "",
        "not_after": format_time(stored.not_after),
    }
    tx.events.append("certificate.replaced", name, readers=tx.audience_of_key(name), payload=payload, now=now)


def client_enrolled(tx: Transaction, client: ClientRecord, fingerprint: str, now: datetime) -> None:
    """Append `client.enrolled`: a client has registered a key with a one-time token."""
    payload = {"roles": [role.value for role in in_order(client.roles)], "fingerprint": fingerprint}
    readers = Readers(WATCHING, frozenset({client.row}))
    tx.events.append("client.enrolled", client.name, readers=readers, payload=payload, now=now)


def stop_logins(tx: Transaction, stop: LoginStop, clearances: int) -> bool:
    """Stop the logins to a token, and append `logins.stopped`, once for each stop; return whether they are stopped.

    They are not if an operator has cleared a stop since the daemon saw this number of clearances (`Logins.stop`).
    """
    if any(earlier.token == stop.token for earlier in tx.logins.stops()):
        return True
    if not tx.logins.stop(stop, clearances):
        return False
    payload = {"daemon": stop.by, "reason": stop.reason[:LONGEST_REASON]}
    tx.events.append("logins.stopped", stop.token, readers=Readers(WATCHING), payload=payload, now=stop.at)
    return True


def digest_of_leaf(chain_pem: str) -> str:
    """SHA-256 of the DER of the first certificate of a chain, in hex."""
    leaf = x509.load_pem_x509_certificate(chain_pem.encode())
    return sha256(leaf.public_bytes(Encoding.DER)).hexdigest()


def _chain_of(tx: Transaction, key: str) -> str:
    try:
        return tx.certificates.get(key).chain_pem
    except NotFound:
        return ""
