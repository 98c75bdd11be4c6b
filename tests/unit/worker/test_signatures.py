"""Raw signatures of a token converted to the encodings of TLS."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given, strategies as st

from hsmd.algorithms import SignatureScheme
from hsmd.daemon.worker.signatures import FaultySignature, checked_size, ecdsa_signature, verifier
from hsmd.pkcs11.public_keys import PublicHalf

SIZES = st.sampled_from([32, 48, 66])


@given(SIZES.flatmap(lambda size: st.tuples(st.just(size), *[st.integers(1, 256**size - 1)] * 2)))
def test_ecdsa_signatures_are_encoded_as_by_cryptography(case: tuple[int, int, int]) -> None:
    size, r, s = case
    raw = r.to_bytes(size, "big") + s.to_bytes(size, "big")
    assert ecdsa_signature(raw, size) == encode_dss_signature(r, s)


@pytest.mark.parametrize("size", [32, 48, 66])
@pytest.mark.parametrize("r", [1, 0x7F, 0x80, 0xFF, 0x100])
def test_ecdsa_signatures_are_encoded_at_the_limits(size: int, r: int) -> None:
    top = 256**size - 1
    for pair in ((r, top), (top, r), (r, r), (top, top), (top >> 1, top >> 1)):
        raw = b"".join(number.to_bytes(size, "big") for number in pair)
        assert decode_dss_signature(ecdsa_signature(raw, size)) == pair


@pytest.mark.parametrize(
    "raw", [b"", bytes(64), bytes(32) + b"\x01" * 32, b"\x01" * 32 + bytes(32), b"\x01" * 63, b"\x01" * 65]
)
def test_an_invalid_ecdsa_signature_is_not_returned(raw: bytes) -> None:
    with pytest.raises(FaultySignature):
        ecdsa_signature(raw, 32)


def test_a_signature_of_another_length_is_not_returned() -> None:
    assert checked_size(b"x" * 64, 64) == b"x" * 64
    with pytest.raises(FaultySignature):
        checked_size(b"x" * 63, 64)


def flipped(signature: bytes) -> bytes:
    return signature[:-1] + bytes([signature[-1] ^ 1])


def test_a_flipped_bit_is_found() -> None:
    digest = bytes(range(32))
    rsa_key = rsa.generate_private_key(65537, 2048)
    pss = padding.PSS(padding.MGF1(SHA256()), 32)
    ec_key = ec.generate_private_key(ec.SECP256R1())
    ed_key = ed25519.Ed25519PrivateKey.generate()
    cases = [
        (
            rsa_key,
            SignatureScheme.RSA_PKCS1_SHA256,
            rsa_key.sign(digest, padding.PKCS1v15(), Prehashed(SHA256())),
        ),
        (rsa_key, SignatureScheme.RSA_PSS_SHA256, rsa_key.sign(digest, pss, Prehashed(SHA256()))),
        (ec_key, SignatureScheme.ECDSA_SHA256, ec_key.sign(digest, ec.ECDSA(Prehashed(SHA256())))),
        (ed_key, SignatureScheme.ED25519, ed_key.sign(digest)),
    ]
    for private, scheme, signature in cases:
        half = PublicHalf.of(private.public_key())
        assert half is not None
        check = verifier(half, scheme)
        check(signature, digest)
        with pytest.raises(FaultySignature):
            check(flipped(signature), digest)
        with pytest.raises(FaultySignature):
            check(signature, flipped(digest))
