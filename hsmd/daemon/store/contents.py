"""The contents of the store, whole or as what differs from an earlier version of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from hsmd.daemon.store.records import (
    CertificateRecord,
    ClientRecord,
    GrantRecord,
    KeyRecord,
    LimitedGrantRecord,
    RevocationRecord,
    UserCaRecord,
)


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything that decisions and the snapshot need, from one consistent read, and its `version`.

    `history_behind`: the history of keys lacks what a daemon of an earlier release changed.
    """

    version: int
    keys: tuple[KeyRecord, ...] = ()
    certificates: tuple[CertificateRecord, ...] = ()
    clients: tuple[ClientRecord, ...] = ()
    user_cas: tuple[UserCaRecord, ...] = ()
    grants: tuple[GrantRecord, ...] = ()
    revocations: tuple[RevocationRecord, ...] = ()
    limited_grants: tuple[LimitedGrantRecord, ...] = ()
    statement_endorsements: tuple[str, ...] = ()
    """Operators' notes about the keys that sign statements, newest last."""
    history_behind: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """Which state of the contents was read: a version, and the epoch of the ledger, which a restore ends."""

    version: int
    epoch: str = ""


@dataclass(frozen=True, slots=True)
class CertificateMark:
    """The end of a stored certificate, a text that another chain would not have, and the begin if it is known."""

    not_after: datetime
    mark: str
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """What a client may do with a key: the codes of purposes without limits, and the limited grants without their names."""

    purposes: frozenset[int] = frozenset()
    limited: tuple[LimitedGrantRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class TrustedCa:
    """The row ids of the clients for which a user CA is trusted, and `max_lifetime_s` as in `UserCaRecord`."""

    clients: frozenset[int]
    max_lifetime_s: int


@dataclass(slots=True)
class Difference:
    """Rows that are others at `standing` than they were before, by row ids; None: the row is gone.

    `whole`: all rows there are, for a reader that knows none.
    """

    standing: Standing
    whole: bool = False
    clients: dict[int, ClientRecord | None] = field(default_factory=dict)
    keys: dict[int, KeyRecord | None] = field(default_factory=dict)
    """Of their owners only the row."""
    certificates: dict[int, CertificateMark | None] = field(default_factory=dict)
    """By the row id of the key."""
    grants: dict[tuple[int, int], Held | None] = field(default_factory=dict)
    """By the row ids of client and key."""
    user_cas: dict[str, TrustedCa | None] = field(default_factory=dict)
    """By the fingerprint."""
    revoked: frozenset[str] = frozenset()
    """`RevocationRecord.mark` of each further revocation; none is ever removed."""
    endorsements: tuple[str, ...] | None = None
    """All notes about the keys that sign statements, if there are others than before."""
    history_behind: bool = False
    """As in `Contents`."""

    @property
    def changes_identities(self) -> bool:
        """Whether a client that has logged in may be another one, or none, from now on."""
        return bool(self.whole or self.clients or self.user_cas or self.revoked)
