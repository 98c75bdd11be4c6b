"""What of the vault's rows is proven: each is believed because of signatures, never because the database has it.

A management key counts if a note of the daemons says that an operator has confirmed it, or if the key before it counts and
has signed its succession. A version counts if its newest statement is signed by such a key and says what the row says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from threading import Lock

from hsmd.daemon.front.vault.anchors import Anchors
from hsmd.daemon.store import ManagementKeyRecord, StatementRecord, Transaction, VersionRecord
from hsmd.envelopes.vault import confirmations
from hsmd.envelopes.vault.confirmations import Confirmation
from hsmd.envelopes.vault.fields import format_time
from hsmd.envelopes.vault.management_keys import ManagementKeyStatement, SignedManagementKey
from hsmd.envelopes.vault.records import RecordStatement, SignedStatement
from hsmd.envelopes.vault.signing import SigningPublicKey
from hsmd.errors import EnvelopeInvalid, HsmdError, ProofInvalid, StoreFailure

KEYS_REMEMBERED = 4_096
"""What is proven of a key is remembered, or each question about an owner would cost all its keys back to the first."""
STATEMENTS_REMEMBERED = 4_096
"""Verifying again costs a tenth of a millisecond; a remembered statement, or key, takes 3 KB."""


class Altered(StoreFailure):
    """What the store holds is not what was signed: it was changed behind the daemons' backs, or restored in part."""

    retryable = False


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A management key that counts, and its row."""

    record: ManagementKeyRecord
    statement: ManagementKeyStatement

    @property
    def digest(self) -> bytes:
        """SHA-256 of its statement."""
        return self.record.digest


class ProvenKeys:
    """Statements of management keys that were proven, by all the bytes that prove them; safe to share between threads.

    A proof is made of signatures, so it stays one whatever becomes of the rows.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._statements: dict[bytes, ManagementKeyStatement] = {}
        self._lock = Lock()

    def get(self, record: ManagementKeyRecord) -> ManagementKeyStatement | None:
        """The statement in a row with the same bytes; None if there was none."""
        return self._statements.get(_name_of(record))

    def add(self, record: ManagementKeyRecord, statement: ManagementKeyStatement) -> None:
        """Remember a key, in the place of the oldest one if there are too many."""
        with self._lock:
            self._statements[_name_of(record)] = statement
            if len(self._statements) > self._most:
                del self._statements[next(iter(self._statements))]


def _name_of(record: ManagementKeyRecord) -> bytes:
    parts = record.text, record.signature, record.succession, record.confirmation.encode()
    return sha256(b"".join(sha256(part).digest() for part in parts)).digest()


