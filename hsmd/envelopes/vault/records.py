"""Statements about records: what an owner signs of each deposited key, because an envelope alone cannot bind it.

The statements of one version of a record form a chain. Each says everything that holds from then on.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

from hsmd.envelopes import header
from hsmd.envelopes.envelope import MAX_ENVELOPE_BYTES, Envelope
from hsmd.envelopes.vault import fields, signing
from hsmd.envelopes.vault.about import deposit_about
from hsmd.envelopes.vault.management_keys import ManagementKeyStatement
from hsmd.envelopes.vault.signing import SigningPublicKey
from hsmd.errors import EnvelopeInvalid

FORMAT = "hsmd-vault-record/1"
_WHAT = "record statement"
_CHECK = fields.Check(_WHAT)


class Mode(StrEnum):
    """What happens beyond the maximum of uses. The term is enforced in both."""

    NOTIFY = "notify"
    """It is announced."""
    DENY = "deny"
    """It is announced, and the key is not given out."""


class RecordStanding(StrEnum):
    """What the owner says of the key itself; it only moves downwards in this list, and from revoked to compromised."""

    LIVE = "live"
    REVOKED = "revoked"
    COMPROMISED = "compromised"
    DESTROYED = "destroyed"
    """The envelope is deleted; the statements stay."""


_MOVES = {
    RecordStanding.LIVE: frozenset(RecordStanding),
    RecordStanding.REVOKED: frozenset(RecordStanding) - {RecordStanding.LIVE},
    RecordStanding.COMPROMISED: frozenset({RecordStanding.COMPROMISED, RecordStanding.DESTROYED}),
    RecordStanding.DESTROYED: frozenset({RecordStanding.DESTROYED}),
}

ALWAYS = frozenset({"number", "previous", "stated_at"})
"""Members in which every statement differs from the one before."""
FIXED = frozenset({"owner", "record", "version", "kind", "key"})
"""Members that never change within a version."""
LIMITS = frozenset({"not_before", "not_after", "max_uses", "mode", "reason"})
"""Members that a change of term and uses may change."""
REVOKE = frozenset({"standing", "reason", "compromised_at"})
DESTROY = REVOKE | {"envelope"}
REWRAP = frozenset({"management", "suite", "envelope"})
"""Members that the replacement of a management key may change."""
ANY_CHANGE = LIMITS | DESTROY | REWRAP


@dataclass(frozen=True, slots=True)
class RecordStatement:
    """What holds for one version of a record. Raises EnvelopeInvalid for what cannot be stated."""

    owner: str
    record: str
    version: int
    number: int
    """1 for the deposit, and one more for each later statement about this version."""
    previous: str
    """SHA-256 in hex of the text of the statement before; empty for number 1."""
    stated_at: str
    kind: header.Kind
    key: str
    """In hex: SHA-256 of the SubjectPublicKeyInfo; of a secret key, `symmetric.key_check`."""
    suite: header.Suite
    """Suite of the envelope."""
    envelope: str
    """SHA-256 in hex of the envelope; empty once it is destroyed."""
    management: str
    """SHA-256 in hex of the text of the management-key statement whose wrapping key opens the envelope."""
    not_before: str = ""
    not_after: str = ""
    max_uses: int = 0
    """How often the key may be taken out; 0 for no limit."""
    mode: Mode = Mode.NOTIFY
    standing: RecordStanding = RecordStanding.LIVE
    reason: str = ""
    compromised_at: str = ""
    """Since when the key must be taken for known to others: set from `compromised` on, and in no other case."""

    def __post_init__(self) -> None:
        _CHECK.name("owner", self.owner)
        _CHECK.name("record", self.record)
        _CHECK.count("version", self.version, 1)
        _CHECK.count("number", self.number, 1)
        _CHECK.digest("previous", self.previous, optional=True)
        _CHECK.digest("key", self.key)
        _CHECK.digest("envelope", self.envelope, optional=True)
        _CHECK.digest("management", self.management)
        _CHECK.count("max_uses", self.max_uses, 0)
        _CHECK.reason("reason", self.reason)
        _CHECK.time("stated_at", self.stated_at)
        for member in ("not_before", "not_after", "compromised_at"):
            _CHECK.time(member, getattr(self, member), optional=True)
        self._check_together()

    def _check_together(self) -> None:
        if (self.number == 1) != (self.previous == ""):
            raise _CHECK.fault("previous", "is empty for number 1, and for no other number")
        if self.number == 1 and self.standing is not RecordStanding.LIVE:
            raise _CHECK.fault("standing", "is live in number 1")
        if (self.standing is RecordStanding.DESTROYED) != (self.envelope == ""):
            raise _CHECK.fault("envelope", "is empty for a destroyed key, and for no other")
        if self.not_before and self.not_after and self.not_before >= self.not_after:
            raise _CHECK.fault("not_after", "is not after not_before")
        compromised = self.standing is RecordStanding.COMPROMISED
        if compromised != bool(self.compromised_at) and self.standing is not RecordStanding.DESTROYED:
            raise _CHECK.fault("compromised_at", "is set for a compromised key, and for no other")

    def encode(self) -> bytes:
        """The text that is signed."""
        members = {name: getattr(self, name) for name in _NAMES}
        return fields.encode(_WHAT, FORMAT, {name: _plain(value) for name, value in members.items()})

    @classmethod
    def decode(cls, text: bytes) -> RecordStatement:
        """The statement of this text. Raises EnvelopeInvalid unless `encode` makes exactly this text of it."""
        members = fields.decode(text, _WHAT, FORMAT, _NAMES)
        return cls(
            owner=_CHECK.name("owner", members["owner"]),
            record=_CHECK.name("record", members["record"]),
            version=_CHECK.count("version", members["version"], 1),
            number=_CHECK.count("number", members["number"], 1),
            previous=_CHECK.digest("previous", members["previous"], optional=True),
            stated_at=_CHECK.time("stated_at", members["stated_at"]),
            kind=_CHECK.choice("kind", members["kind"], header.Kind),
            key=_CHECK.digest("key", members["key"]),
            suite=_CHECK.choice("suite", members["suite"], header.Suite),
            envelope=_CHECK.digest("envelope", members["envelope"], optional=True),
            management=_CHECK.digest("management", members["management"]),
            not_before=_CHECK.time("not_before", members["not_before"], optional=True),
            not_after=_CHECK.time("not_after", members["not_after"], optional=True),
            max_uses=_CHECK.count("max_uses", members["max_uses"], 0),
            mode=_CHECK.choice("mode", members["mode"], Mode),
            standing=_CHECK.choice("standing", members["standing"], RecordStanding),
            reason=_CHECK.reason("reason", members["reason"]),
            compromised_at=_CHECK.time("compromised_at", members["compromised_at"], optional=True),
        )

    @property
    def digest(self) -> bytes:
        """SHA-256 of the text."""
        return sha256(self.encode()).digest()


_NAMES = frozenset(field.name for field in dataclasses.fields(RecordStatement))


def _plain(value: str | int | StrEnum) -> str | int:
    return value.value if isinstance(value, StrEnum) else value


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A record statement as it is sent and stored."""

    text: bytes
    signature: bytes

    def verify(self, key: SigningPublicKey) -> RecordStatement:
        """The statement, once `key` has signed it. Raises EnvelopeInvalid or ProofInvalid."""
        statement = RecordStatement.decode(self.text)
        key.verify(signing.Kind.RECORD, self.text, self.signature)
        return statement


