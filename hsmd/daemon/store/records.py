"""Frozen records that the store takes and returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from hashlib import sha256
from typing import Any, Generic, TypeVar

from hsmd.algorithms import KeyType
from hsmd.protocol.cursor import Cursor
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """The client to which a key belongs since it was made.

    `name` is its present name, or the one that it had when the key was made if the client was `removed`.
    """

    name: str
    removed: bool = False
    row: int = field(default=0, compare=False)
    """The row id of the client."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key that the daemons serve.

    `digest` is the SHA-256 (32 bytes) of `public_key` (DER SubjectPublicKeyInfo); `purposes` is the ceiling, which
    never changes; `created_at` is aware UTC; `warnings` tells what was unsafe about an adopted key.
    """

    name: str
    key_type: KeyType
    digest: bytes
    public_key: bytes
    purposes: frozenset[Purpose]
    token: str
    created_at: datetime
    warnings: tuple[str, ...] = ()
    owner: KeyOwner | None = None
    row: int = field(default=0, compare=False)
    """Its row id, which no later key of that name gets."""


@dataclass(frozen=True, slots=True)
class AuthorityRecord:
    """A certificate authority: what its key's ceiling permits, as canonical JSON, and its newest revocation list.

    `lists_at` are the URLs of its lists, each of which is for `list_s` seconds. `next_public_key` (DER SubjectPublicKeyInfo)
    is the key that will replace it, in the token `next_token`; both are empty if none is fixed.
    """

    key: str
    constraints: str
    lists_at: tuple[str, ...]
    list_s: int
    next_token: str = ""
    next_public_key: bytes = b""
    list_number: int = 0
    list_der: bytes = b""
    list_ends: datetime | None = None


@dataclass(frozen=True, slots=True)
class IssuedRecord:
    """A certificate that an authority has issued, or was about to: then `certificate` (DER) is empty.

    `serial` is in hex, `names` are its alternative names as texts, `key_digest` is the SHA-256 of the certified key.
    `client` is the node that asked for it; empty if no node did, or the node is no client any more.
    """

    authority: str
    serial: str
    profile: str
    subject: str
    names: tuple[str, ...]
    key_digest: bytes
    not_before: datetime
    not_after: datetime
    certificate: bytes = b""
    revoked_at: datetime | None = None
    reason: str = ""
    client: str = ""
    row: int = field(default=0, compare=False)
    """Its row id: later ones have higher ones."""


@dataclass(frozen=True, slots=True)
class PermitRecord:
    """What certificates a client with the role `node` gets from an authority.

    `term_s` is their term, 0 for the longest that the authority may issue. `since` does not count in comparisons.
    """

    authority: str
    client: str
    profile: str
    common_name: str
    dns_names: tuple[str, ...]
    ip_addresses: tuple[str, ...]
    emails: tuple[str, ...]
    term_s: int
    since: datetime = field(compare=False)


@dataclass(frozen=True, slots=True)
class PermitUse:
    """Certificates of a client that have not ended: how many, and when the first and the last of them end."""

    count: int
    first_ends: datetime | None
    last_ends: datetime | None


@dataclass(frozen=True, slots=True)
class NameSpan:
    """A name of a key, and the time in which the key had it; `until` is None for the present name."""

    name: str
    since: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True)
class PastKey:
    """A key that is or was served, as it is remembered under the number `id`; names in their order."""

    id: int
    digest: bytes
    owner: KeyOwner | None
    made_at: datetime
    destroyed_at: datetime | None
    names: tuple[NameSpan, ...]


@dataclass(frozen=True, slots=True)
class KeySpan:
    """The time in which records about the key with this digest concern a client; None: no bound."""

    digest: bytes
    since: datetime | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class ReadingRights:
    """What a client may read in audit logs.

    Records that name it since `since`, those about `keys` by their digests, and older ones, which hold no digest, by `names`.
    """

    since: datetime
    keys: tuple[KeySpan, ...] = ()
    names: tuple[NameSpan, ...] = ()


@dataclass(frozen=True, slots=True)
class CertificateRecord:
    """The chain (PEM, leaf first) stored for a key; the times are the leaf's. Of earlier releases `not_before` is None."""

    key: str
    chain_pem: str
    not_after: datetime
    not_before: datetime | None = None

    @property
    def mark(self) -> str:
        """A text that another chain would not have."""
        return chain_mark(self.chain_pem)


@dataclass(frozen=True, slots=True)
class ReplacementRecord:
    """The names that the old and the new key have now; from `switched_at` on the new one has that of the old one."""

    key: str
    successor: str
    begun_at: datetime
    switched_at: datetime | None


@dataclass(frozen=True, slots=True)
class ServedRecord:
    """A front end with a grant on a key, and the SHA-256 of the leaf that it reported to serve; without a report empty."""

    client: str
    certificate: bytes
    since: datetime | None


