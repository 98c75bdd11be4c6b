"""Proofs: that the owner of a management key wants this one request, on this connection, now.

What is wrong with a proof is for the audit log only: to the caller all refusals look alike.
"""

from __future__ import annotations

import hmac
from enum import StrEnum
from typing import NoReturn

from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.vault import prices
from hsmd.daemon.front.vault.challenges import Challenge, Challenges, Use
from hsmd.daemon.front.vault.trust import Trust, TrustedKey
from hsmd.envelopes.vault.management_keys import ManagementKeyStatement
from hsmd.envelopes.vault.proofs import (
    Proof,
    ProofContext,
    ProofKind,
    possession_text,
    request_digest,
    verify_opened,
    verify_possession,
    verify_signature,
)
from hsmd.errors import EnvelopeInvalid, ProofInvalid, Refused
from hsmd.protocol.messages import Request
from hsmd.protocol.messages.vault_types import VaultProof, proved_members

REFUSED_EVENT = "vault.refused"


class Fault(StrEnum):
    """Why a proof does not count, as the audit log says it (docs/audit.md)."""

    MISSING = "no-proof"
    NO_KEY = "no-management-key"
    HELD = "held-management-key"
    """The store was restored, and no operator has confirmed the key since."""
    NO_CHALLENGE = "unknown-challenge"
    """It was answered before, its minute is over, or this daemon has not given it out."""
    CONNECTION = "other-connection"
    OWNER = "other-owner"
    VERB = "other-verb"
    RECORD = "other-record"
    KEY = "other-key"
    """The challenge was sealed to another key."""
    WRONG = "wrong-proof"


class Proofs:
    """Checks the proofs of requests; each closes the challenge that it answers."""

    def __init__(
        self, *, daemon: str, challenges: Challenges, cache: SnapshotCache, trust: Trust, audit: AuditLog
    ) -> None:
        self._daemon = daemon
        self._challenges = challenges
        self._cache = cache
        self._trust = trust
        self._audit = audit

    async def check(
        self,
        identity: Identity,
        request: Request,
        proof: VaultProof | None,
        record: str = "",
        version: int = 0,
    ) -> tuple[TrustedKey, Challenge]:
        """The active management key that has proven this request, and the challenge. Raises Refused."""
        prices.charge(prices.PROOF)
        use = Use.of(identity, request.op(), record, version)
        challenge = self._taken(use, proof)
        key = await self.active(identity.client)
        if key is None:
            self._refuse(use, Fault.NO_KEY)
        if key.record.held:
            self._refuse(use, Fault.HELD)
        assert proof is not None, "or there were no challenge"
        self._verify(use, challenge, request, proof, key.statement)
        return key, challenge

    def check_wrapping(
        self,
        identity: Identity,
        request: Request,
        proof: VaultProof | None,
        statement: ManagementKeyStatement,
    ) -> None:
        """Pass if the wrapping key of a statement that is to be registered has opened a challenge. Raises Refused."""
        prices.charge(prices.PROOF)
        use = Use.of(identity, request.op(), "", 0)
        challenge = self._taken(use, proof)
        assert proof is not None, "or there were no challenge"
        if proof.kind != ProofKind.OPENED:
            self._refuse(use, Fault.WRONG)
        self._verify(use, challenge, request, proof, statement)

    def check_possession(
        self,
        identity: Identity,
        proof: Proof,
        challenge: Challenge,
        record: str,
        version: int,
        spki: bytes,
        key: str,
    ) -> None:
        """Pass if the private key of `spki` belongs to who answers the challenge; `key` is its digest in hex. Raises Refused."""
        prices.charge(prices.POSSESSION)
        use = challenge.use
        sealed = challenge.sealed
        secret = sealed.possession if sealed.key.hex() == key else b""
        text = possession_text(
            self._daemon, identity.binding, identity.client, record, version, key, challenge.nonce
        )
        try:
            verify_possession(proof, text, spki, secret)
        except ProofInvalid:
            self._refuse(use, Fault.WRONG, "possession")

    async def active(self, owner: str) -> TrustedKey | None:
        """The active management key of an owner. Raises Altered."""
        await self._trust.ready()
        return await self._cache.read(lambda tx: self._trust.active(tx, owner))

    def _taken(self, use: Use, proof: VaultProof | None) -> Challenge:
        """The challenge that a proof answers, if it was given out for this use."""
        if proof is None:
            self._refuse(use, Fault.MISSING)
        challenge = self._challenges.take(proof.nonce)
        if challenge is None:
            self._refuse(use, Fault.NO_CHALLENGE)
        asked = challenge.use
        if asked.client != use.client:
            self._refuse(use, Fault.OWNER)
        if not hmac.compare_digest(asked.binding, use.binding):
            self._refuse(use, Fault.CONNECTION)
        if asked.verb != use.verb:
            self._refuse(use, Fault.VERB)
        if (asked.record, asked.version) != (use.record, use.version):
            self._refuse(use, Fault.RECORD)
        return challenge

    def _verify(
        self,
        use: Use,
        challenge: Challenge,
        request: Request,
        proof: VaultProof,
        statement: ManagementKeyStatement,
    ) -> None:
        sealed = challenge.sealed
        try:
            made = Proof(ProofKind(proof.kind), proof.value)
            context = ProofContext(
                self._daemon,
                use.binding,
                use.client,
                use.verb,
                use.record,
                use.version,
                request_digest(proved_members(request)),
                challenge.nonce,
            )
            if made.kind is ProofKind.SIGNATURE:
                verify_signature(made, context, statement.signing_key)
            elif sealed.recipient != statement.recipient or not sealed.secret:
                self._refuse(use, Fault.KEY)
            else:
                verify_opened(made, context, sealed.secret)
        except (ProofInvalid, EnvelopeInvalid, ValueError):
            self._refuse(use, Fault.WRONG)

    def _refuse(self, use: Use, fault: Fault, about: str = "proof") -> NoReturn:
        """Note the reason for the log; the dispatcher writes it with the end of the request."""
        named = {"record": use.record} if use.record else {}
        numbered = {"version": use.version} if use.version else {}
        self._audit.event(
            REFUSED_EVENT, use.client, op=use.verb, rule=fault.value, about=about, **named, **numbered
        )
        raise Refused(detail=fault.value)
