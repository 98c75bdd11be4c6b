"""Frozen records of the vault that the store takes and returns. Digests are SHA-256 (32 bytes), times aware UTC."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from hsmd.envelopes.vault import life_cycle
from hsmd.envelopes.vault.management_keys import ManagementKeyStatement
from hsmd.envelopes.vault.records import Mode, RecordStanding, RecordStatement


class KeyState(StrEnum):
    """What a management key is to the daemons."""

    PENDING = "pending"
    """No operator has confirmed it."""
    ACTIVE = "active"
    REPLACED = "replaced"
    """Another one is active, and deposits may be left under this one."""
    RETIRED = "retired"
    """Another one is active, and no deposit is left; or the owner was removed."""
    LOST = "lost"
    """An operator has confirmed another one that this one does not vouch for."""


@dataclass(frozen=True, slots=True)
class StatedKey:
    """A statement about a management key whose signatures were verified; `succession` is empty unless it has one."""

    statement: ManagementKeyStatement
    text: bytes
    signature: bytes
    succession: bytes = b""


@dataclass(frozen=True, slots=True)
class Stated:
    """A statement about a version of a record whose signature was verified.

    `signer` is the digest of the statement of the management key that signed it.
    """

    statement: RecordStatement
    text: bytes
    signature: bytes
    signer: bytes

    @property
    def size(self) -> int:
        """Bytes that count for the owner's quota."""
        return len(self.text) + len(self.signature)


@dataclass(frozen=True, slots=True)
class ManagementKeyRecord:
    """A management key of an owner.

    `confirmation` is the daemon's note that an operator confirmed it, or empty; `deposits` the number of versions whose
    envelopes are sealed to it, which only `VaultKeys.page` counts. `held`: the store was restored, so the key may have been
    replaced since; an operator has to confirm it again.
    """

    owner: str
    number: int
    digest: bytes
    suite: str
    text: bytes
    signature: bytes
    succession: bytes
    state: KeyState
    confirmation: str
    created_at: datetime
    deposits: int = 0
    held: bool = False
    row: int = field(default=0, compare=False)
    owner_row: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """A version of a record: what its newest statement (`number`, digest `head`) says, and what the store counts and notes.

    `key` is the digest of the public half `spki`; of a secret key, without one, its check value. `newest` is the newest
    version of the record. `max_uses` is 0 for no limit. `held`: the store was restored, so the counts may be too low;
    `management_held`: so is the management key.
    """

    owner: str
    record: str
    version: int
    newest: int
    kind: str
    key: bytes
    spki: bytes
    suite: str
    management: bytes
    management_state: KeyState
    number: int
    head: bytes
    standing: RecordStanding
    reason: str
    compromised_at: datetime | None
    suspended_at: datetime | None
    suspended_reason: str
    held: bool
    ended_at: datetime | None
    not_before: datetime | None
    not_after: datetime | None
    max_uses: int
    mode: Mode
    requests: int
    released: int
    created_at: datetime
    changed_at: datetime
    management_held: bool = False
    row: int = field(default=0, compare=False)
    owner_row: int = field(default=0, compare=False)

    @property
    def superseded(self) -> bool:
        """Whether the record has a newer version."""
        return self.version < self.newest

    @property
    def facts(self) -> life_cycle.Facts:
        """What its standing follows from."""
        return life_cycle.Facts(
            standing=self.standing,
            compromised=self.compromised_at is not None,
            suspended=self.suspended_at is not None,
            held=self.held or self.management_held,
            ended_at=self.ended_at,
            not_before=self.not_before,
            not_after=self.not_after,
            mode=self.mode,
            max_uses=self.max_uses,
            released=self.released,
            superseded=self.superseded,
            lost=self.management_state is KeyState.LOST,
        )

    def judge(self, now: datetime) -> life_cycle.Standing:
        """Its standing at a time."""
        return life_cycle.judge(self.facts, now)


@dataclass(frozen=True, slots=True)
class RecordSummary:
    """A record of an owner: its newest version, and since when it is there."""

    record: str
    created_at: datetime
    newest: VersionRecord


@dataclass(frozen=True, slots=True)
class StatementRecord:
    """A statement about a version, as it is stored."""

    number: int
    text: bytes
    signature: bytes
    signer: bytes


@dataclass(frozen=True, slots=True)
class VaultUsage:
    """What an owner keeps in the vault, as quotas count it: versions that are not destroyed, and bytes."""

    versions: int
    bytes: int


AcquisitionId = tuple[int, int]
"""The row id of a version, and the number of a request for it."""


@dataclass(frozen=True, slots=True)
class Acquisition:
    """A request for an envelope that was counted, and that the log `origin` is to have.

    `request` is its number for this version, `released` the number of the release; 0 if it was refused, for the reason
    `refusal`. `ticket` is what the caller named it.
    """

    version_row: int
    request: int
    released: int
    refusal: str
    origin: str
    ticket: str
    owner: str
    record: str
    version: int
    counted_at: datetime

    @property
    def id(self) -> AcquisitionId:
        """What no other acquisition has."""
        return self.version_row, self.request


@dataclass(frozen=True, slots=True)
class Given:
    """An acquisition that was counted as given out; `version` and the counts in it are those after it."""

    version: VersionRecord
    head: StatementRecord
    envelope: bytes
    acquisition: Acquisition


@dataclass(frozen=True, slots=True)
class NotGiven:
    """An acquisition that was counted as a request only, because of the standing of the version."""

    version: VersionRecord
    standing: life_cycle.Standing
    acquisition: Acquisition


@dataclass(frozen=True, slots=True)
class AllowedCheckers:
    """Who may check an owner's keys: clients, in order of name, and every client with the role `checker` if `checkers`."""

    clients: tuple[str, ...] = ()
    checkers: bool = False


@dataclass(frozen=True, slots=True)
class CheckFacts:
    """What is known for a check that may be answered: the versions with this key, the one to answer with first."""

    owner_row: int
    found: tuple[VersionRecord, ...]


@dataclass(frozen=True, slots=True)
class CheckCount:
    """Checks of one client with the same result, to be added to the sums of an owner; `asker_row` is the client's row id."""

    owner_row: int
    asker: str
    asker_row: int
    record: str
    verdict: str
    at: datetime
    count: int = 1


@dataclass(frozen=True, slots=True)
class CheckSum:
    """How often a client has checked with the same result on a day (`YYYY-MM-DD`, UTC); `row` is a position in the list."""

    row: int
    asker: str
    record: str
    verdict: str
    day: str
    count: int
    first_at: datetime
    last_at: datetime
