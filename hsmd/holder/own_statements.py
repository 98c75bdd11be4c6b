"""Statements of the owner's as a daemon returns them: verified with the management keys that signed them, and compared with
what this machine has seen.

A daemon cannot make statements. It could give an old one, or none; what was seen shows that (`seen`). Keys that were replaced
are known from the chain of their successors: each statement of a management key has the digest of the one before it, so the key
in use vouches for all before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from hashlib import sha256

from hsmd.envelopes.vault.management_keys import ManagementKeyStatement, SignedManagementKey
from hsmd.envelopes.vault.records import RecordStatement, SignedStatement
from hsmd.errors import EnvelopeInvalid, ProofInvalid
from hsmd.holder.proving import Daemon, Prover
from hsmd.holder.seen import Before, Newest, Seen, Subject, check_newest_version, check_not_older
from hsmd.protocol.messages import MAX_PAGE, ManagementKeyInfo, SignedRecord, VaultKeys, VaultStatements

RESTORED = "restored"
"""How the reason of a statement begins that continues a restored store, which may lack statements that were seen."""


class StatementRefused(ProofInvalid):
    """A statement is not the owner's, or not about what was asked for."""


class ForeignManagementKey(StatementRefused):
    """What the daemon gave belongs to a management key that is not the one in use, nor one before it."""


def listed_keys(daemon: Daemon) -> list[ManagementKeyInfo]:
    """The caller's management keys as the daemon lists them, the newest first. Raises HsmdError."""
    found: list[ManagementKeyInfo] = []
    before = 0
    while True:
        page = daemon.control(VaultKeys(before=before, limit=MAX_PAGE))
        found += page.keys
        if not page.more or not page.keys or not 1 < page.keys[-1].number < (before or math.inf):
            return found  # numbers fall, or a daemon could keep a client in a loop
        before = page.keys[-1].number


class KnownKeys:
    """The management keys that may have signed what an owner has stated: the one in use, and those that it follows."""

    def __init__(
        self,
        current: ManagementKeyStatement,
        listed: Iterable[ManagementKeyInfo] = (),
        *,
        also_lost: bool = False,
    ) -> None:
        """`listed` comes from the daemon and is believed as far as the chain of digests proves it.

        With `also_lost` keys from before a restart count too, which only the daemon vouches for.
        """
        self.current = current
        self._by_digest = {current.digest.hex(): current}
        earlier = {}
        for info in listed:
            try:
                statement = SignedManagementKey(info.text, info.signature, info.succession).verify_own()
            except (EnvelopeInvalid, ProofInvalid):
                continue
            if statement.owner == current.owner:
                earlier[statement.digest.hex()] = statement
        wanted = current.previous
        while wanted and (found := earlier.pop(wanted, None)) is not None:
            self._by_digest[wanted] = found
            wanted = found.previous
        if also_lost:
            self._by_digest |= earlier

    def verify(self, text: bytes, signature: bytes) -> RecordStatement:
        """The statement, signed by one of these keys. Raises ForeignManagementKey or StatementRefused.

        It names the key that its envelope is sealed to; a later one may have signed it.
        """
        try:
            claimed = RecordStatement.decode(text)
        except EnvelopeInvalid as error:
            raise StatementRefused(
                f"the daemon gave a malformed statement: {error.text}; tell the operators"
            ) from None
        for signer in self._by_digest.values():
            try:
                return SignedStatement(text, signature).verify(signer.signing_key)
            except ProofInvalid:
                continue
        if claimed.management not in self._by_digest:
            raise ForeignManagementKey(
                f"{claimed.record} version {claimed.version} was deposited with another management key (statement "
                f"{claimed.management[:16]}...) than number {self.current.number} in this file; use the file or backup of "
                "that key"
            )
        raise StatementRefused(
            f"the statement about {claimed.record} version {claimed.version} is not signed by your management key: it was "
            "altered; do not use the key, and tell the operators"
        )


def check_subject(statement: RecordStatement, subject: Subject) -> None:
    """Raises StatementRefused if the statement is about something else than was asked for."""
    found = Subject(statement.owner, statement.record, statement.version)
    if found != subject:
        raise StatementRefused(
            f"the daemon gave a statement about {found} of {found.owner} instead of {subject} of {subject.owner}: deposits were "
            "swapped; do not use the key, and tell the operators"
        )