def chain_mark(chain_pem: str) -> str:
    """A text that another chain would not have, in whichever process."""
    return sha256(chain_pem.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class CredentialRecord:
    """A public key that identifies a client: SHA-256 fingerprint as OpenSSH prints it, and OpenSSH line."""

    fingerprint: str
    public_key: str


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """A client; without credentials (in order of fingerprint) it can only connect with certificates."""

    name: str
    roles: frozenset[Role]
    credentials: tuple[CredentialRecord, ...]
    created_at: datetime
    row: int = field(default=0, compare=False)
    """Its row id, which no later client of that name gets."""


DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class UserCaRecord:
    """An OpenSSH CA key whose user certificates are accepted for the clients named, and for no others.

    `max_lifetime_s` is the longest total validity of its certificates; 0 for any.
    """

    fingerprint: str
    public_key: str
    clients: frozenset[str]
    max_lifetime_s: int = DAY_S


@dataclass(frozen=True, slots=True)
class RevocationRecord:
    """A credential that is refused even if a trusted CA certifies it.

    `kind` is `key` (value: fingerprint of a public key, certified or not, or of a CA), or `serial` or `key-id` of
    certificates of the CA with `ca_fingerprint` (empty for keys).
    """

    kind: str
    ca_fingerprint: str
    value: str
    created_at: datetime

    @property
    def mark(self) -> str:
        """The entry in `Identity.marks` of each identity that this revokes."""
        return f"{self.kind} {self.ca_fingerprint} {self.value}"


@dataclass(frozen=True, slots=True)
class EnrolmentRecord:
    """A one-time token as stored: its id and the SHA-256 of its secret; `expires_at` is aware UTC."""

    id: str
    client: str
    secret_sha256: bytes
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Limits:
    """What limits a grant. `max_uses` is the total, uses that were counted before included; `not_after` is aware UTC.

    `request` is the request that caused the grant, for people; `constraints` what restricts the purpose, in canonical
    JSON (hsmd.purposes.AllowedNames). Empty texts and None mean that there is no such limit.
    """

    not_after: datetime | None = None
    max_uses: int | None = None
    request: str = ""
    constraints: str = ""


@dataclass(frozen=True, slots=True)
class LimitedGrantRecord:
    """A grant of one purpose with limits. `used` counts its uses; `held`: after a restore that count is not known."""

    id: int
    client: str
    key: str
    key_digest: bytes
    purpose: Purpose
    limits: Limits
    used: int
    held: bool
    created_at: datetime

    @property
    def left(self) -> int | None:
        """How many uses are left; None if the number is not limited."""
        limit = self.limits.max_uses
        if limit is None:
            return None
        return 0 if self.held else max(0, limit - self.used)


@dataclass(frozen=True, slots=True)
class GrantRecord:
    """The purposes for which a client may use a key: without limits, and within limits where those were asked for."""

    client: str
    key: str
    key_digest: bytes
    purposes: frozenset[Purpose]
    limited: tuple[LimitedGrantRecord, ...] = ()


class NotCounted(Enum):
    """Why the store did not count a use of a limited grant: it must not take place."""

    REMOVED = "removed"
    EXPIRED = "expired"
    EXHAUSTED = "exhausted"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class WantedUse:
    """A use of a limited grant that the store is asked to count; `attempt` is the index of its attempt in the log `origin`."""

    grant: int
    origin: str
    attempt: int
    client: str
    key_digest: bytes
    purpose: int


@dataclass(frozen=True, slots=True)
class CountedUse:
    """A use that was counted, and which one of its grant it is."""

    wanted: WantedUse
    number: int
    counted_at: datetime

    @property
    def id(self) -> UseId:
        """What no other use has."""
        return self.wanted.grant, self.number


UseId = tuple[int, int]
"""The limited grant and the number of a use."""


@dataclass(frozen=True, slots=True)
class LoginStop:
    """No daemon in the fleet logs in to this token until an operator clears it; `token` is its name in hsmd.toml."""

    token: str
    at: datetime
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Lease:
    """A turn that one holder has until `until`; a later one has a higher `term`."""

    name: str
    holder: str
    term: int
    until: datetime


@dataclass(frozen=True, slots=True)
class LoginClaim:
    """Whether a daemon, and no other at the same time, may log in to a token; if logins are stopped, why.

    `cleared`: an operator has cleared a stop; this one login may be tried despite the warnings in the token's flags.
    `lease`: the turn, if it was claimed; `clearances`: how many clearances there had been.
    """

    granted: bool
    cleared: bool = False
    stop: LoginStop | None = None
    lease: Lease | None = None
    clearances: int = 0


@dataclass(frozen=True, slots=True)
class ReaderRecord:
    """A client that may read all records about a key."""

    key: str
    key_digest: bytes
    client: str


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The newest known checkpoint of the log `origin`: its size, root (32 bytes) and verifier key."""

    origin: str
    size: int
    root: bytes
    key: str


@dataclass(frozen=True, slots=True)
class Readers:
    """Who may read an event: clients with any of these roles, and clients by row id, which no other client inherits."""

    roles: frozenset[Role] = frozenset()
    clients: frozenset[int] = frozenset()

    def names(self) -> frozenset[str]:
        """The readers as they stand in the store."""
        roles = (f"role:{role.value}" for role in self.roles)
        return frozenset((*roles, *(f"client:{client}" for client in self.clients)))


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Something that happened: `cursor` is its identity and the position after it."""

    cursor: Cursor
    kind: str
    subject: str
    payload: dict[str, Any]
    at: datetime


class Gap(Enum):
    """What a reader may have missed between its cursor and the first event of a page."""

    NONE = "none"
    EXPIRED = "expired"
    """Events after the cursor were removed because of their age or number."""
    RESTORED = "restored"
    """The store was restored from a backup: events that were appended after the backup was made are lost."""
    UNKNOWN = "unknown"
    """The cursor is not of this ledger or is ahead of it: the page starts with the oldest event."""


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events, oldest first, and the cursor to read on from; `more` tells whether there are further ones already."""

    events: tuple[EventRecord, ...]
    cursor: Cursor
    gap: Gap
    more: bool

    @property
    def missed(self) -> bool:
        """Whether the reader may have missed events before those of this page."""
        return self.gap is not Gap.NONE


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list; `more` tells whether further items follow the last of `items`."""

    items: tuple[T, ...]
    more: bool

    @classmethod
    def cut(cls, items: Sequence[T], limit: int) -> Page[T]:
        """A page of at most `limit` items, from a query for one item more than that."""
        return cls(tuple(items[:limit]), len(items) > limit)
