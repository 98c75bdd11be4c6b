"""What the headers of the vault's envelopes say they are for (`about`).

Whoever opens an envelope compares this first, so that a deposit is never taken for a challenge, nor the reverse.
"""

from __future__ import annotations

from collections.abc import Mapping

from hsmd.envelopes.canonical_json import Value
from hsmd.envelopes.header import Header
from hsmd.errors import EnvelopeInvalid

DEPOSIT = "vault-deposit"
CHALLENGE = "vault-challenge"
POSSESSION = "vault-possession"


def deposit_about(owner: str, record: str, version: int) -> dict[str, Value]:
    """Of the envelope with a deposited key."""
    return {"purpose": DEPOSIT, "owner": owner, "record": record, "version": version}


def challenge_about(nonce: bytes) -> dict[str, Value]:
    """Of the envelope with the secret of a challenge, sealed to a management key."""
    return {"purpose": CHALLENGE, "nonce": nonce.hex()}


def possession_about(nonce: bytes) -> dict[str, Value]:
    """Of the same, sealed to the key that is deposited."""
    return {"purpose": POSSESSION, "nonce": nonce.hex()}


def check_about(header: Header, expected: Mapping[str, Value]) -> None:
    """Raises EnvelopeInvalid unless the header says exactly this."""
    if dict(header.about) != dict(expected):
        raise EnvelopeInvalid(
            f"envelope: it is not for {expected['purpose']}, or for another one than this (about in its header)"
        )
