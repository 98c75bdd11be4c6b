"""Acquisitions: what a daemon gives out is verified, compared with what was seen, and only then opened.

The order: the statement is the owner's and about what was asked for; it is not older than one that was seen; the envelope is the
one in it, sealed to this management key, for this purpose; what comes out is the key in the statement.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from hashlib import sha256

from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.header import Kind
from hsmd.envelopes.vault.records import RecordStanding, RecordStatement, check_envelope
from hsmd.envelopes.vault.symmetric import key_check
from hsmd.errors import EnvelopeInvalid
from hsmd.holder.management_keys import ManagementKey
from hsmd.holder.own_statements import (
    ForeignManagementKey,
    StatementRefused,
    learn,
    verified,
)
from hsmd.holder.proving import Prover
from hsmd.holder.seen import Before, Seen, Subject
from hsmd.protocol.messages import VaultAcquired, VaultGet


class EnvelopeAltered(EnvelopeInvalid):
    """The envelope is not the one that the owner stated, or does not hold the key in the statement."""


@dataclass(frozen=True, slots=True)
class Acquired:
    """An envelope that passed every check before it is opened."""

    statement: RecordStatement
    envelope: Envelope = field(repr=False)
    requests: int
    released: int
    uses_left: int
    """-1 for no limit."""
    spki: bytes = b""
    """Public half, whose digest is in the statement; empty for a symmetric key, and from a daemon that does not send it."""

    def open(self, key: ManagementKey) -> bytes:
        """The key: PKCS#8 in DER, or the bytes of a symmetric key. Raises EnvelopeAltered, or HsmdError of a token."""
        try:
            content = key.open(self.envelope)
        except EnvelopeInvalid as error:
            raise EnvelopeAltered(_altered(self.statement, error.text)) from None
        if self.statement.kind is Kind.SECRET_KEY and not hmac.compare_digest(
            key_check(content), self.statement.key
        ):
            raise EnvelopeAltered(_altered(self.statement, "it holds another key than you stated"))
        return content


def get(
    prover: Prover, seen: Seen, record: str, version: int = 0, *, former: ManagementKey | None = None
) -> Acquired:
    """Take a version out (0: the newest one), and verify what came. The use is counted, whatever comes.

    `former`: the management key that is being replaced, to which the envelope may still be sealed (`opener`).
    Raises StatementRefused, ForeignManagementKey, OlderStatement, EnvelopeAltered, other HsmdErrors, or OSError.
    """
    before = seen.before(prover.key.statement.owner, record, version)
    given: VaultAcquired = prover.ask(VaultGet(record, version), record, version)
    subject = Subject(prover.key.statement.owner, record, version or given.version)
    return accept(prover, seen, given, subject, before, former=former)


def accept(
    prover: Prover,
    seen: Seen,
    given: VaultAcquired,
    subject: Subject,
    before: Before,
    *,
    former: ManagementKey | None = None,
) -> Acquired:
    """Verify what a daemon gave, and remember its statement. Raises as `get`."""
    statement = verified(prover, seen, given.text, given.signature, subject, before)
    envelope = checked_envelope(opener(statement, prover.key, former), statement, given.envelope)
    public = given.public
    if public and sha256(public).hexdigest() != statement.key:
        raise EnvelopeAltered(_altered(statement, "the public key beside it is another one"))
    if not learn(seen, statement):  # what another command has seen since has to continue it, too
        verified(prover, seen, given.text, given.signature, subject, before)
    return Acquired(statement, envelope, given.requests, given.released, given.uses_left, public)


def opener(statement: RecordStatement, key: ManagementKey, former: ManagementKey | None) -> ManagementKey:
    """The management key to which the envelope of a statement is sealed: `former` if it names that one, otherwise `key`."""
    if former is not None and statement.management == former.statement.digest.hex():
        return former
    return key


def checked_envelope(key: ManagementKey, statement: RecordStatement, encoded: bytes) -> Envelope:
    """The envelope of a statement, not yet opened. Raises ForeignManagementKey, StatementRefused or EnvelopeAltered."""
    if statement.standing is RecordStanding.DESTROYED:
        raise StatementRefused(
            f"{statement.record} version {statement.version} is destroyed; there is nothing to open"
        )
    if statement.management != key.statement.digest.hex():
        raise ForeignManagementKey(
            f"{statement.record} version {statement.version} is sealed to a management key before number "
            f"{key.statement.number}; name the file of that key with --old-management-key, or finish its replacement: "
            "hsmd vault rekey"
        )
    try:
        return check_envelope(statement, encoded, key.statement)
    except EnvelopeInvalid as error:
        raise EnvelopeAltered(_altered(statement, error.text)) from None


def _altered(statement: RecordStatement, why: str) -> str:
    return (
        f"the envelope of {statement.record} version {statement.version} is not the one that you deposited ({why}); "
        "do not use it: deposit the key again from another copy, and tell the operators"
    )
