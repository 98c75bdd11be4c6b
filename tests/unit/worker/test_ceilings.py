"""Ceilings: the object in the token that fixes what a key may do."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, strategies as st

from hsmd.daemon.worker import ceilings
from hsmd.pkcs11.public_keys import PublicHalf
from hsmd.purposes import Purpose

P256 = PublicHalf.of(ec.generate_private_key(ec.SECP256R1()).public_key())
assert P256 is not None


def document(**changes: object) -> bytes:
    values = {
        "version": 1, "key": P256.digest.hex(), "cka_id": "3a0f", "purposes": ["tls13-server"],
        "public_key": base64.b64encode(P256.spki).decode(),
    }  # fmt: skip
    return json.dumps({**values, **changes}).encode()


def test_a_ceiling_is_read() -> None:
    ceiling = ceilings.parse(document())
    assert ceiling is not None
    assert (ceiling.half.digest, ceiling.cka_id, ceiling.purposes) == (
        P256.digest,
        b"\x3a\x0f",
        {Purpose.TLS13_SERVER},
    )


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"{}",
        b"[" * 4000,
        b"\xff",
        document(version=2),
        document(key="00" * 32),
        document(key=P256.digest.hex().upper()),
        document(cka_id="3"),
        document(purposes=[]),
        document(purposes=["anything"]),
        document(purposes=["tls12-rsa-premaster"]),
        document(purposes=["tls13-server", "sign-digest"]),
        document(public_key="AAAA"),
        document(extra=1),
    ],
)
def test_other_values_are_not_a_ceiling(value: bytes) -> None:
    assert ceilings.parse(value) is None


@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_as_a_ceiling_or_none(value: bytes) -> None:
    assert ceilings.parse(value) is None
