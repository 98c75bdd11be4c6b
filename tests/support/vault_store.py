"""An owner for tests of the store: states and deposits keys there. Signatures are made up, because the store verifies none."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.daemon.store import Given, ManagementKeyRecord, NotGiven, Stated, StatedKey, Store, VersionRecord
from hsmd.envelopes.header import Kind, Suite
from hsmd.envelopes.vault.fields import format_time
from hsmd.envelopes.vault.management_keys import ManagementKeyStatement, WrappingSuite
from hsmd.envelopes.vault.records import Mode, RecordStanding, RecordStatement
from hsmd.protocol.roles import Role
from tests.support.store import NOW

ORIGIN = "a.example/log"


def management_statement(
    owner: str, number: int = 1, previous: str = "", seed: bytes = b"", at: datetime = NOW
) -> ManagementKeyStatement:
    """A statement about the same two keys for the same owner, number and seed."""
    secret = sha256(f"{owner} {number}".encode() + seed).digest()
    keys = X25519PrivateKey.from_private_bytes(secret), Ed25519PrivateKey.from_private_bytes(secret)
    wrapping, signing = (
        key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in keys
    )
    return ManagementKeyStatement(
        owner, number, WrappingSuite.X25519, wrapping, signing, previous, format_time(at)
    )


def stated_key(statement: ManagementKeyStatement) -> StatedKey:
    return StatedKey(
        statement, statement.encode(), b"own signature", b"" if not statement.previous else b"agreed"
    )


@dataclass
class Owner:
    """A client with the role `owner`, and what it has signed: the newest statement by record and version."""

    store: Store
    name: str = "ann"
    management: ManagementKeyStatement = field(init=False)
    heads: dict[tuple[str, int], RecordStatement] = field(default_factory=dict)

    def enrol(self, now: datetime = NOW) -> Owner:
        """Add the client."""
        self.store.change(lambda tx: tx.clients.add(self.name, frozenset({Role.OWNER}), now))
        return self

    def begin(self, now: datetime = NOW, number: int = 1, seed: bytes = b"") -> ManagementKeyRecord:
        """Register a management key, and let an operator confirm it."""
        statement = management_statement(self.name, number, seed=seed, at=now)
        self.change(lambda tx: tx.vault_keys.register(self.name, stated_key(statement), now))
        self.management = statement
        return self.change(lambda tx: tx.vault_keys.confirm(self.name, statement.digest, "confirmed", now))

    def replace(self, now: datetime = NOW) -> ManagementKeyRecord:
        """Begin to replace the management key."""
        old = self.management
        new = management_statement(self.name, old.number + 1, old.digest.hex(), at=now)
        found = self.change(lambda tx: tx.vault_keys.replace(self.name, stated_key(new), now))
        self.management = new
        return found

    def deposit(
        self, record: str = "web", version: int = 1, *, key: str = "", now: datetime = NOW, **limits: Any
    ) -> RecordStatement:
        """The first statement about a version."""
        spki = self.spki(record, version, key)
        return RecordStatement(
            owner=self.name,
            record=record,
            version=version,
            number=1,
            previous="",
            stated_at=format_time(now),
            kind=Kind.PRIVATE_KEY,
            key=sha256(spki).hexdigest(),
            suite=Suite.HPKE_X25519,
            envelope=sha256(self.envelope(record, version)).hexdigest(),
            management=self.management.digest.hex(),
            **_texts(limits),
        )

    def put(
        self, record: str = "web", version: int = 1, *, key: str = "", now: datetime = NOW, **limits: Any
    ) -> VersionRecord:
        """Deposit a key; `not_before` and `not_after` are times."""
        statement = self.deposit(record, version, key=key, now=now, **limits)
        envelope, spki = self.envelope(record, version), self.spki(record, version, key)
        found = self.change(
            lambda tx: tx.vault_records.put(self.name, self.sign(statement), envelope, spki, now)
        )
        self.heads[record, version] = statement
        return found

    def next(
        self, record: str = "web", version: int = 1, *, now: datetime = NOW, **changes: Any
    ) -> RecordStatement:
        """The statement that follows on the newest one, with changes."""
        head = self.heads[record, version]
        following = {"number": head.number + 1, "previous": head.digest.hex(), "stated_at": format_time(now)}
        return dataclasses.replace(head, **(following | _texts(changes)))

    def limit(
        self, record: str = "web", version: int = 1, *, now: datetime = NOW, **changes: Any
    ) -> VersionRecord:
        """Change limits."""
        statement = self.next(record, version, now=now, **changes)
        found = self.change(lambda tx: tx.vault_records.limit(self.name, self.sign(statement), now))
        return self._stated(statement, found)

    def revoke(
        self, record: str = "web", version: int = 1, *, now: datetime = NOW, **changes: Any
    ) -> VersionRecord:
        """Revoke, or declare compromised."""
        statement = self.next(record, version, now=now, **({"standing": RecordStanding.REVOKED} | changes))
        found = self.change(lambda tx: tx.vault_records.revoke(self.name, self.sign(statement), now))
        return self._stated(statement, found)

    def compromise(self, record: str = "web", version: int = 1, *, now: datetime = NOW) -> VersionRecord:
        """Declare compromised."""
        changes = {"standing": RecordStanding.COMPROMISED, "compromised_at": now}
        return self.revoke(record, version, now=now, **changes)

    def destroy(self, record: str = "web", version: int = 1, *, now: datetime = NOW) -> VersionRecord:
        """Destroy."""
        statement = self.next(record, version, now=now, standing=RecordStanding.DESTROYED, envelope="")
        found = self.change(lambda tx: tx.vault_records.destroy(self.name, self.sign(statement), now))
        return self._stated(statement, found)

    def rewrap(self, record: str = "web", version: int = 1, *, now: datetime = NOW) -> VersionRecord:
        """Wrap for the present management key."""
        envelope = self.envelope(record, version)
        changes = {"management": self.management.digest.hex(), "envelope": sha256(envelope).hexdigest()}
        statement = self.next(record, version, now=now, **changes)
        found = self.change(
            lambda tx: tx.vault_records.rewrap(self.name, self.sign(statement), envelope, now)
        )
        return self._stated(statement, found)

    def get(
        self,
        record: str = "web",
        version: int = 0,
        *,
        now: datetime = NOW,
        ticket: str = "t",
        origin: str = ORIGIN,
    ) -> Given | NotGiven:
        """Acquire."""
        return self.change(
            lambda tx: tx.vault_acquisitions.count(self.name, record, version, ticket, origin, now)
        )

    def look(self, record: str = "web", version: int = 0) -> VersionRecord:
        return self.store.query(lambda tx: tx.vault_versions.get(self.name, record, version))

    def change(self, action: Any) -> Any:
        return self.store.change(action, versioned=False)

    def sign(self, statement: RecordStatement) -> Stated:
        return Stated(statement, statement.encode(), b"signature", self.management.digest)

    def envelope(self, record: str, version: int) -> bytes:
        """What stands for the envelope of a version, sealed to the present management key."""
        return f"envelope of {self.name}/{record}/{version} for {self.management.digest.hex()}".encode()

    def spki(self, record: str, version: int, key: str = "") -> bytes:
        return f"public half of {key or f'{self.name}/{record}/{version}'}".encode()

    def _stated(self, statement: RecordStatement, found: VersionRecord) -> VersionRecord:
        self.heads[statement.record, statement.version] = statement
        return found


def _texts(members: dict[str, Any]) -> dict[str, Any]:
    """Times as statements have them."""
    texts = {name: format_time(value) for name, value in members.items() if isinstance(value, datetime)}
    modes = {name: Mode(value) for name, value in members.items() if name == "mode"}
    return {name: "" if value is None else value for name, value in members.items()} | texts | modes
