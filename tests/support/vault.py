"""An owner for tests: a management key in software, and the requests that it proves. Written beside `hsmd/holder`, not with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import asyncssh
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from hsmd.client import Connection
from hsmd.envelopes import sealing
from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.header import Kind, Suite
from hsmd.envelopes.vault import proofs, signing
from hsmd.envelopes.vault.about import deposit_about
from hsmd.envelopes.vault.answers import Answer
from hsmd.envelopes.vault.fields import format_time
from hsmd.envelopes.vault.management_keys import ManagementKeyStatement, WrappingSuite
from hsmd.envelopes.vault.records import Mode, RecordStanding, RecordStatement
from hsmd.protocol import messages
from hsmd.protocol.messages import Request
from hsmd.protocol.messages.vault_types import proved_members
from hsmd.transparency.note import Note
from hsmd.transparency.statement import parse_text
from tests.support.daemon import OPERATOR, Daemon, public_line

OWNER = "owen"
NONCE = b"n" * 16


def spki_of(key: Any) -> bytes:
    """The SubjectPublicKeyInfo of a private key."""
    der: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der


def pkcs8_of(key: Any) -> bytes:
    """PrivateKeyInfo of a private key."""
    der: bytes = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return der


def new_key() -> ec.EllipticCurvePrivateKey:
    """A transaction key."""
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class Deposit:
    """A version as its owner knows it; `statement` is the newest one."""

    key: Any
    statement: RecordStatement
    envelope: bytes

    @property
    def spki(self) -> bytes:
        return spki_of(self.key)


@dataclass
class Owner:
    """A client with a management key: P-256 signs, and P-256 or X25519 wraps."""

    name: str = OWNER
    suite: WrappingSuite = WrappingSuite.P256
    number: int = 1
    previous: str = ""
    signing: Any = field(default_factory=new_key)
    wrapping: Any = None

    def __post_init__(self) -> None:
        if self.wrapping is None:
            x25519_key = self.suite is WrappingSuite.X25519
            self.wrapping = x25519.X25519PrivateKey.generate() if x25519_key else new_key()
        self.statement = ManagementKeyStatement(
            self.name,
            self.number,
            self.suite,
            spki_of(self.wrapping),
            spki_of(self.signing),
            self.previous,
            format_time(datetime.now(UTC)),
        )

    @property
    def envelope_suite(self) -> Suite:
        return Suite.HPKE_X25519 if self.suite is WrappingSuite.X25519 else Suite.HPKE_P256

    def successor(self) -> Owner:
        """The same owner with the next management key."""
        return Owner(self.name, self.suite, self.number + 1, self.statement.digest.hex())

    def sign(self, kind: signing.Kind, text: bytes) -> bytes:
        return signing.sign(self.signing, kind, text)

    # --- proofs ---

    async def challenge(
        self, connection: Connection, verb: str, record: str = "", version: int = 0, **more: Any
    ) -> messages.VaultChallenged:
        challenged: messages.VaultChallenged = await connection.control(
            messages.VaultChallenge(verb, record, version, **more), timeout_s=10
        )
        return challenged

    def context(
        self,
        connection: Connection,
        challenged: messages.VaultChallenged,
        request: Request,
        record: str = "",
        version: int = 0,
    ) -> proofs.ProofContext:
        digest = proofs.request_digest(proved_members(request))
        binding = connection.channel_binding
        return proofs.ProofContext(
            challenged.daemon, binding, self.name, request.op(), record, version, digest, challenged.nonce
        )

    async def proven(
        self,
        connection: Connection,
        request: Any,
        record: str = "",
        version: int = 0,
        *,
        opened: bool = False,
    ) -> Any:
        """The request with its proof."""
        challenged = await self.challenge(connection, request.op(), record, version, open=opened)
        context = self.context(connection, challenged, request, record, version)
        if opened:
            proof = self.opened(challenged, context)
        else:
            made = proofs.sign_proof(self.signing, context)
            proof = messages.VaultProof(challenged.nonce, made.kind.value, made.value)
        return msgspec.structs.replace(request, proof=proof)

    def opened(
        self, challenged: messages.VaultChallenged, context: proofs.ProofContext
    ) -> messages.VaultProof:
        """The proof by the wrapping key."""
        secret = proofs.open_challenge(challenged.opened, challenged.nonce, self.wrapping)
        made = proofs.answer_challenge(secret, context)
        return messages.VaultProof(challenged.nonce, made.kind.value, made.value)

    async def ask(
        self, connection: Connection, request: Any, record: str = "", version: int = 0, **more: Any
    ) -> Any:
        """Make a request that needs a proof."""
        proven = await self.proven(connection, request, record, version, **more)
        return await connection.control(proven, timeout_s=15)

    # --- management keys ---

    async def register(self, connection: Connection) -> messages.VaultRegistered:
        text = self.statement.encode()
        request = messages.VaultRegister(text, self.sign(signing.Kind.MANAGEMENT_KEY, text))
        registered: messages.VaultRegistered = await connection.control(
            await self.with_wrapping_proof(connection, request), timeout_s=15
        )
        return registered

    async def with_wrapping_proof(self, connection: Connection, request: Any) -> Any:
        challenged = await self.challenge(
            connection, request.op(), open=True, wrapping=self.statement.wrapping
        )
        context = self.context(connection, challenged, request)
        return msgspec.structs.replace(request, wrapping_proof=self.opened(challenged, context))

    async def replace_with(self, connection: Connection, new: Owner) -> messages.VaultRegistered:
        """Begin to replace this management key."""
        text, kind = new.statement.encode(), signing.Kind.MANAGEMENT_KEY
        request = messages.VaultRekeyBegin(text, new.sign(kind, text), self.sign(kind, text))
        request = await new.with_wrapping_proof(connection, request)
        registered: messages.VaultRegistered = await self.ask(connection, request)
        return registered

    # --- records ---

    def seal(self, key: Any, record: str, version: int) -> bytes:
        about = deposit_about(self.name, record, version)
        recipient = self.wrapping.public_key()
        return sealing.seal_private_key(pkcs8_of(key), recipient, self.envelope_suite, about).encode()

    def deposit(self, record: str, version: int = 1, key: Any = None, **limits: Any) -> Deposit:
        """What is put: sealed and stated."""
        key = key or new_key()
        envelope = self.seal(key, record, version)
        statement = RecordStatement(
            owner=self.name,
            record=record,
            version=version,
            number=1,
            previous="",
            stated_at=format_time(datetime.now(UTC)),
            kind=Kind.PRIVATE_KEY,
            key=sha256(spki_of(key)).hexdigest(),
            suite=self.envelope_suite,
            envelope=sha256(envelope).hexdigest(),
            management=self.statement.digest.hex(),
            **limits,
        )
        return Deposit(key, statement, envelope)

    def signed(self, statement: RecordStatement) -> tuple[bytes, bytes]:
        """The text and its signature."""
        text = statement.encode()
        return text, self.sign(signing.Kind.RECORD, text)

    async def put_request(
        self, connection: Connection, deposit: Deposit, possession_by: Any = None
    ) -> messages.VaultPut:
        """The request of a deposit, proven, with the possession of a key that signs."""
        text, signature = self.signed(deposit.statement)
        named = deposit.statement.record, deposit.statement.version
        challenged = await self.challenge(connection, "vault.put", *named)
        possession = proofs.sign_possession(
            possession_by or deposit.key,
            proofs.possession_text(
                challenged.daemon,
                connection.channel_binding,
                self.name,
                *named,
                deposit.statement.key,
                challenged.nonce,
            ),
        )
        request = messages.VaultPut(
            text, signature, deposit.envelope, deposit.spki, possession.kind.value, possession.value
        )
        made = proofs.sign_proof(self.signing, self.context(connection, challenged, request, *named))
        proof = messages.VaultProof(challenged.nonce, made.kind.value, made.value)
        return msgspec.structs.replace(request, proof=proof)

    async def put(
        self, connection: Connection, record: str, version: int = 1, key: Any = None, **limits: Any
    ) -> Deposit:
        deposit = self.deposit(record, version, key, **limits)
        await connection.control(await self.put_request(connection, deposit), timeout_s=15)
        return deposit

    async def get(
        self, connection: Connection, record: str, version: int = 0, **more: Any
    ) -> messages.VaultAcquired:
        acquired: messages.VaultAcquired = await self.ask(
            connection, messages.VaultGet(record, version), record, version, **more
        )
        return acquired

    def open(self, acquired: messages.VaultAcquired) -> bytes:
        """The PrivateKeyInfo that was given out."""
        return sealing.open_envelope(Envelope.decode(acquired.envelope), self.wrapping)

    async def state(
        self, connection: Connection, kind: type[Any], deposit: Deposit, sealed: bytes = b"", **changes: Any
    ) -> None:
        """Sign and send the next statement about a version."""
        older = deposit.statement
        newer = replace(
            older,
            number=older.number + 1,
            previous=older.digest.hex(),
            stated_at=format_time(datetime.now(UTC)),
            **changes,
        )
        request = kind(*self.signed(newer), *([sealed] if sealed else []))
        await self.ask(connection, request, older.record, older.version)
        deposit.statement = newer

    async def limit(self, connection: Connection, deposit: Deposit, **changes: Any) -> None:
        await self.state(connection, messages.VaultLimits, deposit, **changes)

    async def revoke(self, connection: Connection, deposit: Deposit, *, compromised: bool = False) -> None:
        standing = RecordStanding.COMPROMISED if compromised else RecordStanding.REVOKED
        at = format_time(datetime.now(UTC)) if compromised else ""
        await self.state(
            connection, messages.VaultRevoke, deposit, standing=standing, compromised_at=at, reason="test"
        )

    async def destroy(self, connection: Connection, deposit: Deposit) -> None:
        await self.state(
            connection, messages.VaultDestroy, deposit, standing=RecordStanding.DESTROYED, envelope=""
        )

    async def rewrap(self, connection: Connection, deposit: Deposit) -> None:
        """Wrap a deposit of the management key before for this one."""
        envelope = self.seal(deposit.key, deposit.statement.record, deposit.statement.version)
        await self.state(
            connection,
            messages.VaultRekeyWrap,
            deposit,
            envelope,
            management=self.statement.digest.hex(),
            suite=self.envelope_suite,
            envelope=sha256(envelope).hexdigest(),
        )
        deposit.envelope = envelope


def add_client(daemon: Daemon, name: str, *roles: str) -> None:
    """A client with these roles, whose key is beside those of the other clients."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    daemon._write_key(name, key)
    daemon.ask(messages.ClientAdd(name, roles[0], public_line(key), list(roles)))


