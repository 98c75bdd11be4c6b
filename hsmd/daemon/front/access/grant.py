"""Grants as decisions return them: one client, one key, one purpose."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from hsmd.algorithms import KeyType
from hsmd.daemon.store.records import KeyRecord, LimitedGrantRecord
from hsmd.errors import BadRequest
from hsmd.purposes import GRANTABLE, WITH_ALLOWED_NAMES, AllowedNames


@dataclass(frozen=True, slots=True)
class Grant:
    """Permission of one client to use one key for one purpose; key operations are carried out for a grant only."""

    client: str
    key_name: str
    key: bytes
    purpose: int
    token: str
    key_type: KeyType
    cost: float
    """What one use counts when the token is shared fairly among clients (KeyFacts.work)."""
    limit: int | None = None
    """The id of a limited grant, whose uses the store decides about and counts; None without limits."""
    not_after: datetime | None = None
    allowed: AllowedNames | None = None
    """The names for which certificates may be requested."""

    def has_ended(self, now: datetime) -> bool:
        """Whether the time until which it was granted has passed."""
        return self.not_after is not None and self.not_after <= now


def grant_of(client: str, key: KeyRecord, purpose: int) -> Grant:
    """A grant without limits."""
    return Grant(client, key.name, key.digest, purpose, key.token, key.key_type, key.key_type.facts.work)


def limited_grant_of(client: str, key: KeyRecord, record: LimitedGrantRecord) -> Grant | None:
    """A limited grant; None if it is for a purpose that the key is not for, or its constraints are not known to this release."""
    if record.purpose not in key.purposes & GRANTABLE:
        return None
    try:
        allowed = AllowedNames.parse(record.limits.constraints) if record.limits.constraints else None
    except BadRequest:
        return None
    if (allowed is not None) != (record.purpose in WITH_ALLOWED_NAMES):
        return None
    return Grant(
        client=client,
        key_name=key.name,
        key=key.digest,
        purpose=int(record.purpose),
        token=key.token,
        key_type=key.key_type,
        cost=key.key_type.facts.work,
        limit=record.id,
        not_after=record.limits.not_after,
        allowed=allowed,
    )
