"""A daemon's vault in memory, for tests of the owner's side: it verifies what a daemon verifies, and can be made to lie."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hsmd.envelopes.header import Suite
from hsmd.envelopes.recipients import PublicKey
from hsmd.envelopes.vault import proofs
from hsmd.envelopes.vault.answers import KIND, Answer, Verdict
from hsmd.envelopes.vault.fields import format_time, parse_time
from hsmd.envelopes.vault.life_cycle import Facts, Standing, judge
from hsmd.envelopes.vault.management_keys import (
    ManagementKeyStatement,
    SignedManagementKey,
    WrappingSuite,
    wrapping_key,
)
from hsmd.envelopes.vault.proofs import Proof, ProofContext, ProofKind
from hsmd.envelopes.vault.public_keys import type_name
from hsmd.envelopes.vault.records import (
    DESTROY,
    LIMITS,
    REVOKE,
    REWRAP,
    RecordStanding,
    RecordStatement,
    SignedStatement,
    check_envelope,
    follows,
)
from hsmd.errors import BadRequest, Conflict, HsmdError, NotFound, Refused
from hsmd.protocol import messages
from hsmd.protocol.messages import Done, Request, vault_checks, vault_keys, vault_records, vault_rekey
from hsmd.protocol.messages.vault_types import VaultProof, VaultVersion, proved_members
from hsmd.transparency.note import Verifier, signed, to_be_signed
from hsmd.transparency.statement import Statement, signer_of

DAEMON = "hsm-1"
CLIENT = "web"
_SUITES = {
    WrappingSuite.RSA: Suite.RSA_OAEP_SHA256_KWP,
    WrappingSuite.P256: Suite.HPKE_P256,
    WrappingSuite.X25519: Suite.HPKE_X25519,
    WrappingSuite.HYBRID: Suite.HPKE_MLKEM768_X25519,
}


@dataclass
class Version:
    """One version of a record."""

    statements: list[tuple[bytes, bytes]]
    envelope: bytes
    spki: bytes
    requests: int = 0
    released: int = 0
    suspended: bool = False
    held: bool = False

    @property
    def head(self) -> RecordStatement:
        return RecordStatement.decode(self.statements[-1][0])


@dataclass
class Challenge:
    verb: str
    record: str
    version: int
    secret: bytes = b""
    possession: bytes = b""


@dataclass
class FakeVault:
    """Answers requests of one owner; `asked` has them all. `alter` may change each result before it is returned."""

    owner: str = "anna"
    now: datetime = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    channel_binding: bytes = b"session-1"
    keys: list[vault_keys.ManagementKeyInfo] = field(default_factory=list)
    versions: dict[tuple[str, int], Version] = field(default_factory=dict)
    challenges: dict[bytes, Challenge] = field(default_factory=dict)
    asked: list[Request] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)
    checkers: bool = False
    alter: Any = None
    fail_after: int = -1
    """How many further requests are answered; then it raises ConnectionError, as for a lost connection. -1: all."""
    signer: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    # --- the interface of hsmd.client.Client ---

    def control(self, request: Request, *, timeout_s: float = 15.0) -> Any:
        if self.fail_after == 0:
            raise ConnectionError("lost")
        self.fail_after -= self.fail_after > 0
        request = messages.decode_request(messages.encode_request(request))
        self.asked.append(request)
        name = str(type(request).__struct_config__.tag).replace(".", "_").replace("-", "_")
        answer = getattr(self, "on_" + name)(request)
        return self.alter(request, answer) if self.alter else answer

    def close(self) -> None:
        """Nothing to close."""

    def on_statement_keys(self, request: messages.StatementKeys) -> messages.StatementKeyList:
        key = messages.StatementKey("statement", "signs", "key", [self.verifier.vkey])
        return messages.StatementKeyList([key], [])

    def on_events_read(self, request: messages.EventsRead) -> messages.EventPage:
        event = messages.Event("5f3a9c1e.1", "vault.expiring", "anna/www", self.now, {"version": 1})
        return messages.EventPage([event], "", "5f3a9c1e.1")

    @property
    def verifier(self) -> Verifier:
        """What verifies its statements."""
        return Verifier.from_public_key(signer_of(DAEMON), self.signer.public_key())

    # --- management keys ---

    @property
    def active(self) -> ManagementKeyStatement:
        found = next((key for key in self.keys if key.state == "active"), None)
        if found is None:
            raise Refused
        return ManagementKeyStatement.decode(found.text)

    def on_vault_challenge(self, request: vault_keys.VaultChallenge) -> vault_keys.VaultChallenged:
        nonce = os.urandom(32)
        made = Challenge(request.verb, request.record, request.version)
        opened = possession = b""
        if request.open:
            made.secret = os.urandom(32)
            recipient, suite = self._recipient(request.wrapping)
            wanted = Suite(request.suite) if request.suite else suite
            opened = proofs.seal_challenge(made.secret, nonce, recipient, wanted)
        if request.key:
            made.possession = os.urandom(32)
            possession = proofs.seal_possession(made.possession, nonce, request.key)
        self.challenges[nonce] = made
        return vault_keys.VaultChallenged(nonce, DAEMON, 60, opened, possession)

    def _recipient(self, wrapping: bytes) -> tuple[PublicKey, Suite]:
        if not wrapping:
            key = self.active.wrapping_key
            assert key is not None
            return key, _SUITES[self.active.suite]
        for suite in WrappingSuite:
            try:
                key = wrapping_key(suite, wrapping)
            except HsmdError:
                continue
            if key is not None:
                return key, _SUITES[suite]
        raise BadRequest("wrapping: unknown")

    def proven(
        self,
        request: Any,
        proof: VaultProof | None,
        record: str = "",
        version: int = 0,
        key: ManagementKeyStatement | None = None,
    ) -> Challenge:
        """The challenge that a proof answers, which is used up."""
        challenge = self.challenges.pop(proof.nonce, None) if proof else None
        verb = str(type(request).__struct_config__.tag)
        if (
            proof is None
            or challenge is None
            or (challenge.verb, challenge.record, challenge.version) != (verb, record, version)
        ):
            raise Refused
        if any(each.held for each in self.keys if each.state == "active") and key is None:
            raise Refused
        context = ProofContext(
            DAEMON, self.channel_binding, self.owner, verb, record, version,
            proofs.request_digest(proved_members(request)), proof.nonce,
        )  # fmt: skip
        given = Proof(ProofKind(proof.kind), proof.value)
        if given.kind is ProofKind.OPENED:
            proofs.verify_opened(given, context, challenge.secret)
        else:
            proofs.verify_signature(given, context, (key or self.active).signing_key)
        return challenge

    def on_vault_register(self, request: vault_keys.VaultRegister) -> vault_keys.VaultRegistered:
        statement = SignedManagementKey(request.text, request.signature).verify_own()
        if statement.wrapping_key is not None:
            self.proven(request, request.wrapping_proof)
        expected = max((key.number for key in self.keys if key.state != "pending"), default=0) + 1
        if statement.owner != self.owner or statement.number != expected:
            raise Conflict(f"text: the next management key has the number {expected}")
        self.keys = [key for key in self.keys if key.state != "pending"]
        self.keys.insert(0, self._info(statement, "pending", request.signature))
        return vault_keys.VaultRegistered("pending", statement.fingerprint)

    def _info(
        self, statement: ManagementKeyStatement, state: str, signature: bytes, succession: bytes = b""
    ) -> vault_keys.ManagementKeyInfo:
        return vault_keys.ManagementKeyInfo(
            statement.number,
            state,
            statement.fingerprint,
            statement.encode(),
            signature,
            self.now,
            succession,
        )

    def on_vault_confirm(self, request: vault_keys.VaultConfirm) -> Done:
        for key in self.keys:
            if key.held and key.fingerprint == request.fingerprint:
                key.held = False
                return Done(changed=True)
        if (
            not self.keys
            or self.keys[0].fingerprint != request.fingerprint
            or self.keys[0].state != "pending"
        ):
            raise NotFound("fingerprint: no such management key waits")
        for key in self.keys[1:]:
            key.state = "lost"
        self.keys[0].state = "active"
        return Done()

    def on_vault_keys(self, request: vault_keys.VaultKeys) -> vault_keys.ManagementKeyList:
        older = [key for key in self.keys if not request.before or key.number < request.before]
        return vault_keys.ManagementKeyList(older[: request.limit], len(older) > request.limit)

    # --- records ---

    def on_vault_put(self, request: vault_records.VaultPut) -> vault_records.VaultDeposited:
        statement = SignedStatement(request.text, request.signature).verify(self.active.signing_key)
        place = (statement.record, statement.version)
        challenge = self.proven(request, request.proof, *place)
        check_envelope(statement, request.envelope, self.active)
        if request.public:
            assert request.proof is not None
            text = proofs.possession_text(
                DAEMON, self.channel_binding, self.owner, *place, statement.key, request.proof.nonce
            )
            proof = Proof(ProofKind(request.possession_kind), request.possession)
            proofs.verify_possession(proof, text, request.public, challenge.possession)
        if place in self.versions or statement.version != 1 + len(self._of(statement.record)):
            raise Conflict("text: not the next version")
        self.versions[place] = Version([(request.text, request.signature)], request.envelope, request.public)
        return vault_records.VaultDeposited(*place)

    def _of(self, record: str) -> list[int]:
        return sorted((version for name, version in self.versions if name == record), reverse=True)

    def _found(self, record: str, version: int) -> Version:
        known = self._of(record)
        if not known or (version and version not in known):
            raise NotFound(f"record: there is no {record!r}, or it has no such version")
        return self.versions[record, version or known[0]]

    def judged(self, version: Version) -> Standing:
        head = version.head
        return judge(
            Facts(
                standing=head.standing,
                compromised=bool(head.compromised_at),
                suspended=version.suspended,
                held=version.held,
                not_before=parse_time(head.not_before) if head.not_before else None,
                not_after=parse_time(head.not_after) if head.not_after else None,
                mode=head.mode,
                max_uses=head.max_uses,
                released=version.released,
                superseded=self._of(head.record)[0] != head.version,
            ),
            self.now,
        )

    def on_vault_get(self, request: vault_records.VaultGet) -> vault_records.VaultAcquired:
        self.proven(request, request.proof, request.record, request.version)
        version = self._found(request.record, request.version)
        version.requests += 1
        standing = self.judged(version)
        if not standing.acquirable:
            raise Conflict(f"{request.record}: {standing.why}")
        version.released += 1
        head, (text, signature) = version.head, version.statements[-1]
        return vault_records.VaultAcquired(
            head.record, head.version, version.envelope, text, signature, version.requests, version.released,
            self.judged(version).uses_left, public=version.spki,
        )  # fmt: skip

    def shown(self, version: Version) -> VaultVersion:
        head, standing = version.head, self.judged(version)
        return VaultVersion(
            head.record, head.version, head.kind, head.key, standing.state, self.now, head.number, head.suite, head.management,
            reason=standing.reason, newest=self._of(head.record)[0] == head.version, mode=head.mode,
            not_before=parse_time(head.not_before) if head.not_before else None,
            not_after=parse_time(head.not_after) if head.not_after else None,
            max_uses=head.max_uses, requests=version.requests, released=version.released, uses_left=standing.uses_left,
            acquirable=standing.acquirable, key_type=type_name(version.spki) if version.spki else "",
        )  # fmt: skip

    def on_vault_list(self, request: vault_records.VaultList) -> vault_records.VaultPage:
        names = sorted({name for name, _ in self.versions if name > request.after})
        page = [self.shown(self._found(name, 0)) for name in names[: request.limit]]
        return vault_records.VaultPage(page, len(names) > request.limit)

    def on_vault_show(self, request: vault_records.VaultShow) -> vault_records.VaultVersions:
        known = self._of(request.record)
        if not known:
            raise NotFound(f"record: there is no {request.record!r}")
        left = [version for version in known if not request.before or version < request.before]
        page = [self.shown(self.versions[request.record, version]) for version in left[: request.limit]]
        return vault_records.VaultVersions(page, len(left) > request.limit)

    def on_vault_statements(self, request: vault_records.VaultStatements) -> vault_records.VaultStatementPage:
        made = [
            vault_records.SignedRecord(RecordStatement.decode(text).number, text, signature)
            for text, signature in self._found(request.record, request.version).statements
        ]
        made = [each for each in made if each.number > request.after]
        page = made[: request.limit]
        return vault_records.VaultStatementPage(page, len(made) > request.limit)

    # --- changes ---

    def _changed(self, request: Any, changes: frozenset[str]) -> Version:
        statement = SignedStatement(request.text, request.signature).verify(self.active.signing_key)
        self.proven(request, request.proof, statement.record, statement.version)
        version = self._found(statement.record, statement.version)
        if statement.previous != version.head.digest.hex():
            raise Conflict(f"the newest statement is number {version.head.number} now")
        follows(version.head, _next(version, statement) if version.held else statement, changes)
        version.statements.append((request.text, request.signature))
        return version

    def on_vault_limits(self, request: vault_records.VaultLimits) -> Done:
        self._changed(request, LIMITS).held = False
        return Done()

    def on_vault_revoke(self, request: vault_records.VaultRevoke) -> Done:
        self._changed(request, REVOKE)
        return Done()

    def on_vault_destroy(self, request: vault_records.VaultDestroy) -> Done:
        self._changed(request, DESTROY).envelope = b""
        return Done()

    def on_vault_suspend(self, request: vault_records.VaultSuspend) -> Done:
        self._found(request.record, request.version).suspended = True
        return Done()

    def on_vault_resume(self, request: vault_records.VaultResume) -> Done:
        self.proven(request, request.proof, request.record, request.version)
        self._found(request.record, request.version).suspended = False
        return Done()

    # --- replacement ---

    def on_vault_rekey_begin(self, request: vault_rekey.VaultRekeyBegin) -> vault_keys.VaultRegistered:
        old = self.active
        statement = SignedManagementKey(
            request.text, request.signature, request.succession
        ).verify_succession(old)
        self.proven(request, request.proof)
        if statement.wrapping_key is not None:
            self.proven(request, request.wrapping_proof)
        for key in self.keys:
            key.state = "replaced" if key.state == "active" else key.state
        self.keys.insert(0, self._info(statement, "active", request.signature, request.succession))
        return vault_keys.VaultRegistered("active", statement.fingerprint)

    def on_vault_rekey_list(self, request: vault_rekey.VaultRekeyList) -> vault_rekey.VaultRekeyPage:
        self.proven(request, request.proof)
        record, _, number = request.after.partition("/")
        left = [
            vault_rekey.VaultSealed(*place, version.envelope, *version.statements[-1])
            for place, version in sorted(self.versions.items())
            if version.head.standing is not RecordStanding.DESTROYED
            and version.head.management != self.active.digest.hex()
            and place > (record, int(number or 0))
        ]
        return vault_rekey.VaultRekeyPage(left[: request.limit], len(left) > request.limit)

    def on_vault_rekey_wrap(self, request: vault_rekey.VaultRekeyWrap) -> Done:
        version = self._changed(request, REWRAP)
        check_envelope(version.head, request.envelope, self.active)
        version.envelope = request.envelope
        return Done()

    def on_vault_rekey_finish(self, request: vault_rekey.VaultRekeyFinish) -> Done:
        self.proven(request, request.proof)
        live = [
            each.head for each in self.versions.values() if each.head.standing is not RecordStanding.DESTROYED
        ]
        if any(head.management != self.active.digest.hex() for head in live):
            raise Conflict("a deposit is still wrapped for the management key before")
        for key in self.keys:
            key.state = "retired" if key.state == "replaced" else key.state
        return Done()

    # --- checks ---

    def on_vault_allow(self, request: vault_checks.VaultAllow) -> Done:
        self.proven(request, request.proof)
        self.checkers |= request.checkers
        self.allowed += [request.client] * bool(request.client)
        return Done()

    def on_vault_disallow(self, request: vault_checks.VaultDisallow) -> Done:
        self.proven(request, request.proof)
        self.checkers &= not request.checkers
        self.allowed = [client for client in self.allowed if client != request.client]
        return Done()

    def on_vault_allowed(self, request: vault_checks.VaultAllowed) -> vault_checks.VaultAllowedList:
        return vault_checks.VaultAllowedList(sorted(self.allowed), self.checkers)

    def on_vault_checks(self, request: vault_checks.VaultChecks) -> vault_checks.VaultCheckPage:
        made = vault_checks.VaultCheckSum(CLIENT, "www", "match", "2030-01-02", 3, self.now)
        return vault_checks.VaultCheckPage([made])

    def on_vault_check(self, request: vault_checks.VaultCheck) -> vault_checks.VaultChecked:
        return vault_checks.VaultChecked(self.note(self.answer(request)))

    def answer(self, request: vault_checks.VaultCheck) -> Answer:
        from hashlib import sha256

        digest = sha256(request.key).hexdigest()
        asked = (CLIENT, request.owner, digest, request.nonce.hex())
        at = format_time(self.now)
        if request.owner != self.owner or CLIENT not in self.allowed:
            return Answer(*asked, Verdict.NO_ANSWER, at)
        for (record, number), version in sorted(self.versions.items(), reverse=True):
            if version.spki == request.key and request.record in ("", record):
                standing, newest = self.judged(version), self._of(record)[0] == number
                return Answer(
                    *asked, Verdict.MATCH if newest else Verdict.MATCH_PREVIOUS, at, record, number, standing.state,
                    standing.reason, version.head.not_before, version.head.not_after, standing.uses_left, standing.usable,
                )  # fmt: skip
        return Answer(*asked, Verdict.MISMATCH, at)

    def note(self, answer: Answer, kind: str = KIND) -> str:
        text = Statement(kind, DAEMON, answer.lines()).text()
        return signed(text, self.verifier, [self.signer.sign(to_be_signed(text))]).render()

    # --- for tests ---

    def register(self, key: Any) -> None:
        """Make a management key the active one, without requests."""
        self.keys.insert(0, self._info(key.statement, "active", key.signed.signature, key.signed.succession))

    def struct(self, record: str, version: int = 1) -> Version:
        return self.versions[record, version]


def _next(version: Version, statement: RecordStatement) -> RecordStatement:
    """The statement with the next number: a restored store may lack statements that the owner has seen."""
    if statement.number <= version.head.number:
        raise Conflict("text: number is not greater")
    return dataclasses.replace(statement, number=version.head.number + 1)