@asynccontextmanager
async def confirmed_owner(
    daemon: Daemon, name: str = OWNER, **options: Any
) -> AsyncIterator[tuple[Owner, Connection]]:
    """A new owner whose management key an operator has confirmed, and its connection."""
    add_client(daemon, name, "owner")
    owner = Owner(name, **options)
    async with daemon.connection(name) as connection:
        registered = await owner.register(connection)
        await confirm(daemon, name, registered.fingerprint)
        yield owner, connection


async def confirm(daemon: Daemon, owner: str, fingerprint: str) -> None:
    """Confirm a management key as an operator."""
    async with daemon.connection(OPERATOR) as operator:
        await operator.control(messages.VaultConfirm(owner, fingerprint), timeout_s=20)


async def check(connection: Connection, owner: str, spki: bytes, record: str = "") -> Answer:
    """The answer to a check; its signature is not verified here."""
    checked: messages.VaultChecked = await connection.control(
        messages.VaultCheck(owner, spki, NONCE, record), timeout_s=15
    )
    return Answer.from_lines(parse_text(Note.parse(checked.statement).text).lines)


def in_future(**after: float) -> str:
    """A time from now on, as statements have it."""
    return format_time(datetime.now(UTC) + timedelta(**after))


DENY = Mode.DENY
