"""Proofs of requests: a challenge of the daemon, and the management key's answer to it on the same connection."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import msgspec

from hsmd.envelopes.vault.proofs import (
    Proof,
    ProofContext,
    ProofKind,
    answer_challenge,
    checked_challenge,
    request_digest,
)
from hsmd.envelopes.vault.signing import Kind
from hsmd.errors import Overloaded
from hsmd.holder.management_keys import ManagementKey
from hsmd.protocol.messages import Request, VaultChallenge, VaultChallenged, VaultProof, proved_members

PATIENCE_S = 30.0
"""Challenges are good for a minute."""


class Daemon(Protocol):
    """What is needed of a connection: `hsmd.client.Client` has it."""

    def control(self, request: Request, *, timeout_s: float = ...) -> Any:
        """The result of a request. Raises HsmdError."""

    @property
    def channel_binding(self) -> bytes:
        """What names the connection to both its ends."""


class Patient:
    """A daemon that is asked again while it says that it is asked too often.

    The changes that a client makes are limited in a second; a replacement makes more. What is refused so was not begun, and
    its challenge was not taken.
    """

    def __init__(self, daemon: Daemon, sleep: Callable[[float], None] = time.sleep) -> None:
        self._daemon = daemon
        self._sleep = sleep

    def control(self, request: Request, **options: float) -> Any:
        """The result of a request. Raises HsmdError; Overloaded after PATIENCE_S seconds of waiting."""
        waited_s = 0.0
        while True:
            try:
                return self._daemon.control(request, **options)
            except Overloaded as error:
                pause_s = max(error.retry_after_ms, 1) / 1000
                waited_s += pause_s
                if waited_s > PATIENCE_S:
                    raise
                self._sleep(pause_s)

    @property
    def channel_binding(self) -> bytes:
        """What names the connection to both its ends."""
        return self._daemon.channel_binding


R = TypeVar("R", bound=Request)
Complete = Callable[[VaultChallenged], R]
"""Makes the request, once its challenge is known."""


class Prover:
    """Proves requests of one owner over one connection.

    With `opened` the wrapping key proves, by opening the challenge; otherwise the signing key signs.
    """

    def __init__(self, daemon: Daemon, key: ManagementKey, *, opened: bool = False) -> None:
        self.daemon = daemon
        self.key = key
        self._opened = opened

    def ask(self, request: Request, record: str = "", version: int = 0) -> Any:
        """The result of a request that is proven. `record` and `version`: those that it names. Raises HsmdError."""
        return self.complete(type(request), lambda _: request, record, version)

    def complete(
        self, kind: type[Request], make: Complete[Request], record: str, version: int, spki: bytes = b""
    ) -> Any:
        """As `ask`, for a request that depends on its challenge; `spki`: a key that the challenge is to be sealed to, too."""
        challenge = VaultChallenge(
            verb=verb_of(kind),
            record=record,
            version=version,
            open=self._opened,
            suite=self.key.suite if self._opened else "",
            key=spki,
        )
        challenged: VaultChallenged = self.daemon.control(challenge)
        request = make(challenged)
        proof = self._proof(challenged, request, record, version)
        return self.daemon.control(msgspec.structs.replace(request, proof=proof))

    def _proof(self, challenged: VaultChallenged, request: Request, record: str, version: int) -> VaultProof:
        context = context_of(self.daemon, challenged, self.key, request, record, version)
        if self._opened:
            return opened_proof(challenged, self.key, context)
        return _sent(challenged, Proof(ProofKind.SIGNATURE, self.key.sign(Kind.PROOF, context.text())))


def prove_wrapping(daemon: Daemon, key: ManagementKey, request: Request) -> VaultProof | None:
    """A proof of `request` by the wrapping key of a management key that is about to be registered; None for a symmetric one.

    Raises HsmdError.
    """
    if key.statement.wrapping_key is None:
        return None
    challenge = VaultChallenge(
        verb=verb_of(type(request)), open=True, wrapping=key.statement.wrapping, suite=key.suite
    )
    challenged: VaultChallenged = daemon.control(challenge)
    return opened_proof(challenged, key, context_of(daemon, challenged, key, request, "", 0))


def context_of(
    daemon: Daemon,
    challenged: VaultChallenged,
    key: ManagementKey,
    request: Request,
    record: str,
    version: int,
) -> ProofContext:
    """What a proof of this request is about."""
    return ProofContext(
        daemon=challenged.daemon,
        binding=daemon.channel_binding,
        owner=key.statement.owner,
        verb=verb_of(type(request)),
        record=record,
        version=version,
        request=request_digest(proved_members(request)),
        nonce=challenged.nonce,
    )


def opened_proof(challenged: VaultChallenged, key: ManagementKey, context: ProofContext) -> VaultProof:
    """The answer of a wrapping key. Raises EnvelopeInvalid, before the key is used, for an envelope that is no challenge."""
    secret = key.open(checked_challenge(challenged.opened, challenged.nonce))
    return _sent(challenged, answer_challenge(secret, context))


def verb_of(kind: type[Request]) -> str:
    """The operation of a request, such as `vault.get`."""
    return str(kind.__struct_config__.tag)


def _sent(challenged: VaultChallenged, proof: Proof) -> VaultProof:
    return VaultProof(challenged.nonce, proof.kind.value, proof.value)