def newest_of(statement: RecordStatement) -> Newest:
    """What is remembered of a statement."""
    return Newest(statement.number, statement.digest.hex())


def verified(
    prover: Prover,
    seen: Seen,
    text: bytes,
    signature: bytes,
    subject: Subject,
    before: Before,
    *,
    keys: KnownKeys | None = None,
    also_lost: bool = False,
    restored: bool = False,
) -> RecordStatement:
    """The owner's statement about `subject`, not older than what was seen before the daemon was asked. Nothing is remembered.

    It continues what was seen before; or, if another command has seen a newer one meanwhile, that one continues it. Earlier
    management keys are asked for if it needs one. With `restored` it may be older than what was seen: the daemon says that its
    store is from a backup, and the owner is about to state again what holds.
    Raises StatementRefused, ForeignManagementKey, OlderStatement, ConfigurationError, or what the daemon refuses.
    """
    keys = keys or KnownKeys(prover.key.statement)
    try:
        statement = keys.verify(text, signature)
    except StatementRefused:
        listed = listed_keys(prover.daemon)
        keys = KnownKeys(prover.key.statement, listed, also_lost=also_lost)
        statement = keys.verify(text, signature)
    check_subject(statement, subject)
    newest = newest_of(statement)
    if restored:
        return statement
    check_newest_version(before, subject)
    if (asked := before.of(subject)) is not None:
        check_not_older(subject, asked, newest)
    known = seen.newest(subject)
    if known is not None:
        _check_one_history(prover, keys, subject, known, newest)
    return statement


def _check_one_history(
    prover: Prover, keys: KnownKeys, subject: Subject, known: Newest, newest: Newest
) -> None:
    """Raises OlderStatement or StatementRefused unless the later one of the two continues the other."""
    if known.number == newest.number:
        check_not_older(subject, known, newest)
    elif known.number < newest.number:
        _check_continues(prover, keys, subject, known, newest)
    else:
        _check_continues(prover, keys, subject, newest, known)


def _check_continues(
    prover: Prover, keys: KnownKeys, subject: Subject, known: Newest, newest: Newest
) -> None:
    """Raises StatementRefused unless the statements between the two are a chain: nothing was left out or signed twice.

    A statement that the owner has signed after a restore (RESTORED) may leave out what the backup did not have.
    """
    previous, number = known.digest, known.number
    while number < newest.number:
        wanted = VaultStatements(subject.record, subject.version, after=number)
        page = prover.daemon.control(wanted).statements
        for given in page:
            continues = given.number == number + 1 and _previous(given.text) == previous
            if not number < given.number <= newest.number or not (continues or _restates(keys, given)):
                raise _broken(subject, number + 1)
            previous, number = sha256(given.text).hexdigest(), given.number
        if not page:
            raise _broken(subject, number + 1)
    if previous != newest.digest:
        raise _broken(subject, newest.number)


def _restates(keys: KnownKeys, given: SignedRecord) -> bool:
    """Whether the owner has signed a statement as one that states again what holds after a restore."""
    try:
        return keys.verify(given.text, given.signature).reason.startswith(RESTORED)
    except StatementRefused:
        return False


def _previous(text: bytes) -> str:
    """The digest that a statement continues. Its own signature need not be checked: the newest one's digests cover it."""
    try:
        return RecordStatement.decode(text).previous
    except EnvelopeInvalid:
        return ""


def _broken(subject: Subject, number: int) -> StatementRefused:
    return StatementRefused(
        f"statement {number} of {subject} does not continue what this machine has seen: the daemon withholds or has replaced "
        "some of your statements; do not use the key before you know why"
    )


def learn(seen: Seen, statement: RecordStatement) -> bool:
    """Remember a statement that was verified; False if another command has seen a newer one meanwhile.

    Raises OlderStatement for two with one number, ConfigurationError or OSError.
    """
    return seen.learn(Subject(statement.owner, statement.record, statement.version), newest_of(statement))
