"""Gives challenges out: a nonce, and secrets sealed to the keys that shall prove themselves by opening them."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import NamedTuple

from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.vault import prices
from hsmd.daemon.front.vault.challenges import LIFE_S, NOTHING_SEALED, Challenges, Use, new_nonce, new_secret
from hsmd.daemon.front.vault.proofs import Proofs
from hsmd.envelopes.header import Suite
from hsmd.envelopes.recipients import PublicKey
from hsmd.envelopes.vault.management_keys import WrappingSuite, wrapping_key
from hsmd.envelopes.vault.proofs import seal_challenge, seal_possession
from hsmd.envelopes.vault.public_keys import canonical_spki
from hsmd.errors import BadRequest, Conflict, EnvelopeInvalid
from hsmd.protocol import messages
from hsmd.protocol.messages.vault_keys import VaultChallenge, VaultChallenged
from hsmd.protocol.messages.vault_types import UNPROVED

_DEFAULTS = {
    WrappingSuite.HYBRID: Suite.HPKE_MLKEM768_X25519,
    WrappingSuite.RSA: Suite.RSA_OAEP_SHA256_KWP,
    WrappingSuite.P256: Suite.HPKE_P256,
    WrappingSuite.X25519: Suite.HPKE_X25519,
}


class _Wrapping(NamedTuple):
    """A wrapping key to seal to."""

    kind: WrappingSuite
    key: PublicKey
    recipient: bytes


class Challenger:
    """Seals in the event loop: a sealing costs less than a millisecond, and its client pays for it."""

    def __init__(self, *, daemon: str, challenges: Challenges, proofs: Proofs) -> None:
        self._daemon = daemon
        self._challenges = challenges
        self._proofs = proofs

    async def challenge(self, identity: Identity, request: VaultChallenge) -> VaultChallenged:
        """A challenge for this session. Raises BadRequest, Conflict (nothing can be sealed) or Overloaded."""
        _check_verb(request.verb)
        use = Use.of(identity, request.verb, request.record, request.version)
        self._challenges.check_room(use)
        wrapping = await self._wrapping(identity, request) if request.open else None
        nonce, sealed, opened, possession = new_nonce(), NOTHING_SEALED, b"", b""
        prices.charge(prices.CHALLENGE + prices.SEAL * (bool(wrapping) + bool(request.key)))
        if wrapping is not None:
            sealed = replace(sealed, recipient=wrapping.recipient, secret=new_secret())
            opened = seal_challenge(sealed.secret, nonce, wrapping.key, _suite(wrapping.kind, request.suite))
        if request.key:
            digest = canonical_spki(request.key).digest
            sealed = replace(sealed, key=digest, possession=new_secret())
            possession = seal_possession(sealed.possession, nonce, request.key)
        self._challenges.issue(nonce, use, sealed)
        return VaultChallenged(nonce, self._daemon, int(LIFE_S), opened, possession)

    async def _wrapping(self, identity: Identity, request: VaultChallenge) -> _Wrapping:
        """The wrapping key in the request, or that of the active management key."""
        if request.wrapping:
            return _recognised(request.wrapping)
        active = await self._proofs.active(identity.client)
        if active is None:
            raise Conflict("open: you have no management key that an operator has confirmed")
        statement = active.statement
        key = statement.wrapping_key
        if key is None:
            raise Conflict("open: nothing can be sealed to a symmetric management key; sign the proof")
        return _Wrapping(statement.suite, key, statement.recipient)


def _check_verb(verb: str) -> None:
    request = messages.OPERATIONS.get(verb)
    if not verb.startswith("vault.") or request is None or UNPROVED.isdisjoint(request.__struct_fields__):
        raise BadRequest("verb: not the name of a request of the vault that takes a proof")


def _recognised(wrapping: bytes) -> _Wrapping:
    for kind in _DEFAULTS:
        try:
            key = wrapping_key(kind, wrapping)
        except EnvelopeInvalid:
            continue
        assert key is not None, "no symmetric one is tried"
        return _Wrapping(kind, key, sha256(wrapping).digest())
    raise BadRequest("wrapping: not a public key that a management key can have")


def _suite(kind: WrappingSuite, wanted: str) -> Suite:
    if not wanted:
        return _DEFAULTS[kind]
    if wanted not in kind.suites:
        raise BadRequest(f"suite: a key of the kind {kind} opens {', '.join(sorted(kind.suites))}")
    return Suite(wanted)
