"""Deposits: a key is sealed to the management key, stated, and shown to belong to its public half.

Before anything is sent, the envelope is opened again: a management key that cannot open would be noticed only when it is too
late.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import x25519

from hsmd.envelopes.canonical_json import Value
from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.header import Kind
from hsmd.envelopes.vault.about import deposit_about
from hsmd.envelopes.vault.fields import format_time
from hsmd.envelopes.vault.proofs import (
    Proof,
    answer_possession,
    open_possession,
    possession_text,
    sign_possession,
)
from hsmd.envelopes.vault.records import Mode, RecordStatement
from hsmd.envelopes.vault.signing import Kind as Signed
from hsmd.envelopes.vault.symmetric import key_check
from hsmd.errors import BadRequest, NotFound
from hsmd.holder.brought_keys import PrivateKeyToDeposit
from hsmd.holder.management_keys import ManagementKey
from hsmd.holder.own_statements import learn
from hsmd.holder.proving import Daemon, Prover
from hsmd.holder.seen import Seen
from hsmd.protocol.messages import VaultChallenged, VaultDeposited, VaultPut, VaultShow


@dataclass(frozen=True, slots=True)
class Terms:
    """How long and how often a key may be taken out. A `max_uses` of 0 is no limit."""

    not_before: datetime | None = None
    not_after: datetime | None = None
    max_uses: int = 0
    mode: Mode = Mode.NOTIFY

    def members(self) -> dict[str, object]:
        """As members of a statement."""
        return {
            "not_before": format_time(self.not_before) if self.not_before else "",
            "not_after": format_time(self.not_after) if self.not_after else "",
            "max_uses": self.max_uses,
            "mode": self.mode,
        }


class KeyToDeposit(Protocol):
    """A key that is to be deposited, in memory or in a token."""

    @property
    def kind(self) -> Kind:
        """What it is."""

    @property
    def spki(self) -> bytes:
        """Public half; empty for a symmetric key."""

    @property
    def only_opens(self) -> bool:
        """Whether it does not sign, and has to open a challenge instead."""

    @property
    def identity(self) -> str:
        """What statements call it, in hex: SHA-256 of the public half, or the check value of a symmetric key."""

    def seal(self, key: ManagementKey, about: dict[str, Value]) -> Envelope:
        """An envelope for the management key. Raises BadRequest, EnvelopeInvalid."""

    def is_in(self, opened: bytes) -> bool:
        """Whether what came out of the envelope is this key."""

    def prove(self, text: bytes, challenged: VaultChallenged) -> Proof | None:
        """That the depositor has it; None for a symmetric key."""


@dataclass(frozen=True, slots=True)
class PrivateKeyInMemory:
    """A private key from a file, or one that was just made."""

    brought: PrivateKeyToDeposit
    kind: Kind = Kind.PRIVATE_KEY

    @property
    def spki(self) -> bytes:
        return self.brought.spki

    @property
    def only_opens(self) -> bool:
        return isinstance(self.brought.private, x25519.X25519PrivateKey)

    @property
    def identity(self) -> str:
        return sha256(self.spki).hexdigest()

    def seal(self, key: ManagementKey, about: dict[str, Value]) -> Envelope:
        return key.seal_private_key(self.brought.pkcs8, about)

    def is_in(self, opened: bytes) -> bool:
        return opened == self.brought.pkcs8

    def prove(self, text: bytes, challenged: VaultChallenged) -> Proof:
        private = self.brought.private
        if isinstance(private, x25519.X25519PrivateKey):
            return answer_possession(open_possession(challenged.possession, challenged.nonce, private), text)
        return sign_possession(private, text)


@dataclass(frozen=True, slots=True)
class SecretInMemory:
    """A symmetric key."""

    secret: bytes = field(repr=False)
    kind: Kind = Kind.SECRET_KEY
    spki: bytes = b""
    only_opens: bool = False

    @property
    def identity(self) -> str:
        return key_check(self.secret)

    def seal(self, key: ManagementKey, about: dict[str, Value]) -> Envelope:
        return key.seal_secret_key(self.secret, about)

    def is_in(self, opened: bytes) -> bool:
        return opened == self.secret

    def prove(self, text: bytes, challenged: VaultChallenged) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Deposit:
    """What is sent, but for the proofs."""

    statement: RecordStatement
    text: bytes
    signature: bytes
    envelope: bytes = field(repr=False)


def prepare(
    key: ManagementKey, content: KeyToDeposit, record: str, version: int, terms: Terms, now: datetime
) -> Deposit:
    """Seal and state a key. Raises BadRequest if the management key does not open what is sealed to it, EnvelopeInvalid."""
    envelope = content.seal(key, deposit_about(key.statement.owner, record, version))
    if not content.is_in(key.open(envelope)):
        raise BadRequest(
            "the management key does not open what is sealed to it; nothing was deposited: make a new management key"
        )
    encoded = envelope.encode()
    statement = RecordStatement(
        owner=key.statement.owner,
        record=record,
        version=version,
        number=1,
        previous="",
        stated_at=format_time(now),
        kind=content.kind,
        key=content.identity,
        suite=envelope.header.suite,
        envelope=sha256(encoded).hexdigest(),
        management=key.statement.digest.hex(),
        **terms.members(),  # type: ignore[arg-type]
    )
    text = statement.encode()
    return Deposit(statement, text, key.sign(Signed.RECORD, text), encoded)


def put(
    prover: Prover, seen: Seen, content: KeyToDeposit, record: str, terms: Terms, now: datetime
) -> tuple[RecordStatement, VaultDeposited]:
    """Deposit a key as the next version of a record, or as the first one of a new record. Raises HsmdError, OSError."""
    version = next_version(prover.daemon, record)
    deposit = prepare(prover.key, content, record, version, terms, now)

    def request(challenged: VaultChallenged) -> VaultPut:
        possession = _possession(prover, content, deposit.statement, challenged)
        return VaultPut(
            deposit.text,
            deposit.signature,
            deposit.envelope,
            content.spki,
            possession_kind="" if possession is None else possession.kind.value,
            possession=b"" if possession is None else possession.value,
        )

    sealed_to = content.spki if content.only_opens else b""
    answer: VaultDeposited = prover.complete(VaultPut, request, record, version, sealed_to)
    learn(seen, deposit.statement)
    return deposit.statement, answer


def next_version(daemon: Daemon, record: str) -> int:
    """The number of the version that would be deposited next. Raises HsmdError."""
    try:
        found = daemon.control(VaultShow(record, limit=1)).versions
    except NotFound:
        return 1
    return 1 + max((each.version for each in found), default=0)


def _possession(
    prover: Prover, content: KeyToDeposit, statement: RecordStatement, challenged: VaultChallenged
) -> Proof | None:
    if not content.spki:
        return None
    text = possession_text(
        challenged.daemon,
        prover.daemon.channel_binding,
        statement.owner,
        statement.record,
        statement.version,
        statement.key,
        challenged.nonce,
    )
    return content.prove(text, challenged)