def follows(older: RecordStatement, newer: RecordStatement, changes: frozenset[str] = ANY_CHANGE) -> None:
    """Raises EnvelopeInvalid unless `newer` may be the next statement after `older`.

    `changes` are the members that may differ: LIMITS, REVOKE, DESTROY or REWRAP for one kind of change.
    """
    if newer.number != older.number + 1:
        raise _CHECK.fault("number", f"is {newer.number}; after {older.number} comes {older.number + 1}")
    if newer.previous != older.digest.hex():
        raise _CHECK.fault("previous", "is not the SHA-256 of the statement before")
    if newer.stated_at < older.stated_at:
        raise _CHECK.fault("stated_at", f"is earlier than {older.stated_at}, that of the statement before")
    other = changed(older, newer) - ALWAYS
    if other - changes:
        raise _CHECK.fault(", ".join(sorted(other - changes)), "differs from the statement before")
    if newer.standing not in _MOVES[older.standing]:
        raise _CHECK.fault("standing", f"does not go from {older.standing} to {newer.standing}")
    if older.compromised_at and not "" < newer.compromised_at <= older.compromised_at:
        raise _CHECK.fault("compromised_at", "is taken back; it may only become earlier")
    if newer.envelope not in ("", older.envelope) and newer.management == older.management:
        raise _CHECK.fault("envelope", "is another one under the same management key")


def changed(older: RecordStatement, newer: RecordStatement) -> frozenset[str]:
    """The names of the members in which the two differ."""
    return frozenset(name for name in _NAMES if getattr(older, name) != getattr(newer, name))


def check_envelope(
    statement: RecordStatement, encoded: bytes, management: ManagementKeyStatement
) -> Envelope:
    """The envelope of `encoded`, not yet opened, once everything that can be read of it is what the statement says.

    Raises EnvelopeInvalid, which names what differs. The store checks a deposit with it, the owner an acquisition.
    """
    if len(encoded) > MAX_ENVELOPE_BYTES or sha256(encoded).hexdigest() != statement.envelope:
        raise EnvelopeInvalid("envelope: its SHA-256 is not the one in the owner's statement")
    if statement.management != management.digest.hex():
        raise _CHECK.fault("management", "is not the SHA-256 of the statement of this management key")
    if statement.owner != management.owner:
        raise _CHECK.fault("owner", "is not the owner of the management key")
    envelope = Envelope.decode(encoded)
    found = envelope.header
    expected = {
        "suite": (found.suite, statement.suite),
        "kind": (found.kind, statement.kind),
        "recipient": (found.recipient, management.recipient),
        "about": (found.about, deposit_about(statement.owner, statement.record, statement.version)),
    }
    if statement.kind is header.Kind.PRIVATE_KEY:
        expected["spki"] = (found.spki.hex(), statement.key)
    for member, (is_there, stated) in expected.items():
        if is_there != stated:
            raise EnvelopeInvalid(f"envelope: {member} in its header is not what the owner's statement says")
    if statement.suite not in management.suite.suites:
        raise _CHECK.fault("suite", f"does not go with a wrapping key of the suite {management.suite}")
    return envelope