class Trust:
    """Verifies rows in the transaction that has read them; what was verified is remembered. Safe to share between threads."""

    def __init__(self, anchors: Anchors) -> None:
        self._anchors = anchors
        self._proven_keys = ProvenKeys(KEYS_REMEMBERED)
        self._stated = lru_cache(STATEMENTS_REMEMBERED)(_stated)

    async def ready(self) -> None:
        """Know which of the daemons' keys prove a confirmation; to be awaited before the transaction."""
        await self._anchors.ready()

    # --- management keys ---

    def active(self, tx: Transaction, owner: str) -> TrustedKey | None:
        """The active management key of an owner; None if there is none. Raises Altered if it does not count."""
        record = tx.vault_keys.active(owner)
        return None if record is None else self.key(tx, owner, record)

    def key(self, tx: Transaction, owner: str, record: ManagementKeyRecord) -> TrustedKey:
        """A management key of this owner, once it is proven. Raises Altered."""
        try:
            _check_owner(owner, record.owner)
            return TrustedKey(record, self._proven(tx, record))
        except (EnvelopeInvalid, ProofInvalid) as problem:
            raise Altered(
                f"management key {record.number} of {owner}: nothing proves that it is the owner's",
                detail=problem.text,
            ) from None

    def _proven(self, tx: Transaction, record: ManagementKeyRecord) -> ManagementKeyStatement:
        """Walk back to a key that is confirmed, or was proven before, and forward. Raises EnvelopeInvalid or ProofInvalid."""
        chain = [record]
        while (statement := self._proven_keys.get(chain[-1])) is None and not chain[-1].confirmation:
            chain.append(self._before(tx, chain[-1]))
        first = chain.pop()
        if statement is None:
            statement = self._confirmed(first)
            self._proven_keys.add(first, statement)
        statement = self._matching(first, statement)
        for later in reversed(chain):
            signed = SignedManagementKey(later.text, later.signature, later.succession)
            statement = self._matching(later, signed.verify_succession(statement))
            self._proven_keys.add(later, statement)
        return statement

    def _before(self, tx: Transaction, record: ManagementKeyRecord) -> ManagementKeyRecord:
        previous = SignedManagementKey(record.text, record.signature).verify_own().previous
        before = tx.vault_keys.by_digest(record.owner, bytes.fromhex(previous)) if previous else None
        if before is None or before.number >= record.number:  # numbers fall, so this ends
            raise ProofInvalid("no operator has confirmed it, and no key before it vouches for it")
        return before

    def _confirmed(self, record: ManagementKeyRecord) -> ManagementKeyStatement:
        signed = SignedManagementKey(record.text, record.signature)
        statement = self._matching(record, signed.verify_own())
        note = self._anchors.read(record.confirmation, confirmations.KIND)
        said = Confirmation.from_lines(note.lines)
        if (said.owner, said.management_key, said.number) != (
            statement.owner,
            statement.digest.hex(),
            statement.number,
        ):
            raise ProofInvalid("the confirmation is about another management key")
        return statement

    @staticmethod
    def _matching(record: ManagementKeyRecord, statement: ManagementKeyStatement) -> ManagementKeyStatement:
        if (record.owner, record.number, record.digest) != (
            statement.owner,
            statement.number,
            statement.digest,
        ):
            raise ProofInvalid("its row is not about its statement")
        return statement

    # --- versions of records ---

    def head(
        self, tx: Transaction, owner: str, version: VersionRecord, active: TrustedKey | None = None
    ) -> RecordStatement:
        """The newest statement about a version of this owner, once it is proven and the row says the same. Raises Altered.

        `active`, if given, is the owner's active management key, read in this transaction: most statements are signed by it.
        """
        try:
            _check_owner(owner, version.owner)
            return self._proven_head(tx, version, tx.vault_statements.head(version), active)
        except (EnvelopeInvalid, ProofInvalid) as problem:
            raise altered(version, problem) from None

    def _proven_head(
        self, tx: Transaction, version: VersionRecord, found: StatementRecord, active: TrustedKey | None
    ) -> RecordStatement:
        signer = active
        if signer is None or signer.digest != found.signer:
            record = tx.vault_keys.by_digest(version.owner, found.signer)
            if record is None:
                raise ProofInvalid("no management key of the owner has signed its newest statement")
            signer = self.key(tx, version.owner, record)
        statement = self._stated(SignedStatement(found.text, found.signature), signer.statement.signing)
        if differing := ", ".join(_differences(version, statement)):
            raise ProofInvalid(f"{differing}: not as in the owner's statement")
        return statement


def altered(version: VersionRecord, problem: HsmdError) -> Altered:
    """The error about a version whose row is not what was signed."""
    return Altered(
        f"version {version.version} of {version.record}: the store was changed ({problem.text})",
        detail=problem.text,
    )


def _check_owner(owner: str, named: str) -> None:
    """Raises ProofInvalid for a row that was found under `owner` and names another one, as what was signed for it does."""
    if named != owner:
        raise ProofInvalid(f"its row is one of {named}")


def _stated(signed: SignedStatement, signing: bytes) -> RecordStatement:
    return signed.verify(SigningPublicKey.from_spki(signing))


def _differences(version: VersionRecord, statement: RecordStatement) -> Iterable[str]:
    """The names of what the row and the statement say differently."""
    pairs: dict[str, tuple[object, object]] = {
        "owner": (version.owner, statement.owner),
        "record": (version.record, statement.record),
        "version": (version.version, statement.version),
        "number": (version.number, statement.number),
        "head": (version.head, statement.digest),
        "kind": (version.kind, statement.kind.value),
        "key": (version.key.hex(), statement.key),
        "suite": (version.suite, statement.suite.value),
        "management": (version.management.hex(), statement.management),
        "standing": (version.standing, statement.standing),
        "compromised_at": (_text(version.compromised_at), statement.compromised_at),
        "not_before": (_text(version.not_before), statement.not_before),
        "not_after": (_text(version.not_after), statement.not_after),
        "max_uses": (version.max_uses, statement.max_uses),
        "mode": (version.mode, statement.mode),
    }
    return (name for name, (row, stated) in pairs.items() if row != stated)


def _text(moment: datetime | None) -> str:
    return "" if moment is None else format_time(moment)
